// Package fresh tells a controller whether the cache shows what another process
// did before this one took over.
//
// A standby's cache lags behind the leader's last writes as any cache does, but
// unlike its own writes it knows nothing of them. So it looks past the cache
// once for each object that it is to act on.
package fresh

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Pods keeps of which objects the pods were once seen in the cache as they are.
// The zero value is ready. Safe for concurrent use.
type Pods struct {
	mu    sync.Mutex
	known map[types.UID]struct{}
}

// Shown reports whether the cache has shown an object's pods as they are, at
// least once since this process began. reader reads past the cache; belongs
// tells which of the pods that match the selector are the object's.
func (f *Pods) Shown(ctx context.Context, reader client.Reader, obj client.Object, selector labels.Selector, cached []*corev1.Pod, belongs func(*corev1.Pod) bool) (bool, error) {
	f.mu.Lock()
	_, ok := f.known[obj.GetUID()]
	f.mu.Unlock()
	if ok {
		return true, nil
	}
	var list corev1.PodList
	if err := reader.List(ctx, &list, client.InNamespace(obj.GetNamespace()), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	goes := make(map[types.UID]bool, len(cached))
	for _, pod := range cached {
		goes[pod.UID] = pod.DeletionTimestamp != nil
	}
	for i := range list.Items {
		pod := &list.Items[i]
		if !belongs(pod) {
			continue
		}
		if going, ok := goes[pod.UID]; !ok || going != (pod.DeletionTimestamp != nil) {
			return false, nil
		}
		delete(goes, pod.UID)
	}
	if len(goes) > 0 {
		return false, nil // what is left is gone already
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = map[types.UID]struct{}{}
	}
	f.known[obj.GetUID()] = struct{}{}
	return true, nil
}

// Forget drops what is known of an object that is gone.
func (f *Pods) Forget(uid types.UID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, uid)
}
