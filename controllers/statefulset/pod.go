package statefulset

import (
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

func podName(set string, ordinal int) string { return set + "-" + strconv.Itoa(ordinal) }

// ordinalOf returns the ordinal in the name of a set's pod, -1 if the name is
// not one that the set would give.
func ordinalOf(set, pod string) int {
	digits, ok := strings.CutPrefix(pod, set+"-")
	if !ok {
		return -1
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != digits {
		return -1
	}
	return int(n)
}

// newPod makes the pod of an ordinal, at a revision.
func (p *pass) newPod(ordinal int) *corev1.Pod {
	rev := &p.update
	if p.keepsCurrent(ordinal) {
		rev = &p.current
	}
	pod := pods.FromTemplate(&rev.set.Spec.Template, rev.set, owner.Ref(p.set, kind))
	setIdentity(pod, p.set, ordinal)
	pod.Spec.Hostname = pod.Name
	pod.Spec.Subdomain = rev.set.Spec.ServiceName
	setVolumes(pod, rev.set, ordinal)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = rev.name
	return pod
}

// keepsCurrent reports whether a pod of an ordinal is not part of the rollout:
// it is below the partition, or, with a strategy that has no parameters, among
// those that were not updated yet.
func (p *pass) keepsCurrent(ordinal int) bool {
	u, i := p.set.Spec.UpdateStrategy, ordinal-p.start
	if u.RollingUpdate != nil {
		return i < p.partition()
	}
	return u.Type == appsv1.RollingUpdateStatefulSetStrategyType && i < int(p.set.Status.CurrentReplicas)
}

// setIdentity gives a pod what tells it from its siblings and may be changed
// later. Host name and subdomain may not.
func setIdentity(pod *corev1.Pod, set *appsv1.StatefulSet, ordinal int) {
	pod.Name = podName(set.Name, ordinal)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

func hasIdentity(pod *corev1.Pod) bool { return pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name }

// setVolumes puts the volumes of the claims before all others, in place of
// those of the same name.
func setVolumes(pod *corev1.Pod, set *appsv1.StatefulSet, ordinal int) {
	var volumes []corev1.Volume
	for _, t := range set.Spec.VolumeClaimTemplates {
		volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(&t, set, ordinal)},
		}})
	}
	for _, v := range pod.Spec.Volumes {
		if !slices.ContainsFunc(volumes, func(o corev1.Volume) bool { return o.Name == v.Name }) {
			volumes = append(volumes, v)
		}
	}
	pod.Spec.Volumes = volumes
}

func hasVolumes(pod *corev1.Pod, set *appsv1.StatefulSet, ordinal int) bool {
	for _, t := range set.Spec.VolumeClaimTemplates {
		name := claimName(&t, set, ordinal)
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == t.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == name
		}) {
			return false
		}
	}
	return true
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

func terminating(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }

// created reports whether the API server has the pod.
func created(pod *corev1.Pod) bool { return pod.UID != "" }

func runningAndReady(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && pods.Ready(pod)
}

// available reports whether a pod has been ready for long enough, be it on its
// way out or not.
func (p *pass) available(pod *corev1.Pod) bool {
	ok, _ := pods.Available(pod, p.set.Spec.MinReadySeconds, p.now)
	return ok
}

// serves reports whether a pod is available and stays.
func (p *pass) serves(pod *corev1.Pod) bool { return p.available(pod) && !terminating(pod) }

// nextCheck is when the next ready pod becomes available, or a finished one may
// be replaced, without any event.
func (p *pass) nextCheck() time.Duration {
	next := p.again
	for pod := range p.pods() {
		_, wait := pods.Available(pod, p.set.Spec.MinReadySeconds, p.now)
		next = earlier(next, wait)
	}
	return next
}

// earlier returns the shorter of two times to wait, of which zero is for ever.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || (b > 0 && b < a) {
		return b
	}
	return a
}
