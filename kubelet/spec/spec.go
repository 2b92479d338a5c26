// Package spec turns a pod's spec into what a runtime is asked for: sandbox
// and container configurations, environments, names and name resolution. It
// is pure but for the files that it is pointed at.
package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

// SandboxInput is what a sandbox is made of.
type SandboxInput struct {
	Pod          *corev1.Pod
	Hostname     string
	DNS          *runtimeapi.DNSConfig
	LogDir       string
	CgroupParent string
	Attempt      uint32
	SeccompDir   string
}

func labels(pod *corev1.Pod) map[string]string {
	return map[string]string{
		cri.LabelPodName:      pod.Name,
		cri.LabelPodNamespace: pod.Namespace,
		cri.LabelPodUID:       string(pod.UID),
	}
}

// Sandbox is the configuration of a pod's sandbox.
func Sandbox(in SandboxInput) *runtimeapi.PodSandboxConfig {
	pod := in.Pod
	all := labels(pod)
	for k, v := range pod.Labels {
		if _, reserved := all[k]; !reserved {
			all[k] = v
		}
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: in.Attempt},
		Hostname:     in.Hostname,
		LogDirectory: in.LogDir,
		DnsConfig:    in.DNS,
		Labels:       all,
		Annotations:  pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    in.CgroupParent,
			Sysctls:         sysctls(pod),
			SecurityContext: sandboxSecurity(pod, in.SeccompDir),
			Resources:       &runtimeapi.LinuxContainerResources{OomScoreAdj: pauseOOMScore, CpuShares: minShares},
		},
	}
	if !pod.Spec.HostNetwork {
		config.PortMappings = ports(pod)
	} else {
		config.Hostname = ""
	}
	return config
}

func ports(pod *corev1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	add := func(list []corev1.Container, all bool) {
		for i := range list {
			if !all && !IsSidecar(&list[i]) {
				continue
			}
			for _, p := range list[i].Ports {
				if p.HostPort == 0 {
					continue
				}
				protocol := runtimeapi.Protocol_TCP
				switch p.Protocol {
				case corev1.ProtocolUDP:
					protocol = runtimeapi.Protocol_UDP
				case corev1.ProtocolSCTP:
					protocol = runtimeapi.Protocol_SCTP
				}
				out = append(out, &runtimeapi.PortMapping{
					Protocol: protocol, ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
			}
		}
	}
	add(pod.Spec.InitContainers, false)
	add(pod.Spec.Containers, true)
	return out
}

func sysctls(pod *corev1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return out
}

// ContainerInput is what a container is made of.
type ContainerInput struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	// TargetID is the container whose process namespace an ephemeral
	// container joins.
	TargetID string
	ImageRef string
	Image    *runtimeapi.Image
	Env      *Env
	Mounts   []*runtimeapi.Mount
	Devices  []*runtimeapi.Device
	Attempt  uint32
	// MessageFile is the file on the node that holds the termination message.
	MessageFile string
	SeccompDir  string
	// Groups are supplemental groups of mounted volumes.
	Groups  []int64
	NodeMem int64
	// Unified is set in the container's group: cgroup v2 alone.
	Unified map[string]string
}

// LogPath is a container's log below its pod's log directory.
func LogPath(container string, attempt uint32) string {
	return filepath.Join(container, strconv.Itoa(int(attempt))+".log")
}

// Container is the configuration of a container.
func Container(in ContainerInput) (*runtimeapi.ContainerConfig, error) {
	pod, c := in.Pod, in.Container
	security, err := containerSecurity(in)
	if err != nil {
		return nil, err
	}
	all := labels(pod)
	all[cri.LabelContainerName] = c.Name
	annotations := map[string]string{
		cri.AnnotationHash:          Hash(c),
		cri.AnnotationRestartCount:  strconv.Itoa(int(in.Attempt)),
		cri.AnnotationMessagePath:   c.TerminationMessagePath,
		cri.AnnotationMessagePolicy: string(c.TerminationMessagePolicy),
		cri.AnnotationMessageFile:   in.MessageFile,
	}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		annotations[cri.AnnotationPodGracePeriod] = strconv.FormatInt(*g, 10)
	}
	resources := Resources(pod, c, in.NodeMem)
	resources.Unified = in.Unified
	config := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, in.Env),
		Args:        expandAll(c.Args, in.Env),
		WorkingDir:  c.WorkingDir,
		Envs:        in.Env.KeyValues(),
		Mounts:      in.Mounts,
		Devices:     in.Devices,
		Labels:      all,
		Annotations: annotations,
		LogPath:     LogPath(c.Name, in.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  stopSignal(c),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       resources,
			SecurityContext: security,
		},
	}
	return config, nil
}

func stopSignal(c *corev1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	name := strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(*c.Lifecycle.StopSignal))
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}

func expandAll(in []string, env *Env) []string {
	if len(in) == 0 {
		return nil
	}
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = Expand(s, env.Get)
	}
	return out
}

// Hash tells whether a container must be made anew: its name or image changed.
// Other fields of a running container are immutable or changed in place.
func Hash(c *corev1.Container) string {
	data, err := json.Marshal([]string{c.Name, c.Image})
	if err != nil { // strings always marshal
		return fmt.Sprint(c.Name, c.Image)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
