package core

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/kubectl/pkg/util/qos"
	"k8s.io/utils/ptr"

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
		GVK:           gvk("Pod"),
		ReturnDeleted: true,
		Resource:      "pods",
		ShortNames:    []string{"po"},
		Categories:    []string{"all"},
		Namespaced:    true,
		New:           api.Maker[corev1.Pod](),
		NewList:       api.ListMaker[corev1.PodList](),
		StoragePath:   "pods",
		Columns:       podColumns(),
		RowConditions: func(o api.Object) []metav1.TableRowCondition {
			return podRowConditions(o.(*corev1.Pod))
		},

		Default:        api.On(podspec.DefaultPod),
		PrepareCreate:  api.On(preparePod),
		PrepareUpdate:  api.OnUpdate(preparePodUpdate),
		Validate:       api.Check(podspec.ValidatePod),
		ValidateUpdate: api.CheckUpdate(validatePodUpdate),
		Warnings: api.Warn(func(p, old *corev1.Pod) []string {
			if old != nil { // people seldom write to pods that exist
				return nil
			}
			return append(podspec.NameWarnings(p.Name, "the Pod's hostname"), podspec.Warnings(p)...)
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
	podspec.DropGated(&p.Spec, nil, p.Annotations)
	podspec.MergeLabelKeys(p)
	podspec.AppArmorFields(p)
	podspec.DefaultPodResources(p)
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
	if p.Spec.Resources == nil { // by a client that knows no such field
		p.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
	podspec.DropGated(&p.Spec, &old.Spec, p.Annotations)
	api.BumpGeneration(p, old, &p.Spec, &old.Spec)
}

// preparePodStatus also keeps the owners: writers of status never own them.
func preparePodStatus(p, old *corev1.Pod) {
	p.Spec = old.Spec
	p.OwnerReferences = old.OwnerReferences
	p.Generation = old.Generation
	if p.Status.QOSClass == "" {
		p.Status.QOSClass = old.Status.QOSClass
	}
	// What a writer of an older version does not know, it does not clear.
	if p.Status.ResourceClaimStatuses == nil {
		p.Status.ResourceClaimStatuses = old.Status.ResourceClaimStatuses
	}
	if p.Status.ExtendedResourceClaimStatus == nil {
		p.Status.ExtendedResourceClaimStatus = old.Status.ExtendedResourceClaimStatus
	}
	if p.Status.ObservedGeneration == 0 {
		p.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		j := slices.IndexFunc(old.Status.Conditions, func(o corev1.PodCondition) bool { return o.Type == c.Type })
		if c.ObservedGeneration == 0 && j >= 0 {
			c.ObservedGeneration = old.Status.Conditions[j].ObservedGeneration
		}
	}
}

// prepareEphemeralContainers takes the ephemeral containers of p and all else
// from old.
func prepareEphemeralContainers(p, old *corev1.Pod) {
	containers := p.Spec.EphemeralContainers
	restorePod(p, old)
	p.Spec.EphemeralContainers = containers
	podspec.DropGated(&p.Spec, &old.Spec, nil)
	api.BumpGeneration(p, old, &p.Spec, &old.Spec)
}

// preparePodResize takes the resources and resize policies of p's containers
// (and the pod's own resources) and all else from old.
func preparePodResize(p, old *corev1.Pod) {
	if !sameContainers(p.Spec.Containers, old.Spec.Containers) || !sameContainers(p.Spec.InitContainers, old.Spec.InitContainers) {
		return // for validation to refuse
	}
	containers, inits, own := p.Spec.Containers, p.Spec.InitContainers, p.Spec.Resources
	restorePod(p, old)
	takeResources(p.Spec.Containers, containers)
	takeResources(p.Spec.InitContainers, inits)
	if own != nil {
		p.Spec.Resources = own
		podspec.DefaultPodResources(p)
	}
	api.BumpGeneration(p, old, &p.Spec, &old.Spec)
}

// restorePod makes p what old is, but for what identifies the write.
func restorePod(p, old *corev1.Pod) {
	name, namespace, uid, version, managed := p.Name, p.Namespace, p.UID, p.ResourceVersion, p.ManagedFields
	old.DeepCopyInto(p)
	p.Name, p.Namespace, p.UID, p.ResourceVersion, p.ManagedFields = name, namespace, uid, version, managed
}

func sameContainers(list, old []corev1.Container) bool {
	return slices.EqualFunc(list, old, func(a, b corev1.Container) bool { return a.Name == b.Name })
}

func takeResources(to, from []corev1.Container) {
	for i := range to {
		to[i].Resources, to[i].ResizePolicy = from[i].Resources, from[i].ResizePolicy
	}
}

// podGracePeriod is zero for a pod that no node has, or that has ended.
func podGracePeriod(o api.Object, asked *int64) int64 {
	p := o.(*corev1.Pod)
	if p.Spec.NodeName == "" || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	if asked == nil {
		asked = p.Spec.TerminationGracePeriodSeconds
	}
	if g := ptr.Deref(asked, 0); g >= 0 {
		return g
	}
	return 1
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
