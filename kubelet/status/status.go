// Package status says how a pod is: it computes the API's status from what the
// runtime and the pod's worker know, and writes it to the API server.
package status

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/spec"
)

// Verdict overrides the phase: the kubelet itself ended the pod.
type Verdict struct {
	Phase           corev1.PodPhase
	Reason, Message string
	// Disrupted adds the condition DisruptionTarget: an eviction.
	Disrupted bool
	// Rejected says that the pod was never let in: there is no more to say.
	Rejected bool
}

// Input is all that a pod's status depends on.
type Input struct {
	Pod *corev1.Pod
	// Old is the status computed before, at first the API's.
	Old     corev1.PodStatus
	Runtime *cri.Pod
	Now     time.Time
	HostIPs []string
	// RuntimeName prefixes container IDs: containerd://…
	RuntimeName string
	// Waiting says why containers do not run that should.
	Waiting map[string]corev1.ContainerStateWaiting
	// Started and Ready are the probes' verdicts on running containers.
	Started, Ready map[string]bool
	// Message reads a container's termination message.
	Message func(c *cri.Container, spec *corev1.Container) string
	// Restarts says whether a container that ended so will run again.
	Restarts func(c *corev1.Container, exitCode int32) bool
	// Renewed says that the newest container of a name was ended to be made anew,
	// whatever its policy; may be nil. Its end is not told as one: the API lets
	// nothing follow the end of a container that no policy starts again.
	Renewed func(name string) bool
	// Over says that no process of the pod will ever run again.
	Over    bool
	Verdict *Verdict
	// RecursiveReadOnly says that the runtime can mount so.
	RecursiveReadOnly bool
}

// Compute makes the status. It has no effects.
func Compute(in Input) corev1.PodStatus {
	pod := in.Pod
	out := corev1.PodStatus{
		ObservedGeneration: pod.Generation,
		QOSClass:           spec.QOS(pod),
		StartTime:          in.Old.StartTime,
		NominatedNodeName:  in.Old.NominatedNodeName,
		Reason:             in.Old.Reason,
		Message:            in.Old.Message,
		Resize:             in.Old.Resize,
	}
	if in.Verdict != nil && in.Verdict.Rejected {
		out.Phase, out.Reason, out.Message = in.Verdict.Phase, in.Verdict.Reason, in.Verdict.Message
		out.Conditions = in.Old.Conditions
		return out
	}
	if out.StartTime == nil {
		now := metav1.NewTime(in.Now.Truncate(time.Second))
		out.StartTime = &now
	}
	addresses(&out, in)
	for i := range pod.Spec.InitContainers {
		out.InitContainerStatuses = append(out.InitContainerStatuses, in.container(&pod.Spec.InitContainers[i], true, in.Old.InitContainerStatuses))
	}
	for i := range pod.Spec.Containers {
		out.ContainerStatuses = append(out.ContainerStatuses, in.container(&pod.Spec.Containers[i], false, in.Old.ContainerStatuses))
	}
	for i := range pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		s := in.container(c, false, in.Old.EphemeralContainerStatuses)
		s.Ready, s.Started = false, nil
		if s.State.Waiting != nil && s.State.Waiting.Reason == "PodInitializing" {
			s.State.Waiting.Reason = "ContainerCreating"
		}
		out.EphemeralContainerStatuses = append(out.EphemeralContainerStatuses, s)
	}
	out.Phase = in.phase(&out)
	switch {
	case in.Verdict != nil && !in.Over:
		// Its containers are being ended. If that were told as Failed, the pod would
		// be replaced, and gone as soon as somebody deletes it, while they run.
		if in.Old.Phase != "" {
			out.Phase = in.Old.Phase
		}
	case in.Verdict != nil:
		out.Phase, out.Reason, out.Message = in.Verdict.Phase, in.Verdict.Reason, in.Verdict.Message
	case in.Old.Phase == corev1.PodFailed || in.Old.Phase == corev1.PodSucceeded:
		out.Phase = in.Old.Phase // a final phase is final
	}
	out.Conditions = conditions(in, &out)
	if in.Over {
		in.settle(&out)
	}
	for _, list := range [][]corev1.ContainerStatus{out.ContainerStatuses, out.EphemeralContainerStatuses} {
		slices.SortFunc(list, func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	}
	return out
}

// settle gives an end to containers of a pod that is over of which none is known:
// it was not a good one. Those whose turn never came still wait.
func (in Input) settle(out *corev1.PodStatus) {
	unknown := func(list []corev1.ContainerStatus) {
		for i := range list {
			if list[i].State.Terminated == nil {
				list[i].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137,
					Message: "The container could not be located when the pod was terminated"}}
			}
		}
	}
	inits := out.InitContainerStatuses
	last := len(inits) - 1
	if last < 0 || anyRan(out.ContainerStatuses) || in.began(&in.Pod.Spec.InitContainers[last], &inits[last]) {
		unknown(out.ContainerStatuses)
	}
	for last > 0 && inits[last].State.Waiting != nil && inits[last].LastTerminationState.Terminated == nil {
		last--
	}
	unknown(inits[:last+1])
}

