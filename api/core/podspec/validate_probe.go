package podspec

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// validateHooksAndProbes checks the fields that regular containers and
// sidecars alone may have.
func (c *checker) validateHooksAndProbes(path *field.Path, ctr *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if l := ctr.Lifecycle; l != nil {
		errs = append(errs, c.validateLifecycle(path.Child("lifecycle"), l)...)
	}
	if p := ctr.LivenessProbe; p != nil {
		errs = append(errs, c.validateProbe(path.Child("livenessProbe"), p)...)
		errs = append(errs, onlyOneSuccess(path.Child("livenessProbe"), p)...)
	}
	if p := ctr.ReadinessProbe; p != nil {
		at := path.Child("readinessProbe")
		errs = append(errs, c.validateProbe(at, p)...)
		if p.TerminationGracePeriodSeconds != nil {
			errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds,
				"must not be set for readinessProbes"))
		}
	}
	if p := ctr.StartupProbe; p != nil {
		errs = append(errs, c.validateProbe(path.Child("startupProbe"), p)...)
		errs = append(errs, onlyOneSuccess(path.Child("startupProbe"), p)...)
	}
	return errs
}

func onlyOneSuccess(path *field.Path, p *corev1.Probe) field.ErrorList {
	if p.SuccessThreshold != 1 {
		return field.ErrorList{field.Invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1")}
	}
	return nil
}

func (c *checker) validateLifecycle(path *field.Path, l *corev1.Lifecycle) field.ErrorList {
	var errs field.ErrorList
	for _, h := range []struct {
		name string
		*corev1.LifecycleHandler
	}{{"postStart", l.PostStart}, {"preStop", l.PreStop}} {
		if h.LifecycleHandler != nil {
			errs = append(errs, c.validateHandler(path.Child(h.name), handler{
				exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep,
			})...)
		}
	}
	if l.StopSignal != nil {
		errs = append(errs, c.validateStopSignal(path.Child("stopSignal"), *l.StopSignal)...)
	}
	return errs
}

// validateStopSignal wants the pod's OS to be named, since signals differ.
func (c *checker) validateStopSignal(path *field.Path, s corev1.Signal) field.ErrorList {
	switch {
	case c.spec.OS == nil || c.spec.OS.Name == "":
		return field.ErrorList{field.Forbidden(path, "may not be set for containers with empty `spec.os.name`")}
	case c.spec.OS.Name == corev1.Windows && s != corev1.SIGTERM && s != corev1.SIGKILL:
		return field.ErrorList{field.NotSupported(path, s, []corev1.Signal{corev1.SIGKILL, corev1.SIGTERM})}
	}
	return nil
}

func (c *checker) validateProbe(path *field.Path, p *corev1.Probe) field.ErrorList {
	errs := c.validateHandler(path, handler{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC})
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds},
		{"periodSeconds", p.PeriodSeconds}, {"successThreshold", p.SuccessThreshold},
		{"failureThreshold", p.FailureThreshold},
	} {
		errs = append(errs, validate.NonNegative(path.Child(f.name), int64(f.value))...)
	}
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

// handler is what a probe or a hook does: exactly one of them.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func (c *checker) validateHandler(path *field.Path, h handler) field.ErrorList {
	var errs field.ErrorList
	n := 0
	one := func(name string, set bool, check func(*field.Path) field.ErrorList) {
		if !set {
			return
		}
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, check(path.Child(name))...)
	}
	one("exec", h.exec != nil, func(path *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(path.Child("command"), "")}
		}
		return nil
	})
	one("httpGet", h.http != nil, func(path *field.Path) field.ErrorList { return validateHTTPGet(path, h.http) })
	one("tcpSocket", h.tcp != nil, func(path *field.Path) field.ErrorList {
		return validate.PortNumberOrName(path.Child("port"), h.tcp.Port)
	})
	one("grpc", h.grpc != nil, func(path *field.Path) field.ErrorList {
		return validate.PortNumberOrName(path.Child("port"), intstr.FromInt32(h.grpc.Port))
	})
	one("sleep", h.sleep != nil, func(path *field.Path) field.ErrorList {
		g := c.spec.TerminationGracePeriodSeconds
		if g != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *g) {
			return field.ErrorList{field.Invalid(path, h.sleep.Seconds,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *g))}
		}
		return nil
	})
	if n == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(path *field.Path, h *corev1.HTTPGetAction) field.ErrorList {
	errs := validate.Required(path.Child("path"), h.Path)
	errs = append(errs, validate.PortNumberOrName(path.Child("port"), h.Port)...)
	errs = append(errs, validate.OneOf(path.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range h.HTTPHeaders {
		errs = append(errs, validate.Messages(path.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))...)
	}
	return errs
}
