package volumes

import (
	"context"
	"errors"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/internal/localvolume"
)

const (
	reclaimAgain   = 10 * time.Second // what could not be removed
	reclaimTimeout = 10 * time.Minute // of one watch
)

// Reclaim removes the directories of the node's own volumes when their claims
// are gone, and then the volumes themselves, until ctx ends. A volume that
// someone deletes by hand keeps its directory.
func (m *Manager) Reclaim(ctx context.Context, c ctrl.WithWatch, clk clock.Clock) {
	if m.cfg.StorageDir == "" {
		return
	}
	for ctx.Err() == nil {
		if err := m.watchReleased(ctx, c, clk); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Debug("watch of the node's volumes", "err", err)
		}
		timer := clk.NewTimer(reclaimAgain)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// watchReleased follows the node's volumes: the watch begins with all of them.
func (m *Manager) watchReleased(ctx context.Context, c ctrl.WithWatch, clk clock.Clock) error {
	ctx, cancel := context.WithTimeout(ctx, reclaimTimeout)
	defer cancel()
	node := m.cfg.Node()
	if node == nil {
		return nil
	}
	w, err := c.Watch(ctx, &corev1.PersistentVolumeList{}, ctrl.MatchingLabels(localvolume.Selector(node.Name)))
	if err != nil {
		return err
	}
	defer w.Stop()
	tick := clk.NewTimer(reclaimAgain)
	defer tick.Stop()
	failed := map[string]*corev1.PersistentVolume{}
	try := func(pv *corev1.PersistentVolume) {
		delete(failed, pv.Name)
		if err := m.reclaim(ctx, c, pv); err != nil {
			failed[pv.Name] = pv
			m.cfg.Logger.Warn("volume not reclaimed", "volume", pv.Name, "err", err, "again", reclaimAgain)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C():
			for _, pv := range failed {
				try(pv)
			}
			tick.Reset(reclaimAgain)
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			pv, isVolume := event.Object.(*corev1.PersistentVolume)
			switch {
			case event.Type == watch.Error:
				return apierrors.FromObject(event.Object)
			case !isVolume:
			case event.Type == watch.Deleted:
				delete(failed, pv.Name)
			case event.Type == watch.Added || event.Type == watch.Modified:
				try(pv)
			}
		}
	}
}

// reclaim removes a volume that is to go.
func (m *Manager) reclaim(ctx context.Context, c ctrl.Client, pv *corev1.PersistentVolume) error {
	if !localvolume.Reclaimable(pv) || pv.DeletionTimestamp != nil || !m.claims.owns(pv) {
		return nil
	}
	if m.claims.used(pv.Name) {
		return errors.New("a pod still has it")
	}
	if err := os.RemoveAll(pv.Spec.Local.Path); err != nil {
		return err
	}
	err := c.Delete(ctx, pv, ctrl.Preconditions{UID: &pv.UID, ResourceVersion: &pv.ResourceVersion})
	if apierrors.IsConflict(err) {
		return nil // the watch has the newer one
	}
	return ctrl.IgnoreNotFound(err)
}
