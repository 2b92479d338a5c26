package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

func (c *checker) validateContainers(path *field.Path) field.ErrorList {
	if len(c.spec.Containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range c.spec.Containers {
		ctr, at := &c.spec.Containers[i], path.Index(i)
		errs = append(errs, c.validateContainer(at, ctr)...)
		if names.Has(ctr.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), ctr.Name))
		}
		names.Insert(ctr.Name)
		errs = append(errs, c.validateHooksAndProbes(at, ctr)...)
		errs = append(errs, validateRestart(at, ctr)...)
	}
	return append(errs, hostPortConflicts(path, c.spec.Containers)...)
}

func (c *checker) validateInitContainers(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for _, ctr := range c.spec.Containers {
		names.Insert(ctr.Name)
	}
	for i := range c.spec.InitContainers {
		ctr, at := &c.spec.InitContainers[i], path.Index(i)
		errs = append(errs, c.validateContainer(at, ctr)...)
		errs = append(errs, validateRestart(at, ctr)...)
		if names.Has(ctr.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), ctr.Name))
		} else if ctr.Name != "" {
			names.Insert(ctr.Name)
		}
		// Init containers run one by one: each is in conflict with itself alone.
		errs = append(errs, hostPortConflicts(path, c.spec.InitContainers[i:i+1])...)
		if isSidecar(ctr) {
			errs = append(errs, c.validateHooksAndProbes(at, ctr)...)
			continue
		}
		const sidecarsOnly = "may not be set for init containers without restartPolicy=Always"
		for j, p := range ctr.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer && !c.initRestarts {
				errs = append(errs, field.Invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
			}
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", ctr.Lifecycle != nil}, {"livenessProbe", ctr.LivenessProbe != nil},
			{"readinessProbe", ctr.ReadinessProbe != nil}, {"startupProbe", ctr.StartupProbe != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), sidecarsOnly))
			}
		}
	}
	return errs
}

// validateEphemeralContainers also refuses whatever would make a pod depend
// on a container that was added to look into it.
func (c *checker) validateEphemeralContainers(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	others, names := sets.New[string](), sets.New[string]()
	for _, list := range [][]corev1.Container{c.spec.Containers, c.spec.InitContainers} {
		for _, ctr := range list {
			others.Insert(ctr.Name)
			names.Insert(ctr.Name)
		}
	}
	for i := range c.spec.EphemeralContainers {
		e, at := &c.spec.EphemeralContainers[i], path.Index(i)
		ctr := (*corev1.Container)(&e.EphemeralContainerCommon)
		errs = append(errs, c.validateContainer(at, ctr)...)
		if names.Has(e.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), e.Name))
		}
		names.Insert(e.Name)
		if e.TargetContainerName != "" && !others.Has(e.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
		}
		errs = append(errs, validateEphemeralFields(at, ctr)...)
	}
	return errs
}

func validateEphemeralFields(path *field.Path, ctr *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	const refused = "cannot be set for an Ephemeral Container"
	r := ctr.Resources
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"ports", ctr.Ports != nil},
		{"resources", r.Limits != nil || r.Requests != nil || r.Claims != nil},
		{"resizePolicy", ctr.ResizePolicy != nil},
		{"restartPolicy", ctr.RestartPolicy != nil},
		{"restartPolicyRules", ctr.RestartPolicyRules != nil},
		{"livenessProbe", ctr.LivenessProbe != nil},
		{"readinessProbe", ctr.ReadinessProbe != nil},
		{"startupProbe", ctr.StartupProbe != nil},
		{"lifecycle", ctr.Lifecycle != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), refused))
		}
	}
	for i, m := range ctr.VolumeMounts {
		if m.SubPath != "" {
			errs = append(errs, field.Forbidden(path.Child("volumeMounts").Index(i).Child("subPath"), refused))
		}
		if m.SubPathExpr != "" {
			errs = append(errs, field.Forbidden(path.Child("volumeMounts").Index(i).Child("subPathExpr"), refused))
		}
	}
	return errs
}

