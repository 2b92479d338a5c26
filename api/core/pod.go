package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/policy"
)

// Pod is the kind of pods.
func Pod() *api.Kind {
	options := func(kind string, verbs ...string) api.Subresource {
		return api.Subresource{GVK: gvk(kind), Verbs: verbs}
	}
	named := func(name string, s api.Subresource) api.Subresource {
		s.Name = name
		return s
	}
	return &api.Kind{
		GVK:         gvk("Pod"),
		Resource:    "pods",
		ShortNames:  []string{"po"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[corev1.Pod](),
		NewList:     api.ListMaker[corev1.PodList](),
		StoragePath: "pods",
		Columns:     podColumns(),

		Default:        api.On(podspec.DefaultPod),
		PrepareCreate:  api.On(preparePod),
		PrepareUpdate:  api.OnUpdate(preparePodUpdate),
		Validate:       api.Check(podspec.ValidatePod),
		ValidateUpdate: api.CheckUpdate(validatePodUpdate),
		Warnings: api.Warn(func(p, _ *corev1.Pod) []string {
			return podspec.Warnings(p)
		}),
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(preparePodStatus),
			ValidateUpdate: api.CheckUpdate(validatePodStatusUpdate),
		},
		Subresources: []api.Subresource{
			named("attach", options("PodAttachOptions", "create", "get")),
			{Name: "binding", GVK: gvk("Binding"), Verbs: []string{"create"}, Body: Binding()},
			{Name: "ephemeralcontainers", GVK: gvk("Pod"), Verbs: []string{"get", "patch", "update"}, Update: &api.Status{
				PrepareUpdate:  api.OnUpdate(prepareEphemeralContainers),
				ValidateUpdate: api.CheckUpdate(validateEphemeralContainersUpdate),
			}},
			{Name: "eviction", GVK: policy.EvictionKind(), Verbs: []string{"create"}, Body: policy.Eviction()},
			named("exec", options("PodExecOptions", "create", "get")),
			named("log", options("Pod", "get")),
			named("portforward", options("PodPortForwardOptions", "create", "get")),
			named("proxy", options("PodProxyOptions", "create", "delete", "get", "patch", "update")),
			{Name: "resize", GVK: gvk("Pod"), Verbs: []string{"get", "patch", "update"}, Update: &api.Status{
				PrepareUpdate:  api.OnUpdate(preparePodResize),
				ValidateUpdate: api.CheckUpdate(validatePodResize),
			}},
		},
		Fields:      api.FieldsOf(podFields),
		FieldNames:  podFieldNames,
		GracePeriod: podGracePeriod,
		ResetFields: map[string][]string{
			"":                    {"status"},
			"status":              {"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"},
			"ephemeralcontainers": {"spec.containers", "spec.initContainers", "status"},
			"resize":              {"status"},
		},
	}
}

var podFieldNames = []string{
	"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
	"status.phase", "status.podIP", "status.nominatedNodeName",
}

func podFields(p *corev1.Pod) fields.Set {
	podIP := p.Status.PodIP
	if len(p.Status.PodIPs) > 0 {
		podIP = p.Status.PodIPs[0].IP
	}
	hostNetwork := "false"
	if p.Spec.HostNetwork {
		hostNetwork = "true"
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         hostNetwork,
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             podIP,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

func preparePod(p *corev1.Pod) {
	p.Generation = 1
	podspec.MergeLabelKeys(p)
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qos.ComputePodQOS(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
			Type:    corev1.PodScheduled,
			Status:  corev1.ConditionFalse,
			Reason:  corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
}

func preparePodUpdate(p, old *corev1.Pod) {
	p.Status = old.Status
	api.BumpGeneration(p, old, p.Spec, old.Spec)
}

// preparePodStatus also keeps the owners: writers of status never own them.
func preparePodStatus(p, old *corev1.Pod) {
	p.Spec = old.Spec
	p.OwnerReferences = old.OwnerReferences
	p.Generation = old.Generation
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
}

// prepareEphemeralContainers takes the ephemeral containers of p and all else
// from old.
func prepareEphemeralContainers(p, old *corev1.Pod) {
	containers := p.Spec.EphemeralContainers
	restorePod(p, old)
	p.Spec.EphemeralContainers = containers
	api.BumpGeneration(p, old, p.Spec, old.Spec)
}

// preparePodResize takes the resources and resize policies of p's containers
// (and the pod's own resources) and all else from old.
func preparePodResize(p, old *corev1.Pod) {
	containers, inits, own := p.Spec.Containers, p.Spec.InitContainers, p.Spec.Resources
	restorePod(p, old)
	takeResources(p.Spec.Containers, containers)
	takeResources(p.Spec.InitContainers, inits)
	p.Spec.Resources = own
	api.BumpGeneration(p, old, p.Spec, old.Spec)
}

// restorePod makes p what old is, but for what identifies the write.
func restorePod(p, old *corev1.Pod) {
	name, namespace, uid, version, managed := p.Name, p.Namespace, p.UID, p.ResourceVersion, p.ManagedFields
	old.DeepCopyInto(p)
	p.Name, p.Namespace, p.UID, p.ResourceVersion, p.ManagedFields = name, namespace, uid, version, managed
}

func takeResources(to, from []corev1.Container) {
	for i := range to {
		j := slices.IndexFunc(from, func(c corev1.Container) bool { return c.Name == to[i].Name })
		if j >= 0 {
			to[i].Resources, to[i].ResizePolicy = from[j].Resources, from[j].ResizePolicy
		}
	}
}

// podGracePeriod is zero for a pod that no node has, or that has ended.
func podGracePeriod(o api.Object) int64 {
	p := o.(*corev1.Pod)
	switch {
	case p.Spec.NodeName == "", p.Status.Phase == corev1.PodFailed, p.Status.Phase == corev1.PodSucceeded:
		return 0
	case p.Spec.TerminationGracePeriodSeconds == nil:
		return 0
	case *p.Spec.TerminationGracePeriodSeconds < 0:
		return 1
	}
	return *p.Spec.TerminationGracePeriodSeconds
}

// Binding is the kind of what the scheduler posts to put a pod on a node.
func Binding() *api.Kind {
	return &api.Kind{
		GVK:        gvk("Binding"),
		Resource:   "bindings",
		Namespaced: true,
		Verbs:      []string{"create"},
		Virtual:    true,
		New:        api.Maker[corev1.Binding](),
		Validate:   api.Check(validateBinding),
	}
}