// began says whether the last init container let the pod's own begin.
func (in Input) began(c *corev1.Container, s *corev1.ContainerStatus) bool {
	if spec.IsSidecar(c) {
		before := find(in.Pod.Status.InitContainerStatuses, c.Name)
		return before != nil && before.State.Running != nil && before.Started != nil && *before.Started
	}
	well := func(s corev1.ContainerState) bool { return s.Terminated != nil && s.Terminated.ExitCode == 0 }
	return well(s.State) || well(s.LastTerminationState)
}

func addresses(out *corev1.PodStatus, in Input) {
	for i, ip := range in.HostIPs {
		if i == 0 {
			out.HostIP = ip
		}
		out.HostIPs = append(out.HostIPs, corev1.HostIP{IP: ip})
	}
	ips := in.Runtime.IPs()
	if in.Pod.Spec.HostNetwork && len(in.Runtime.Sandboxes) > 0 {
		ips = in.HostIPs
	}
	if len(ips) == 0 {
		out.PodIP, out.PodIPs = in.Old.PodIP, in.Old.PodIPs
		return
	}
	out.PodIP = ips[0]
	for _, ip := range ips {
		out.PodIPs = append(out.PodIPs, corev1.PodIP{IP: ip})
	}
}

func find(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

func (in Input) container(c *corev1.Container, init bool, olds []corev1.ContainerStatus) corev1.ContainerStatus {
	old := find(olds, c.Name)
	no := false
	out := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no, VolumeMounts: in.mounts(c)}
	if old != nil {
		out.RestartCount, out.LastTerminationState, out.ImageID = old.RestartCount, old.LastTerminationState, old.ImageID
		out.AllocatedResources, out.Resources = old.AllocatedResources, old.Resources
	}
	latest := in.Runtime.Latest(c.Name)
	if latest == nil {
		if init && !spec.IsSidecar(c) && in.initialized() && (old == nil || old.State.Terminated == nil) {
			out.Ready, out.State.Terminated = true, &corev1.ContainerStateTerminated{Reason: "Completed",
				Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"}
			return out
		}
		in.absent(&out, old)
		return out
	}
	out.RestartCount = int32(latest.Metadata.GetAttempt())
	out.ContainerID = in.RuntimeName + "://" + latest.Id
	if latest.ImageId != "" {
		out.ImageID = latest.ImageId
	}
	if latest.ImageRef != "" {
		out.ImageID = latest.ImageRef
	}
	if name := latest.GetImage().GetUserSpecifiedImage(); name != "" {
		out.Image = name
	}
	if u := latest.GetUser().GetLinux(); u != nil {
		out.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	in.previous(&out, c, latest)
	waiting, waits := in.Waiting[c.Name]
	switch {
	case latest.Running():
		in.running(&out, c, latest, init)
	case latest.Exited():
		ended := in.terminated(latest, c)
		renewed := !in.Over && in.Renewed != nil && in.Renewed(c.Name)
		if !waits && renewed {
			waiting.Reason = "ContainerCreating"
		}
		if renewed || waits && !in.Over && in.Restarts(c, latest.ExitCode) {
			out.State.Waiting, out.LastTerminationState = &waiting, corev1.ContainerState{Terminated: ended}
			break
		}
		out.State.Terminated = ended
		if init && !spec.IsSidecar(c) {
			out.Ready = ended.ExitCode == 0
		}
	case waits:
		out.State.Waiting = &waiting
	default:
		in.absent(&out, old)
	}
	return out
}

// absent is the state of a container that the runtime does not have.
func (in Input) absent(out *corev1.ContainerStatus, old *corev1.ContainerStatus) {
	if waiting, ok := in.Waiting[out.Name]; ok && !in.Over {
		out.State.Waiting = &waiting
		return
	}
	lost := old != nil && (old.State.Running != nil || old.State.Terminated != nil)
	switch {
	case old != nil && old.State.Terminated != nil:
		out.State, out.Ready = old.State, old.Ready && in.Over
		out.ContainerID = old.ContainerID
	case lost && in.Over:
		out.State.Terminated = &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137,
			Message: "The container could not be located when the pod was terminated", ContainerID: old.ContainerID}
		out.ContainerID = old.ContainerID
	case lost:
		out.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137,
			Message:     "The container could not be located when the pod was deleted.  The container used to be Running",
			ContainerID: old.ContainerID}
		out.RestartCount++
		fallthrough
	default:
		reason := "ContainerCreating"
		if len(in.Pod.Spec.InitContainers) > 0 {
			reason = "PodInitializing"
		}
		out.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
	}
}

