package podspec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/proa-dev/proa/api/validate"
)

func userID(path *field.Path, id *int64) field.ErrorList {
	if id == nil {
		return nil
	}
	return validate.Messages(path, *id, validation.IsValidUserID(*id))
}

func groupID(path *field.Path, id *int64) field.ErrorList {
	if id == nil {
		return nil
	}
	return validate.Messages(path, *id, validation.IsValidGroupID(*id))
}

// validatePodSecurity checks a security context that is there.
func (c *checker) validatePodSecurity(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	s := c.spec.SecurityContext
	for _, id := range []struct {
		name  string
		id    *int64
		check func(path *field.Path, id *int64) field.ErrorList
	}{{"fsGroup", s.FSGroup, groupID}, {"runAsUser", s.RunAsUser, userID}, {"runAsGroup", s.RunAsGroup, groupID}} {
		if id.id != nil {
			errs = append(errs, id.check(path.Child(id.name), id.id)...)
		}
	}
	for i := range s.SupplementalGroups {
		errs = append(errs, groupID(path.Child("supplementalGroups").Index(i), &s.SupplementalGroups[i])...)
	}
	if share := c.spec.ShareProcessNamespace; share != nil && *share && c.spec.HostPID {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), *share, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if len(s.Sysctls) > 0 {
		errs = append(errs, c.validateSysctls(path.Child("sysctls"), s.Sysctls)...)
	}
	if p := s.FSGroupChangePolicy; p != nil {
		errs = append(errs, validate.OneOf(path.Child("fsGroupChangePolicy"), *p, corev1.FSGroupChangeOnRootMismatch, corev1.FSGroupChangeAlways)...)
	}
	if s.SeccompProfile != nil {
		errs = append(errs, validateSeccomp(path.Child("seccompProfile"), s.SeccompProfile)...)
	}
	if s.WindowsOptions != nil {
		errs = append(errs, validateWindowsOptions(path.Child("windowsOptions"), s.WindowsOptions)...)
	}
	if s.AppArmorProfile != nil {
		errs = append(errs, validateAppArmor(path.Child("appArmorProfile"), s.AppArmorProfile)...)
	}
	if p := s.SupplementalGroupsPolicy; p != nil {
		errs = append(errs, validate.OneOf(path.Child("supplementalGroupsPolicy"), *p,
			corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if p := s.SELinuxChangePolicy; p != nil {
		errs = append(errs, validate.OneOf(path.Child("seLinuxChangePolicy"), *p,
			corev1.SELinuxChangePolicyRecursive, corev1.SELinuxChangePolicyMountOption)...)
	}
	return errs
}

const (
	maxSysctl  = 253
	sysctlPart = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	sysctlForm = "^(" + sysctlPart + "[\\./])*" + sysctlPart + "$"
)

func (c *checker) validateSysctls(path *field.Path, sysctls []corev1.Sysctl) field.ErrorList {
	if len(sysctls) == 0 {
		return nil
	}
	var errs field.ErrorList
	form := regexp.MustCompile(sysctlForm)
	seen := sets.New[string]()
	for i, s := range sysctls {
		at := path.Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(s.Name) > maxSysctl || !form.MatchString(s.Name):
			errs = append(errs, field.Invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctl, sysctlForm)))
		case seen.Has(s.Name):
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		if !c.hostSysctls {
			errs = append(errs, hostSysctl(at, s.Name, c.spec)...)
		}
		seen.Insert(s.Name)
	}
	return errs
}

// hostSysctl refuses to set in a pod what it shares with its node.
func hostSysctl(path *field.Path, name string, spec *corev1.PodSpec) field.ErrorList {
	namespace, _, _ := sysctl.GetNamespace(name)
	switch {
	case spec.HostNetwork && namespace == sysctl.NetNamespace:
		return field.ErrorList{field.Invalid(path, name, "may not be specified when 'hostNetwork' is true")}
	case spec.HostIPC && namespace == sysctl.IPCNamespace:
		return field.ErrorList{field.Invalid(path, name, "may not be specified when 'hostIPC' is true")}
	}
	return nil
}

func validateSeccomp(path *field.Path, p *corev1.SeccompProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = append(errs, validate.OneOf(path.Child("type"), p.Type,
			corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
	}
	local := path.Child("localhostProfile")
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(local, p, "can only be set when seccomp type is Localhost"))
		}
	case p.LocalhostProfile == nil:
		errs = append(errs, field.Required(local, "must be set when seccomp type is Localhost"))
	default:
		errs = append(errs, validate.RelativePath(local, *p.LocalhostProfile)...)
	}
	return errs
}

