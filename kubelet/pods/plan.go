package pods

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/spec"
)

// view is all that the next steps of a pod depend on.
type view struct {
	pod     *corev1.Pod
	runtime *cri.Pod
	// started says that a running container has passed its startup probe.
	started func(name string) bool
	// failed is which probe a running container has failed for good, or empty.
	failed func(c *cri.Container) string
	// renewed says that the newest container of a name was ended to be made anew,
	// which no policy has a say in.
	renewed func(name string) bool
}

type kill struct {
	container *cri.Container
	message   string
	renew     bool
}

// plan is the next steps of a pod.
type plan struct {
	newSandbox bool
	start      []*corev1.Container
	kill       []kill
	// over says that nothing is left to do: the pod's phase is final.
	over bool
}

// restarts says whether a container that ended so runs again.
func restarts(pod *corev1.Pod, c *corev1.Container, exitCode int32) bool {
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil || r.Action != corev1.ContainerRestartRuleActionRestart {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, exitCode)
		if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// usable says that containers can be started in the pod's sandbox.
func usable(pod *corev1.Pod, runtime *cri.Pod) bool {
	return runtime.Sandbox() != nil && (pod.Spec.HostNetwork || len(runtime.IPs()) > 0)
}

// makePlan decides what to do next. It is pure, so that every order of events
// can be tested.
func makePlan(v view) plan {
	if !usable(v.pod, v.runtime) {
		return v.withoutSandbox()
	}
	var p plan
	v.ephemeral(&p)
	initialized, failed := v.initContainers(&p)
	if failed {
		return plan{over: true}
	}
	if initialized {
		v.containers(&p)
	}
	return p
}

// withoutSandbox ends what is left of an old sandbox and asks for a new one,
// unless nothing would run in it.
func (v view) withoutSandbox() plan {
	var p plan
	for _, c := range v.runtime.Containers {
		if c.Running() {
			p.kill = append(p.kill, kill{container: c, message: "Pod sandbox changed, it will be killed and re-created."})
		}
	}
	again := false
	for i := range v.pod.Spec.Containers {
		c := &v.pod.Spec.Containers[i]
		latest := v.runtime.Latest(c.Name)
		if latest == nil || !latest.Exited() || restarts(v.pod, c, latest.ExitCode) {
			again = true
		}
	}
	// A pod that runs once does not start over because its sandbox died.
	if v.pod.Spec.RestartPolicy == corev1.RestartPolicyNever && len(v.runtime.Sandboxes) > 0 && len(v.runtime.Containers) > 0 {
		again = false
	}
	if len(p.kill) == 0 {
		p.newSandbox, p.over = again, !again
	}
	return p
}

func (v view) ephemeral(p *plan) {
	for i := range v.pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&v.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if v.runtime.Latest(c.Name) == nil {
			p.start = append(p.start, c)
		}
	}
}

// initContainers goes through them in order. initialized says that the pod's
// own containers may run; failed that they never will.
func (v view) initContainers(p *plan) (initialized, failed bool) {
	list := v.pod.Spec.InitContainers
	for i := range v.pod.Spec.Containers {
		if v.runtime.Current(v.pod.Spec.Containers[i].Name) != nil {
			initialized = true
		}
	}
	furthest := -1
	for i := range list {
		if v.runtime.Current(list[i].Name) != nil {
			furthest = i
		}
	}
	for i := range list {
		c := &list[i]
		cur := v.runtime.Current(c.Name)
		if spec.IsSidecar(c) {
			v.sidecar(p, c, cur)
			// The first start of a sidecar holds back what comes after it; one
			// that fails later does not.
			if !initialized && i >= furthest && (cur == nil || !cur.Running() || !v.started(c.Name)) {
				return false, false
			}
			continue
		}
		if initialized || i < furthest {
			continue
		}
		switch {
		case cur == nil:
			p.start = append(p.start, c)
			return false, false
		case cur.Running():
			p.lost(cur, "Init container")
			return false, false
		case cur.Exited() && cur.ExitCode == 0:
		case cur.Exited() && !restarts(v.pod, c, cur.ExitCode):
			return false, true
		default:
			p.start = append(p.start, c)
			return false, false
		}
	}
	return true, false
}

func (v view) sidecar(p *plan, c *corev1.Container, cur *cri.Container) {
	if cur == nil || !cur.Running() {
		p.start = append(p.start, c)
		return
	}
	if p.lost(cur, "Init container") {
		return
	}
	if what := v.wrong(c, cur); what != "" {
		p.kill = append(p.kill, kill{container: cur, message: fmt.Sprintf("Init container %s %s", c.Name, what)})
	}
}

// lost kills a container whose state the runtime does not know, as after a
// crash between the making of a container and the note of its state: once it
// has ended for sure, it is one that ended.
func (p *plan) lost(c *cri.Container, kind string) bool {
	if c.State != runtimeapi.ContainerState_CONTAINER_UNKNOWN {
		return false
	}
	p.kill = append(p.kill, kill{container: c, message: kind + ` is in "unknown" state, try killing it before restart`})
	return true
}

// wrong is why a running container must be killed, or empty.
func (v view) wrong(c *corev1.Container, running *cri.Container) string {
	if changed(c, running) {
		return "definition changed"
	}
	return v.failed(running)
}

func changed(c *corev1.Container, running *cri.Container) bool {
	hash := running.Annotations[cri.AnnotationHash]
	return hash != "" && hash != spec.Hash(c)
}

func (v view) containers(p *plan) {
	over := true
	for i := range v.pod.Spec.Containers {
		c := &v.pod.Spec.Containers[i]
		latest := v.runtime.Latest(c.Name)
		switch {
		case latest == nil:
			p.start = append(p.start, c)
			over = false
		case latest.Exited():
			if restarts(v.pod, c, latest.ExitCode) || v.renewed(c.Name) {
				p.start = append(p.start, c)
				over = false
			}
		case latest.Running():
			over = false
			v.alive(p, c, latest)
		default: // made but never started, by a kubelet that died in between
			p.start = append(p.start, c)
			over = false
		}
	}
	if over {
		*p = plan{over: true}
	}
}

func (v view) alive(p *plan, c *corev1.Container, running *cri.Container) {
	if p.lost(running, "Container") {
		return
	}
	what := v.wrong(c, running)
	if what == "" {
		return
	}
	// One that failed a probe runs again however it ends now: its rules are about
	// ends of its own.
	policy := v.pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	k := kill{container: running, message: fmt.Sprintf("Container %s %s", c.Name, what), renew: changed(c, running) || policy != corev1.RestartPolicyNever}
	if k.renew {
		k.message += ", will be restarted"
	}
	p.kill = append(p.kill, k)
}