func (in Input) running(out *corev1.ContainerStatus, c *corev1.Container, latest *cri.Container, init bool) {
	out.State.Running = &corev1.ContainerStateRunning{StartedAt: unix(latest.StartedAt)}
	started := in.Started[c.Name]
	out.Started = &started
	out.Ready = started && in.Ready[c.Name]
	if init && !spec.IsSidecar(c) {
		out.Ready = false
	}
}

// initialized says that one of the pod's own containers was made, which happens
// after its init containers have ended well.
func (in Input) initialized() bool {
	return slices.ContainsFunc(in.Pod.Spec.Containers, func(c corev1.Container) bool { return in.Runtime.Latest(c.Name) != nil })
}

// mounts tells how a container's volumes are mounted, or will be.
func (in Input) mounts(c *corev1.Container) (out []corev1.VolumeMountStatus) {
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode, want := corev1.RecursiveReadOnlyDisabled, m.RecursiveReadOnly
			if want != nil && (*want == corev1.RecursiveReadOnlyEnabled || *want == corev1.RecursiveReadOnlyIfPossible && in.RecursiveReadOnly) {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

// previous fills in how the container ended the last time, if it runs again.
func (in Input) previous(out *corev1.ContainerStatus, c *corev1.Container, latest *cri.Container) {
	for _, k := range in.Runtime.Containers {
		if k.Name() == c.Name && k.Id != latest.Id && k.Exited() {
			out.LastTerminationState = corev1.ContainerState{Terminated: in.terminated(k, c)}
			return
		}
	}
}

func (in Input) terminated(k *cri.Container, c *corev1.Container) *corev1.ContainerStateTerminated {
	text := in.Message(k, c)
	all := len(in.Pod.Spec.Containers) + len(in.Pod.Spec.InitContainers) + len(in.Pod.Spec.EphemeralContainers)
	out := &corev1.ContainerStateTerminated{
		// Programs write what they like; what is no text comes back otherwise than it was written.
		ExitCode: k.ExitCode, Reason: k.Reason, Message: strings.ToValidUTF8(text[:min(len(text), maxMessages/max(all, 1))], "\ufffd"),
		// One that never started did so at the beginning of time, as upstream has it.
		StartedAt: metav1.NewTime(time.Unix(0, max(k.StartedAt, 0)).Truncate(time.Second)), FinishedAt: unix(k.FinishedAt),
		ContainerID: in.RuntimeName + "://" + k.Id,
	}
	if out.Reason == "" {
		if out.Reason = "Error"; k.ExitCode == 0 {
			out.Reason = "Completed"
		}
	}
	return out
}

func unix(nanos int64) metav1.Time {
	if nanos <= 0 {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Unix(0, nanos).Truncate(time.Second))
}

// phase sums up the containers.
func (in Input) phase(s *corev1.PodStatus) corev1.PodPhase {
	sidecarRuns := false
	for i := range in.Pod.Spec.InitContainers {
		c, st := &in.Pod.Spec.InitContainers[i], &s.InitContainerStatuses[i]
		if spec.IsSidecar(c) {
			sidecarRuns = sidecarRuns || st.State.Running != nil
			continue
		}
		t := st.State.Terminated
		if t == nil {
			t = st.LastTerminationState.Terminated
		}
		failedForGood := t != nil && t.ExitCode != 0 && (in.Over || !in.Restarts(c, t.ExitCode))
		switch {
		case failedForGood:
			return corev1.PodFailed
		case st.State.Terminated == nil || st.State.Terminated.ExitCode != 0:
			if !anyRan(s.ContainerStatuses) {
				if in.Over {
					return corev1.PodFailed
				}
				return corev1.PodPending
			}
		}
	}
	var running, waiting, succeeded, failed, again int
	for i := range in.Pod.Spec.Containers {
		c, st := &in.Pod.Spec.Containers[i], &s.ContainerStatuses[i]
		t := st.State.Terminated
		switch {
		case st.State.Running != nil:
			running++
			continue
		case t == nil && st.LastTerminationState.Terminated == nil:
			waiting++
			continue
		case t == nil:
			again++
			continue
		}
		if latest := in.Runtime.Latest(c.Name); !in.Over && (latest == nil || in.Restarts(c, latest.ExitCode)) {
			again++
		} else if t.ExitCode == 0 {
			succeeded++
		} else {
			failed++
		}
	}
	switch {
	case in.Over && (failed > 0 || running+waiting+again > 0):
		return corev1.PodFailed
	case in.Over:
		return corev1.PodSucceeded
	case waiting > 0:
		return corev1.PodPending
	case running > 0 || again > 0 || sidecarRuns:
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	}
	return corev1.PodSucceeded
}

func anyRan(list []corev1.ContainerStatus) bool {
	for i := range list {
		s := &list[i]
		ended := s.State.Terminated != nil && s.State.Terminated.ContainerID != "" // else it never began
		if s.State.Running != nil || ended || s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}
