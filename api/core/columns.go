package core

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

const (
	none    = "<none>"
	unknown = "<unknown>"
)

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func nodeColumns() []api.Column {
	address := func(t corev1.NodeAddressType) func(*corev1.Node) any {
		return func(n *corev1.Node) any {
			for _, a := range n.Status.Addresses {
				if a.Type == t {
					return a.Address
				}
			}
			return none
		}
	}
	info := func(pick func(*corev1.NodeSystemInfo) string) func(*corev1.Node) any {
		return func(n *corev1.Node) any { return orElse(pick(&n.Status.NodeInfo), unknown) }
	}
	return []api.Column{
		api.Col("Status", "string", "The status of the node.", nodeStatus),
		api.Col("Roles", "string", "The roles of the node.", nodeRoles),
		api.AgeColumn(),
		api.Col("Version", "string", "Version of the node's kubelet.", func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }),
		api.WideCol("Internal-IP", "string", "Address of the node within the cluster.", address(corev1.NodeInternalIP)),
		api.WideCol("External-IP", "string", "Address of the node for the world.", address(corev1.NodeExternalIP)),
		api.WideCol("OS-Image", "string", "Operating system of the node.", info(func(i *corev1.NodeSystemInfo) string { return i.OSImage })),
		api.WideCol("Kernel-Version", "string", "Kernel of the node.", info(func(i *corev1.NodeSystemInfo) string {
			if i.Architecture == "" {
				return i.KernelVersion
			}
			return orElse(i.KernelVersion, unknown) + " (" + i.Architecture + ")"
		})),
		api.WideCol("Container-Runtime", "string", "What runs the node's containers.", info(func(i *corev1.NodeSystemInfo) string { return i.ContainerRuntimeVersion })),
	}
}

func nodeStatus(n *corev1.Node) any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) any {
	roles := sets.New[string]()
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles.Insert(role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles.Insert(v)
		}
	}
	return orElse(strings.Join(sets.List(roles), ","), none)
}

func serviceColumns() []api.Column {
	return []api.Column{
		api.Col("Type", "string", "How the service is reached.", func(s *corev1.Service) any { return string(s.Spec.Type) }),
		api.Col("Cluster-IP", "string", "Address of the service within the cluster.", func(s *corev1.Service) any {
			if len(s.Spec.ClusterIPs) > 0 {
				return s.Spec.ClusterIPs[0]
			}
			return none
		}),
		api.Col("External-IP", "string", "Addresses of the service for the world.", func(s *corev1.Service) any { return externalAddress(s) }),
		api.Col("Port(s)", "string", "Ports of the service.", func(s *corev1.Service) any {
			var out []string
			for _, p := range s.Spec.Ports {
				if p.NodePort > 0 {
					out = append(out, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
				} else {
					out = append(out, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
				}
			}
			return orElse(strings.Join(out, ","), none)
		}),
		api.AgeColumn(),
		api.WideCol("Selector", "string", "Labels of the pods behind the service.", func(s *corev1.Service) any {
			return labels.FormatLabels(s.Spec.Selector)
		}),
	}
}

func externalAddress(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orElse(strings.Join(s.Spec.ExternalIPs, ","), none)
	case corev1.ServiceTypeLoadBalancer:
		balancers := sets.New[string]()
		for _, in := range s.Status.LoadBalancer.Ingress {
			if a := orElse(in.IP, in.Hostname); a != "" {
				balancers.Insert(a)
			}
		}
		return orElse(strings.Join(append(sets.List(balancers), s.Spec.ExternalIPs...), ","), "<pending>")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return unknown
}

const maxListed = 3 // addresses shown of many

func endpointsColumns() []api.Column {
	return []api.Column{
		api.Col("Endpoints", "string", "Addresses behind the service.", func(e *corev1.Endpoints) any {
			if len(e.Subsets) == 0 {
				return none
			}
			var all []string
			for _, s := range e.Subsets {
				if len(s.Ports) == 0 {
					for _, a := range s.Addresses {
						all = append(all, a.IP)
					}
				}
				for _, p := range s.Ports {
					for _, a := range s.Addresses {
						all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
					}
				}
			}
			return api.Shortened(all, maxListed)
		}),
		api.AgeColumn(),
	}
}

// EventColumns are the columns of events in either group; of gives the stored
// version.
func EventColumns[P api.Object](of func(P) *corev1.Event) []api.Column {
	col := func(name, about string, wide bool, value func(*corev1.Event) any) api.Column {
		c := api.Col(name, "string", about, func(o P) any { return value(of(o)) })
		if wide {
			c.Priority = 1
		}
		return c
	}
	name := api.NameColumn()
	name.Priority = 1
	return []api.Column{
		col("Last Seen", "When the event was last observed.", false, func(e *corev1.Event) any { return lastSeen(e) }),
		col("Type", "Normal, or a warning.", false, func(e *corev1.Event) any { return e.Type }),
		col("Reason", "Why it happened, in a word.", false, func(e *corev1.Event) any { return e.Reason }),
		col("Object", "What it happened to.", false, func(e *corev1.Event) any {
			kind := strings.ToLower(e.InvolvedObject.Kind)
			if e.InvolvedObject.Name == "" {
				return kind
			}
			return kind + "/" + e.InvolvedObject.Name
		}),
		col("Subobject", "The part of the object that it happened to.", true, func(e *corev1.Event) any { return e.InvolvedObject.FieldPath }),
		col("Source", "Who reported it.", true, func(e *corev1.Event) any {
			component, host := orElse(e.Source.Component, e.ReportingController), orElse(e.Source.Host, e.ReportingInstance)
			if host == "" {
				return component
			}
			return component + ", " + host
		}),
		col("Message", "What happened.", false, func(e *corev1.Event) any { return strings.TrimSpace(e.Message) }),
		col("First Seen", "When the event was first observed.", true, func(e *corev1.Event) any { return firstSeen(e) }),
		col("Count", "How often it happened.", true, func(e *corev1.Event) any {
			switch {
			case e.Series != nil:
				return int64(e.Series.Count)
			case e.Count == 0:
				return int64(1)
			}
			return int64(e.Count)
		}),
		name,
	}
}

func firstSeen(e *corev1.Event) string {
	if e.FirstTimestamp.IsZero() {
		return api.HumanAge(metav1.Time(e.EventTime))
	}
	return api.HumanAge(e.FirstTimestamp)
}

func lastSeen(e *corev1.Event) string {
	switch {
	case e.Series != nil:
		return api.HumanAge(metav1.Time(e.Series.LastObservedTime))
	case e.LastTimestamp.IsZero():
		return firstSeen(e)
	}
	return api.HumanAge(e.LastTimestamp)
}

func replicationControllerColumns() []api.Column {
	type RC = *corev1.ReplicationController
	cols := []api.Column{
		api.Col("Desired", "integer", "Pods that are wanted.", func(r RC) any { return int64(ptr.Deref(r.Spec.Replicas, 0)) }),
		api.Col("Current", "integer", "Pods that are there.", func(r RC) any { return int64(r.Status.Replicas) }),
		api.Col("Ready", "integer", "Pods that are ready.", func(r RC) any { return int64(r.Status.ReadyReplicas) }),
		api.AgeColumn(),
	}
	cols = append(cols, podspec.Columns(func(r RC) *corev1.PodTemplateSpec { return r.Spec.Template })...)
	return append(cols, api.WideCol("Selector", "string", "Labels of the pods.", func(r RC) any { return labels.FormatLabels(r.Spec.Selector) }))
}

func podTemplateColumns() []api.Column {
	type T = *corev1.PodTemplate
	cols := podspec.Columns(func(t T) *corev1.PodTemplateSpec { return &t.Template })
	for i := range cols {
		cols[i].Priority = 0
	}
	return append(cols, api.Col("Pod Labels", "string", "Labels of the template's pods.", func(t T) any { return labels.FormatLabels(t.Template.Labels) }))
}

// accessModes abbreviates each mode once, in a fixed order.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			out = append(out, m.short)
		}
	}
	return strings.Join(out, ",")
}