// validateContainer checks what all kinds of containers have in common.
func (c *checker) validateContainer(path *field.Path, ctr *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if ctr.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, validate.Label(path.Child("name"), ctr.Name)...)
	}
	errs = append(errs, validate.Required(path.Child("image"), ctr.Image)...)
	errs = append(errs, validate.RequiredOneOf(path.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	if len(ctr.Ports) > 0 {
		errs = append(errs, validatePorts(path.Child("ports"), ctr.Ports)...)
	}
	if len(ctr.Env) > 0 {
		errs = append(errs, c.validateEnv(path.Child("env"), ctr.Env)...)
	}
	if len(ctr.EnvFrom) > 0 {
		errs = append(errs, validateEnvFrom(path.Child("envFrom"), ctr.EnvFrom)...)
	}
	errs = append(errs, c.validateMounts(path.Child("volumeMounts"), ctr)...)
	if len(ctr.VolumeDevices) > 0 {
		errs = append(errs, c.validateDevices(path.Child("volumeDevices"), ctr)...)
	}
	errs = append(errs, validatePullPolicy(path.Child("imagePullPolicy"), ctr.ImagePullPolicy)...)
	errs = append(errs, c.validateResources(path.Child("resources"), &ctr.Resources, validate.ContainerResourceName)...)
	if len(ctr.ResizePolicy) > 0 {
		errs = append(errs, c.validateResizePolicy(path.Child("resizePolicy"), ctr.ResizePolicy)...)
	}
	if ctr.SecurityContext != nil {
		errs = append(errs, c.validateSecurity(path.Child("securityContext"), ctr.SecurityContext)...)
	}
	return errs
}

func validatePullPolicy(path *field.Path, p corev1.PullPolicy) field.ErrorList {
	return validate.RequiredOneOf(path, p, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func validatePorts(path *field.Path, ports []corev1.ContainerPort) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			if msgs := validation.IsValidPortName(p.Name); len(msgs) != 0 {
				errs = append(errs, validate.Messages(at.Child("name"), p.Name, msgs)...)
			} else if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, validate.PortNumber(at.Child("containerPort"), p.ContainerPort)...)
		}
		if p.HostPort != 0 {
			errs = append(errs, validate.PortNumber(at.Child("hostPort"), p.HostPort)...)
		}
		errs = append(errs, validate.RequiredOneOf(at.Child("protocol"), p.Protocol,
			corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	return errs
}

func hostPortConflicts(path *field.Path, containers []corev1.Container) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, ctr := range containers {
		for j, p := range ctr.Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if seen.Has(key) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			seen.Insert(key)
		}
	}
	return errs
}

const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func validateRestart(path *field.Path, ctr *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if p := ctr.RestartPolicy; p != nil {
		errs = append(errs, validate.OneOf(path.Child("restartPolicy"), *p,
			corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	} else if len(ctr.RestartPolicyRules) > 0 {
		errs = append(errs, field.Required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	rules := path.Child("restartPolicyRules")
	if n := len(ctr.RestartPolicyRules); n > maxRestartRules {
		errs = append(errs, field.TooMany(rules, n, maxRestartRules))
	}
	for i, r := range ctr.RestartPolicyRules {
		at := rules.Index(i)
		errs = append(errs, validate.OneOf(at.Child("action"), r.Action,
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if r.ExitCodes == nil {
			errs = append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		codes := at.Child("exitCodes")
		errs = append(errs, validate.OneOf(codes.Child("operator"), r.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(r.ExitCodes.Values); n == 0 {
			errs = append(errs, field.Invalid(codes.Child("values"), r.ExitCodes.Values, "must have at least 1 value"))
		} else if n > maxExitCodes {
			errs = append(errs, field.TooMany(codes.Child("values"), n, maxExitCodes))
		}
	}
	return errs
}

func (c *checker) validateResizePolicy(path *field.Path, policies []corev1.ContainerResizePolicy) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(path.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, validate.RequiredOneOf(path, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, validate.RequiredOneOf(path, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}
