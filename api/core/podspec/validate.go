package podspec

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// checker validates one spec.
type checker struct {
	Options
	spec      *corev1.PodSpec
	hostUsers bool
	volumes   map[string]corev1.VolumeSource // those that are valid
	claims    sets.Set[string]
}

// ValidateTemplate validates a pod template.
func ValidateTemplate(path *field.Path, t *corev1.PodTemplateSpec, opts Options) field.ErrorList {
	spec := path.Child("spec")
	errs := metavalidation.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, validateAnnotations(path.Child("annotations"), t.Annotations, &t.Spec, opts)...)
	errs = append(errs, validateSpec(spec, &t.Spec, opts)...)
	errs = append(errs, profilesMatchAnnotations(spec, t.Annotations, &t.Spec)...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// ValidateWorkloadTemplate validates the template of a workload that keeps its
// pods running: it must match the workload's selector, and restart always.
func ValidateWorkloadTemplate(path *field.Path, t *corev1.PodTemplateSpec, selector labels.Selector, workload string, opts Options) field.ErrorList {
	errs := matches(path, t, selector)
	errs = append(errs, ValidateTemplate(path, t, opts)...)
	return append(errs, restarts(path, t, workload)...)
}

// ValidateWorkload is what ValidateWorkloadTemplate checks but the pod itself.
func ValidateWorkload(path *field.Path, t *corev1.PodTemplateSpec, selector labels.Selector, workload string) field.ErrorList {
	return append(matches(path, t, selector), restarts(path, t, workload)...)
}

func matches(path *field.Path, t *corev1.PodTemplateSpec, selector labels.Selector) field.ErrorList {
	if selector.Empty() || selector.Matches(labels.Set(t.Labels)) {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")}
}

func restarts(path *field.Path, t *corev1.PodTemplateSpec, workload string) field.ErrorList {
	var errs field.ErrorList
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), t.Spec.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"),
			fmt.Sprintf("activeDeadlineSeconds in %s is not Supported", workload)))
	}
	return errs
}

// ValidatePod validates a new pod.
func ValidatePod(p *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := validatePodAndSpec(p, Options{})
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) != 0 {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, profilesMatchAnnotations(path, p.Annotations, &p.Spec)...)
}

// ValidatePodAfter checks of an updated pod what holds for new ones too; old
// breaks of a rule stay allowed (see After).
func ValidatePodAfter(p, old *corev1.Pod) field.ErrorList {
	return validatePodAndSpec(p, After(&old.Spec, old.Annotations))
}

