package podspec

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// validateOS checks the named OS, and that no option of the other one is set.
func validateOS(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	if s.OS == nil {
		return nil
	}
	switch s.OS.Name {
	case "":
		return field.ErrorList{field.Required(path.Child("os", "name"), "cannot be empty")}
	case corev1.Linux:
		return validateLinux(path, s)
	case corev1.Windows:
		return validateWindows(path, s)
	}
	return field.ErrorList{field.NotSupported(path.Child("os"), s.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows})}
}

func validateLinux(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	const refused = "windows options cannot be set for a linux pod"
	if c := s.SecurityContext; c != nil && c.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(path.Child("securityContext", "windowsOptions"), refused))
	}
	visitContainers(s, path, func(c *corev1.Container, path place) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(path.Child("securityContext", "windowsOptions"), refused))
		}
	})
	return errs
}

func validateWindows(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	refuse := func(path *field.Path, name string, set bool) {
		if set {
			errs = append(errs, field.Forbidden(path.Child(name), "cannot be set for a windows pod"))
		}
	}
	refuse(path, "hostUsers", s.HostUsers != nil)
	refuse(path, "hostPID", s.HostPID)
	refuse(path, "hostIPC", s.HostIPC)
	refuse(path, "shareProcessNamespace", s.ShareProcessNamespace != nil)
	if c := s.SecurityContext; c != nil {
		at := path.Child("securityContext")
		refuse(at, "appArmorProfile", c.AppArmorProfile != nil)
		refuse(at, "seLinuxOptions", c.SELinuxOptions != nil)
		refuse(at, "seccompProfile", c.SeccompProfile != nil)
		refuse(at, "fsGroup", c.FSGroup != nil)
		refuse(at, "fsGroupChangePolicy", c.FSGroupChangePolicy != nil)
		refuse(at, "sysctls", len(c.Sysctls) > 0)
		refuse(at, "runAsUser", c.RunAsUser != nil)
		refuse(at, "runAsGroup", c.RunAsGroup != nil)
		refuse(at, "supplementalGroups", c.SupplementalGroups != nil)
		refuse(at, "supplementalGroupsPolicy", c.SupplementalGroupsPolicy != nil)
		refuse(at, "seLinuxChangePolicy", c.SELinuxChangePolicy != nil)
	}
	visitContainers(s, path, func(c *corev1.Container, path place) {
		sc := c.SecurityContext
		if sc == nil {
			return
		}
		at := path.Child("securityContext")
		refuse(at, "appArmorProfile", sc.AppArmorProfile != nil)
		refuse(at, "seLinuxOptions", sc.SELinuxOptions != nil)
		refuse(at, "seccompProfile", sc.SeccompProfile != nil)
		refuse(at, "capabilities", sc.Capabilities != nil)
		refuse(at, "readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil)
		refuse(at, "privileged", sc.Privileged != nil)
		refuse(at, "allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil)
		refuse(at, "procMount", sc.ProcMount != nil)
		refuse(at, "runAsUser", sc.RunAsUser != nil)
		refuse(at, "runAsGroup", sc.RunAsGroup != nil)
	})
	return errs
}

const (
	maxCredentialSpecKiB = 64
	maxUserDomain        = 256
	maxUserName          = 104
)

func validateWindowsOptions(path *field.Path, o *corev1.WindowsSecurityContextOptions) field.ErrorList {
	if o == nil {
		return nil
	}
	var errs field.ErrorList
	if n := o.GMSACredentialSpecName; n != nil {
		errs = append(errs, validate.Subdomain(path.Child("gmsaCredentialSpecName"), *n)...)
	}
	if s := o.GMSACredentialSpec; s != nil {
		at := path.Child("gmsaCredentialSpec")
		if *s == "" {
			errs = append(errs, field.Invalid(at, s, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*s) > maxCredentialSpecKiB*1024 {
			errs = append(errs, field.Invalid(at, s, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentialSpecKiB)))
		}
	}
	if n := o.RunAsUserName; n != nil {
		for _, msg := range windowsUserName(*n) {
			errs = append(errs, field.Invalid(path.Child("runAsUserName"), n, "runAsUserName"+msg))
		}
	}
	return errs
}

// windowsUserName says what is wrong with [DOMAIN\]USER.
func windowsUserName(name string) []string {
	domain, user, hasDomain := strings.Cut(name, `\`)
	switch {
	case name == "":
		return []string{" cannot be an empty string"}
	case regexp.MustCompile(`[[:cntrl:]]+`).MatchString(name):
		return []string{" cannot contain control characters"}
	case strings.Contains(user, `\`):
		return []string{" cannot contain more than one backslash"}
	case !hasDomain:
		domain, user = "", name
	}
	const label = `[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?`
	netBIOS := regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dns := regexp.MustCompile(`^` + label + `(?:\.` + label + `)*$`)
	var msgs []string
	if len(domain) >= maxUserDomain {
		msgs = append(msgs, fmt.Sprintf("'s Domain length must be under %d characters", maxUserDomain))
	}
	if hasDomain && !netBIOS.MatchString(domain) && !dns.MatchString(domain) {
		msgs = append(msgs, "'s Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		msgs = append(msgs, "'s User cannot be empty")
	} else if len(user) > maxUserName {
		msgs = append(msgs, fmt.Sprintf("'s User length must not be longer than %d characters", maxUserName))
	}
	if user != "" && strings.Trim(user, ". ") == "" {
		msgs = append(msgs, "'s User cannot contain only periods or spaces")
	}
	if strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`) {
		msgs = append(msgs, `'s User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return msgs
}

// validateHostProcess wants all containers of a pod to be host processes, or
// none.
func validateHostProcess(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	var own *bool
	if c := s.SecurityContext; c != nil && c.WindowsOptions != nil {
		own = c.WindowsOptions.HostProcess
	}
	containers, host := 0, 0
	visitContainers(s, path, func(c *corev1.Container, path place) {
		containers++
		var set *bool
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			set = c.SecurityContext.WindowsOptions.HostProcess
		}
		if own != nil && set != nil && *own != *set {
			errs = append(errs, field.Invalid(path.Child("securityContext", "windowsOptions", "hostProcess"), *set,
				fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *own)))
		}
		if (set != nil && *set) || (set == nil && own != nil && *own) {
			host++
		}
	})
	if host == 0 {
		return errs
	}
	if host != containers {
		errs = append(errs, field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !s.HostNetwork {
		errs = append(errs, field.Invalid(path.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}