const maxAppArmorProfile = 4095 // one less than the longest path

func validateAppArmor(path *field.Path, p *corev1.AppArmorProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	local := path.Child("localhostProfile")
	var errs field.ErrorList
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch {
		case p.LocalhostProfile == nil:
			return field.ErrorList{field.Required(local, "must be set when AppArmor type is Localhost")}
		case !trimmed(*p.LocalhostProfile):
			errs = append(errs, field.Invalid(local, *p.LocalhostProfile, "must not be padded with whitespace"))
		case *p.LocalhostProfile == "":
			errs = append(errs, field.Required(local, "must be set when AppArmor type is Localhost"))
		}
		if len(*p.LocalhostProfile) > maxAppArmorProfile {
			errs = append(errs, field.TooLong(local, "", maxAppArmorProfile))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(local, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
	case "":
		errs = append(errs, field.Required(path.Child("type"), "type is required when appArmorProfile is set"))
	default:
		errs = append(errs, validate.OneOf(path.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost,
			corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)...)
	}
	return errs
}

func (c *checker) validateSecurity(path *field.Path, s *corev1.SecurityContext) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := userID(path.Child("runAsUser"), s.RunAsUser)
	errs = append(errs, groupID(path.Child("runAsGroup"), s.RunAsGroup)...)
	if p := s.ProcMount; p != nil {
		errs = append(errs, validate.OneOf(path.Child("procMount"), *p, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if c.hostUsers && *p == corev1.UnmaskedProcMount {
			errs = append(errs, field.Invalid(path.Child("procMount"), p, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, validateSeccomp(path.Child("seccompProfile"), s.SeccompProfile)...)
	if e := s.AllowPrivilegeEscalation; e != nil && !*e {
		if s.Privileged != nil && *s.Privileged {
			errs = append(errs, field.Invalid(path, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if s.Capabilities != nil && slices.Contains(s.Capabilities.Add, "CAP_SYS_ADMIN") {
			errs = append(errs, field.Invalid(path, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	errs = append(errs, validateWindowsOptions(path.Child("windowsOptions"), s.WindowsOptions)...)
	return append(errs, validateAppArmor(path.Child("appArmorProfile"), s.AppArmorProfile)...)
}

// validateHostUsers refuses to share the node's other namespaces with a pod
// that has users of its own.
func validateHostUsers(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	if s.HostUsers == nil || *s.HostUsers {
		return nil
	}
	var errs field.ErrorList
	for _, f := range []struct {
		name string
		set  bool
	}{{"hostNetwork", s.HostNetwork}, {"HostPID", s.HostPID}, {"HostIPC", s.HostIPC}} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), "when `hostUsers` is false"))
		}
	}
	return errs
}

func validateSearches(path *field.Path, d *corev1.PodDNSConfig) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("searches")
	if len(d.Searches) > maxSearchPaths {
		errs = append(errs, field.Invalid(at, d.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearchPaths)))
	}
	if len(strings.Join(d.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(at, d.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, search := range d.Searches {
		if search != "." {
			search = strings.TrimSuffix(search, ".")
			errs = append(errs, validate.Messages(at.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))...)
		}
	}
	for i, o := range d.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}
