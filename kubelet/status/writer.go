package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// writers is how many statuses are written at once.
const writers = 8

// Writer brings statuses to the API server: only the newest of each pod,
// each pod's in order, and again until it succeeds or the pod is gone.
type Writer struct {
	client ctrl.Client
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[types.UID]

	mu   sync.Mutex
	pods map[types.UID]*record
}

type record struct {
	base   *corev1.Pod // the newest that the API server is known to have
	want   *corev1.PodStatus
	remove bool
}

// NewWriter makes a writer.
func NewWriter(client ctrl.Client, log *slog.Logger) *Writer {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](100*time.Millisecond, 30*time.Second)
	return &Writer{client: client, log: log, pods: map[types.UID]*record{}, queue: workqueue.NewTypedRateLimitingQueue(limiter)}
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for {
				uid, stop := w.queue.Get()
				if stop {
					return
				}
				if err := w.write(ctx, uid); err != nil && ctx.Err() == nil {
					level := slog.LevelWarn
					if apierrors.IsConflict(err) { // others were faster, or it is about to be forgotten
						level = slog.LevelDebug
					}
					w.log.Log(ctx, level, "pod status not written", "uid", uid, "err", err)
					w.queue.AddRateLimited(uid)
				} else {
					w.queue.Forget(uid)
				}
				w.queue.Done(uid)
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	wg.Wait()
}

// Set hands in a pod's newest status. remove says that the pod is over and its
// object, which somebody has deleted, can go after the status was written.
func (w *Writer) Set(pod *corev1.Pod, status corev1.PodStatus, remove bool) {
	w.mu.Lock()
	r := w.pods[pod.UID]
	if r == nil {
		r = &record{}
		w.pods[pod.UID] = r
	}
	r.observe(pod)
	r.want, r.remove = &status, r.remove || remove
	w.mu.Unlock()
	w.queue.Add(pod.UID)
}

// Forget drops a pod whose object is gone.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

func (r *record) observe(pod *corev1.Pod) {
	if r.base == nil || version(pod) >= version(r.base) {
		r.base = pod
	}
}

func version(pod *corev1.Pod) uint64 {
	v, err := strconv.ParseUint(pod.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func (w *Writer) write(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	r := w.pods[uid]
	if r == nil || r.want == nil {
		w.mu.Unlock()
		return nil
	}
	base, want, remove := r.base, r.want, r.remove
	w.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	updated, err := w.patch(ctx, base, *want)
	if apierrors.IsNotFound(err) {
		w.Forget(uid)
		return nil
	}
	if err != nil {
		return err
	}
	if updated != nil {
		w.mu.Lock()
		if r := w.pods[uid]; r != nil {
			r.observe(updated)
		}
		w.mu.Unlock()
	}
	if !remove {
		return nil
	}
	zero := int64(0)
	err = w.client.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: base.Namespace, Name: base.Name}},
		&ctrl.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}})
	if err == nil || apierrors.IsNotFound(err) {
		w.Forget(uid)
		return nil
	}
	return fmt.Errorf("delete pod: %w", err)
}

// patch writes what differs. It returns nil when nothing does.
func (w *Writer) patch(ctx context.Context, base *corev1.Pod, want corev1.PodStatus) (*corev1.Pod, error) {
	want = merge(base.Status, want)
	if equality.Semantic.DeepEqual(base.Status, want) {
		return nil, nil
	}
	before, err := json.Marshal(corev1.Pod{Status: base.Status})
	if err != nil {
		return nil, err
	}
	// The uid is a precondition: the patch is for this pod, not for its name.
	after, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: base.UID}, Status: want})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: base.Namespace, Name: base.Name}}
	if err := w.client.Status().Patch(ctx, pod, ctrl.RawPatch(types.StrategicMergePatchType, patch)); err != nil {
		return nil, err
	}
	return pod, nil
}

// owned lists the conditions that a kubelet sets; others' are left alone.
func owned(kind corev1.PodConditionType) bool {
	switch kind {
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
		corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting:
		return true
	}
	return false
}

// merge lays a kubelet's status over what the API server has.
func merge(base, want corev1.PodStatus) corev1.PodStatus {
	ours := map[corev1.PodConditionType]corev1.PodCondition{}
	for _, c := range want.Conditions {
		if owned(c.Type) || c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet {
			ours[c.Type] = c
		}
	}
	var out []corev1.PodCondition // in the order that the API server has, so that equal is equal
	for _, c := range base.Conditions {
		if mine, ok := ours[c.Type]; ok {
			c = mine
			delete(ours, c.Type)
		} else if owned(c.Type) {
			continue
		}
		out = append(out, c)
	}
	for _, c := range want.Conditions {
		if _, ok := ours[c.Type]; ok {
			out = append(out, c)
		}
	}
	want.Conditions = out
	want.NominatedNodeName = base.NominatedNodeName
	want.ResourceClaimStatuses = base.ResourceClaimStatuses
	want.ExtendedResourceClaimStatus = base.ExtendedResourceClaimStatus
	want.NodeAllocatableResourceClaimStatuses = base.NodeAllocatableResourceClaimStatuses
	if base.StartTime != nil {
		want.StartTime = base.StartTime
	}
	if base.Phase == corev1.PodFailed || base.Phase == corev1.PodSucceeded {
		want.Phase = base.Phase
		if base.Reason != "" || base.Message != "" {
			want.Reason, want.Message = base.Reason, base.Message
		}
	}
	return want
}
