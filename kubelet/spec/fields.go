package spec

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Fields answers the downward API: what a pod may learn about itself.
type Fields struct {
	Pod         *corev1.Pod
	PodIPs      []string
	HostIPs     []string
	Allocatable corev1.ResourceList
}

// Value is the text of a field path such as metadata.labels['app'].
func (f Fields) Value(path string) (string, error) {
	if base, key, ok := subscript(path); ok {
		switch base {
		case "metadata.annotations":
			return f.Pod.Annotations[key], nil
		case "metadata.labels":
			return f.Pod.Labels[key], nil
		}
		return "", fmt.Errorf("fieldPath %q does not support subscript", path)
	}
	switch path {
	case "metadata.annotations":
		return formatMap(f.Pod.Annotations), nil
	case "metadata.labels":
		return formatMap(f.Pod.Labels), nil
	case "metadata.name":
		return f.Pod.Name, nil
	case "metadata.namespace":
		return f.Pod.Namespace, nil
	case "metadata.uid":
		return string(f.Pod.UID), nil
	case "spec.nodeName":
		return f.Pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return f.Pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(f.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.HostIPs, ","), nil
	case "status.podIP":
		return first(f.PodIPs), nil
	case "status.podIPs":
		return strings.Join(f.PodIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func subscript(path string) (base, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "['")
}

func formatMap(m map[string]string) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	lines := make([]string, 0, len(keys))
	for _, k := range keys {
		lines = append(lines, k+"="+strconv.Quote(m[k]))
	}
	return strings.Join(lines, "\n")
}

// Resource is the text of a container's request or limit. What neither the
// container nor its pod limits is limited by what the node has; huge pages,
// which nobody has without a limit, are not.
func (f Fields) Resource(sel *corev1.ResourceFieldSelector, c *corev1.Container) (string, error) {
	if sel.ContainerName != "" && sel.ContainerName != c.Name {
		if c = FindContainer(f.Pod, sel.ContainerName); c == nil {
			return "", fmt.Errorf("container %s not found", sel.ContainerName)
		}
	}
	side, name, ok := strings.Cut(sel.Resource, ".")
	list := c.Resources.Limits
	if side == "requests" {
		list = c.Resources.Requests
	} else if side != "limits" || !ok {
		return "", fmt.Errorf("unsupported container resource : %v", sel.Resource)
	}
	q := list[corev1.ResourceName(name)]
	if side == "limits" && q.IsZero() && !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
		if q = limitOf(f.Pod, c, corev1.ResourceName(name)); q.IsZero() {
			q = f.Allocatable[corev1.ResourceName(name)]
		}
	}
	divisor := sel.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	switch corev1.ResourceName(name) {
	case corev1.ResourceCPU:
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10), nil
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10), nil
	}
	if strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
		return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10), nil
	}
	return "", fmt.Errorf("unsupported container resource : %v", sel.Resource)
}

// FindContainer returns the container of that name, of whatever sort.
func FindContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			return (*corev1.Container)(&e.EphemeralContainerCommon)
		}
	}
	return nil
}

// IsSidecar says that an init container runs on beside the pod's containers.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// PodName is how upstream names a pod in messages: name_namespace(uid).
func PodName(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// FieldPath is how an event names a container of a pod.
func FieldPath(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return fmt.Sprintf("spec.initContainers{%s}", name)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return fmt.Sprintf("spec.ephemeralContainers{%s}", name)
		}
	}
	return fmt.Sprintf("spec.containers{%s}", name)
}