// validatePodAndSpec checks what holds for pods on create and on update.
func validatePodAndSpec(p *corev1.Pod, opts Options) field.ErrorList {
	opts.pod = &p.ObjectMeta
	path := field.NewPath("spec")
	errs := validateAnnotations(field.NewPath("metadata", "annotations"), p.Annotations, &p.Spec, opts)
	errs = append(errs, validateSpec(path, &p.Spec, opts)...)
	if p.Spec.ServiceAccountName == "" {
		for i, v := range p.Spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					errs = append(errs, field.Forbidden(
						path.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
						"must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	visitContainers(&p.Spec, path, func(c *corev1.Container, path place) {
		if !trimmed(c.Image) {
			errs = append(errs, field.Invalid(path.Child("image"), c.Image, "must not have leading or trailing whitespace"))
		}
	})
	return errs
}

// validateSpec checks a spec in a pod (opts.pod) or a template.
func validateSpec(path *field.Path, s *corev1.PodSpec, opts Options) field.ErrorList {
	c := &checker{
		Options:   opts,
		spec:      s,
		hostUsers: s.HostUsers == nil || *s.HostUsers,
		volumes:   map[string]corev1.VolumeSource{},
		claims:    sets.New[string](),
	}
	for _, claim := range s.ResourceClaims {
		if claim.Name != "" {
			c.claims.Insert(claim.Name)
		}
	}
	// Paths are made for what is set alone: in a pod that leaves most things out,
	// they would be most of the work.
	var errs field.ErrorList
	if s.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	errs = append(errs, c.validateVolumes(path.Child("volumes"))...)
	if len(s.ResourceClaims) > 0 {
		errs = append(errs, c.validateResourceClaims(path.Child("resourceClaims"), s.ResourceClaims)...)
	}
	errs = append(errs, c.validateContainers(path.Child("containers"))...)
	if len(s.InitContainers) > 0 {
		errs = append(errs, c.validateInitContainers(path.Child("initContainers"))...)
	}
	if len(s.EphemeralContainers) > 0 {
		errs = append(errs, c.validateEphemeralContainers(path.Child("ephemeralContainers"))...)
	}
	if s.Resources != nil {
		errs = append(errs, c.validatePodResources(path.Child("resources"))...)
	}
	errs = append(errs, c.validateHostNetwork(path)...)
	errs = append(errs, validate.RequiredOneOf(path.Child("restartPolicy"), s.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, validate.RequiredOneOf(path.Child("dnsPolicy"), s.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	if len(s.NodeSelector) > 0 {
		errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
	}
	if s.SecurityContext != nil {
		errs = append(errs, c.validatePodSecurity(path.Child("securityContext"))...)
	}
	if s.Affinity != nil {
		errs = append(errs, c.validateAffinity(path.Child("affinity"))...)
	}
	if s.DNSConfig != nil || s.DNSPolicy == corev1.DNSNone {
		errs = append(errs, c.validateDNS(path.Child("dnsConfig"))...)
	}
	for i, g := range s.ReadinessGates {
		errs = append(errs, validate.QualifiedName(path.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType))...)
	}
	if len(s.SchedulingGates) > 0 {
		errs = append(errs, validateSchedulingGates(path.Child("schedulingGates"), s.SchedulingGates)...)
	}
	if len(s.TopologySpreadConstraints) > 0 {
		errs = append(errs, c.validateSpread(path.Child("topologySpreadConstraints"))...)
	}
	errs = append(errs, validateHostProcess(path, s)...)
	errs = append(errs, validateHostUsers(path, s)...)
	errs = append(errs, c.validateNames(path)...)
	errs = append(errs, ValidateTolerations(path.Child("tolerations"), s.Tolerations)...)
	if s.Overhead != nil {
		errs = append(errs, c.validateResources(path.Child("overhead"), &corev1.ResourceRequirements{Limits: s.Overhead}, validate.ContainerResourceName)...)
	}
	return append(errs, validateOS(path, s)...)
}

// validateNames checks the fields that are names, and the few numbers.
func (c *checker) validateNames(path *field.Path) field.ErrorList {
	s := c.spec
	var errs field.ErrorList
	if s.ServiceAccountName != "" {
		errs = append(errs, validate.ServiceAccountName(path.Child("serviceAccountName"), s.ServiceAccountName)...)
	}
	if s.NodeName != "" {
		errs = append(errs, validate.Subdomain(path.Child("nodeName"), s.NodeName)...)
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	if s.Hostname != "" {
		errs = append(errs, validate.Label(path.Child("hostname"), s.Hostname)...)
	}
	if s.Subdomain != "" {
		errs = append(errs, validate.Label(path.Child("subdomain"), s.Subdomain)...)
	}
	errs = append(errs, validateHostnameOverride(path, s)...)
	for i, a := range s.HostAliases {
		at := path.Child("hostAliases").Index(i)
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, c.oldIPs)...)
		for j, name := range a.Hostnames {
			errs = append(errs, validate.Subdomain(at.Child("hostnames").Index(j), name)...)
		}
	}
	if s.PriorityClassName != "" {
		errs = append(errs, validate.Subdomain(path.Child("priorityClassName"), s.PriorityClassName)...)
	}
	if s.RuntimeClassName != nil {
		errs = append(errs, validate.Subdomain(path.Child("runtimeClassName"), *s.RuntimeClassName)...)
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, validate.RequiredOneOf(path.Child("preemptionPolicy"), *s.PreemptionPolicy,
			corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

func validateHostnameOverride(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	if s.HostnameOverride == nil {
		return nil
	}
	at := path.Child("hostnameOverride")
	errs := validate.Subdomain(at, *s.HostnameOverride)
	if len(*s.HostnameOverride) > 64 {
		errs = append(errs, field.TooLong(at, *s.HostnameOverride, 64))
	}
	if s.HostNetwork {
		errs = append(errs, field.Forbidden(at, "may not be specified when hostNetwork is true"))
	}
	if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
		errs = append(errs, field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
	}
	return errs
}

// validateHostNetwork wants host ports equal to container ports: the container
// listens on the node's own. Templates may leave them out.
func (c *checker) validateHostNetwork(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !c.spec.HostNetwork {
		return nil
	}
	for i, container := range c.spec.Containers {
		for j, p := range container.Ports {
			if (c.pod != nil || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"),
					p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// Limits of the C library's resolver.
const (
	maxNameservers = 3
	maxSearchPaths = 32
	maxSearchChars = 2048
)

func (c *checker) validateDNS(path *field.Path) field.ErrorList {
	d := c.spec.DNSConfig
	if c.spec.DNSPolicy == corev1.DNSNone {
		if d == nil {
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(d.Nameservers) == 0 {
			return field.ErrorList{field.Required(path.Child("nameservers"),
				fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))}
		}
	}
	if d == nil {
		return nil
	}
	var errs field.ErrorList
	if len(d.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), d.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, ns := range d.Nameservers {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Child("nameservers").Index(i), ns, true, c.oldIPs)...)
	}
	return append(errs, validateSearches(path, d)...)
}

func (c *checker) validateResourceClaims(path *field.Path, claims []corev1.PodResourceClaim) field.ErrorList {
	var errs field.ErrorList
	static := false
	if c.pod != nil {
		_, static = c.pod.Annotations[corev1.MirrorPodAnnotationKey]
	}
	names := sets.New[string]()
	for i, claim := range claims {
		if static {
			errs = append(errs, field.Forbidden(field.NewPath(""), "static pods do not support resource claims"))
			continue
		}
		at := path.Index(i)
		switch {
		case claim.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case names.Has(claim.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), claim.Name))
		default:
			errs = append(errs, validate.Label(at.Child("name"), claim.Name)...)
			names.Insert(claim.Name)
		}
		if claim.ResourceClaimName != nil && claim.ResourceClaimTemplateName != nil {
			errs = append(errs, field.Invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		}
		if claim.ResourceClaimName == nil && claim.ResourceClaimTemplateName == nil {
			errs = append(errs, field.Invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := claim.ResourceClaimName; n != nil {
			errs = append(errs, validate.Subdomain(at.Child("resourceClaimName"), *n)...)
		}
		if n := claim.ResourceClaimTemplateName; n != nil {
			errs = append(errs, validate.Subdomain(at.Child("resourceClaimTemplateName"), *n)...)
		}
	}
	return errs
}

func validateSchedulingGates(path *field.Path, gates []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, g := range gates {
		errs = append(errs, validate.QualifiedName(path.Index(i), g.Name)...)
		if seen.Has(g.Name) {
			errs = append(errs, field.Duplicate(path.Index(i), g.Name))
		}
		seen.Insert(g.Name)
	}
	return errs
}
