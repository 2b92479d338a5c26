package pods

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/status"
)

// report computes the status and hands it to the writer if it is news.
func (w *worker) report(remove bool) {
	if w.gone {
		return
	}
	in := status.Input{
		Pod: w.pod, Old: w.status, Runtime: w.runtime, Now: w.now(),
		HostIPs: w.m.cfg.HostIPs(), RuntimeName: w.m.cfg.RuntimeName,
		Waiting: map[string]corev1.ContainerStateWaiting{},
		Started: map[string]bool{}, Ready: map[string]bool{},
		Message: w.message,
		Restarts: func(c *corev1.Container, exitCode int32) bool {
			return restarts(w.pod, c, exitCode) || w.isRenewed(c.Name)
		},
		Renewed: w.isRenewed,
		Over:    w.state >= terminated, Verdict: w.verdict,
		RecursiveReadOnly: w.m.cfg.RecursiveReadOnly(),
	}
	for name, c := range w.containers {
		in.Started[name], in.Ready[name] = c.isStarted(), c.isReady()
		if c.waiting != nil && w.state == running {
			in.Waiting[name] = *c.waiting
		}
	}
	got := status.Compute(in)
	switch {
	case w.wasOver():
		got = *w.pod.Status.DeepCopy()
	case w.verdict == nil || !w.verdict.Rejected:
		w.resources(&got)
	}
	if w.reported && !remove && equality.Semantic.DeepEqual(got, w.status) {
		return
	}
	w.reported = true
	w.status = got
	w.measureStart()
	w.publish()
	if !IsStatic(w.pod) {
		w.m.cfg.Status.Set(w.pod, got, remove)
	} else if mirror := w.m.mirror(w.pod); mirror != nil {
		w.m.cfg.Status.Set(mirror, got, false)
	}
}

// wasOver says that the API has a final status of the pod, and the node nothing
// that could add to it: it was refused, say, before this kubelet began, or what
// was left of it had to make room.
func (w *worker) wasOver() bool {
	return final(w.pod) && len(w.runtime.Containers)+len(w.runtime.Sandboxes) == 0
}

func (w *worker) publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published = published{pod: w.pod, status: w.status, state: w.state, runtime: w.runtime}
	if w.runtime != nil {
		w.tellEnded()
	}
}

func (w *worker) message(k *cri.Container, _ *corev1.Container) string {
	text, ok := w.messages[k.Id]
	if !ok {
		text = status.TerminationMessage(k)
		w.messages[k.Id] = text
	}
	return text
}