func storage(l corev1.ResourceList) string {
	q := l[corev1.ResourceStorage]
	return q.String()
}

func volumeColumns() []api.Column {
	type V = *corev1.PersistentVolume
	return []api.Column{
		api.Col("Capacity", "string", "Size of the volume.", func(v V) any { return storage(v.Spec.Capacity) }),
		api.Col("Access Modes", "string", "How the volume may be mounted.", func(v V) any { return accessModes(v.Spec.AccessModes) }),
		api.Col("Reclaim Policy", "string", "What becomes of the volume when its claim is gone.", func(v V) any {
			return string(v.Spec.PersistentVolumeReclaimPolicy)
		}),
		api.Col("Status", "string", "Phase of the volume.", func(v V) any {
			if v.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(v.Status.Phase)
		}),
		api.Col("Claim", "string", "Who has the volume.", func(v V) any {
			if r := v.Spec.ClaimRef; r != nil {
				return r.Namespace + "/" + r.Name
			}
			return ""
		}),
		api.Col("StorageClass", "string", "Class of the volume.", func(v V) any {
			if c, ok := v.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				return c
			}
			return v.Spec.StorageClassName
		}),
		api.Col("VolumeAttributesClass", "string", "Class of the volume's attributes.", func(v V) any {
			return ptr.Deref(v.Spec.VolumeAttributesClassName, "<unset>")
		}),
		api.Col("Reason", "string", "Why the volume is in its phase.", func(v V) any { return v.Status.Reason }),
		api.AgeColumn(),
		api.WideCol("VolumeMode", "string", "File system or block device.", func(v V) any { return string(ptr.Deref(v.Spec.VolumeMode, "<unset>")) }),
	}
}

func claimColumns() []api.Column {
	type C = *corev1.PersistentVolumeClaim
	bound := func(value func(C) string) func(C) any {
		return func(c C) any {
			if c.Spec.VolumeName == "" {
				return ""
			}
			return value(c)
		}
	}
	return []api.Column{
		api.Col("Status", "string", "Phase of the claim.", func(c C) any {
			if c.DeletionTimestamp != nil {
				return "Terminating"
			}
			return string(c.Status.Phase)
		}),
		api.Col("Volume", "string", "Volume that the claim has.", func(c C) any { return c.Spec.VolumeName }),
		api.Col("Capacity", "string", "Size of the volume.", bound(func(c C) string { return storage(c.Status.Capacity) })),
		api.Col("Access Modes", "string", "How the volume may be mounted.", bound(func(c C) string { return accessModes(c.Status.AccessModes) })),
		api.Col("StorageClass", "string", "Class of the claim.", func(c C) any {
			if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
				return class
			}
			return ptr.Deref(c.Spec.StorageClassName, "")
		}),
		api.Col("VolumeAttributesClass", "string", "Class of the volume's attributes.", func(c C) any {
			return ptr.Deref(c.Spec.VolumeAttributesClassName, "<unset>")
		}),
		api.AgeColumn(),
		api.WideCol("VolumeMode", "string", "File system or block device.", func(c C) any { return string(ptr.Deref(c.Spec.VolumeMode, "<unset>")) }),
	}
}
