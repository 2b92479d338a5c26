package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/internal/localvolume"
)

// claim is a PersistentVolume that a claim is bound to: a directory or a block
// device of this node. A volume that is set up stays as it is until its pod
// goes, whatever becomes of the claim.
type claim struct {
	reader ctrl.Reader
	node   func() *corev1.Node
	root   string // of the node's own volumes

	mu    sync.Mutex
	ready map[string]mounted // by the volume's directory
}

type mounted struct {
	pod    types.UID
	pv     string
	volume Volume
}

// unprocessed is a volume of which is not known what to mount.
type unprocessed struct {
	volume string
	err    error
}

func (u *unprocessed) Error() string {
	return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %v", u.volume, u.volume, u.err)
}

func (u *unprocessed) Unwrap() error { return u.err }

func (*claim) Name() string { return "kubernetes.io/local-volume" }

func (*claim) Supports(v *corev1.Volume) bool {
	return v.PersistentVolumeClaim != nil || v.Ephemeral != nil
}

func (c *claim) SetUp(ctx context.Context, req Request) (Volume, error) {
	c.mu.Lock()
	have, ok := c.ready[req.Dir]
	c.mu.Unlock()
	if ok {
		return have.volume, nil
	}
	pv, readOnly, err := c.find(ctx, req)
	if err != nil {
		return Volume{}, &unprocessed{req.Volume.Name, err}
	}
	if node := c.node(); node != nil {
		if err := volume.CheckNodeAffinity(pv, node.Labels); err != nil {
			return Volume{}, fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", pv.Name, err)
		}
	}
	if err := c.take(req, pv); err != nil {
		return Volume{}, err
	}
	v, err := c.open(req, pv)
	v.ReadOnly = readOnly
	if err == nil {
		err = os.MkdirAll(req.Dir, 0o750) // what TearDown and a later start find
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.ready, req.Dir)
		return Volume{}, err
	}
	c.ready[req.Dir] = mounted{req.Pod.UID, pv.Name, v}
	return v, nil
}

// take reserves the volume for a pod, which for one with the mode
// ReadWriteOncePod must be the only one.
func (c *claim) take(req Request, pv *corev1.PersistentVolume) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range pv.Spec.AccessModes {
		if m != corev1.ReadWriteOncePod {
			continue
		}
		for _, other := range c.ready {
			if other.pv == pv.Name && other.pod != req.Pod.UID {
				return errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
			}
		}
	}
	c.ready[req.Dir] = mounted{pod: req.Pod.UID, pv: pv.Name}
	return nil
}

// TearDown forgets the volume; its content is not the pod's.
func (c *claim) TearDown(_ context.Context, dir string) error {
	c.mu.Lock()
	delete(c.ready, dir)
	c.mu.Unlock()
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// used says whether a pod of this node has the volume mounted.
func (c *claim) used(pv string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.ready {
		if m.pv == pv {
			return true
		}
	}
	return false
}

// find returns the volume that the claim is bound to.
func (c *claim) find(ctx context.Context, req Request) (pv *corev1.PersistentVolume, readOnly bool, err error) {
	name := req.Pod.Name + "-" + req.Volume.Name
	if source := req.Volume.PersistentVolumeClaim; source != nil {
		name, readOnly = source.ClaimName, source.ReadOnly
	}
	pvc, err := c.claim(ctx, req, name)
	if err != nil {
		return nil, false, fmt.Errorf("error processing PVC %s/%s: %w", req.Pod.Namespace, name, err)
	}
	pv = &corev1.PersistentVolume{}
	if err := c.reader.Get(ctx, types.NamespacedName{Name: pvc.Spec.VolumeName}, pv); err != nil {
		return nil, false, fmt.Errorf("error processing PVC %s/%s: failed to fetch PV %s from API server: %w", pvc.Namespace, name, pvc.Spec.VolumeName, err)
	}
	switch ref := pv.Spec.ClaimRef; {
	case ref == nil:
		return nil, false, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name)
	case ref.UID != pvc.UID:
		return nil, false, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", pv.Name, ref.UID, pvc.UID)
	}
	return pv, readOnly, checkMode(req, pv)
}

func (c *claim) claim(ctx context.Context, req Request, name string) (*corev1.PersistentVolumeClaim, error) {
	pvc := &corev1.PersistentVolumeClaim{}
	if err := c.reader.Get(ctx, types.NamespacedName{Namespace: req.Pod.Namespace, Name: name}, pvc); err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	if req.Volume.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(req.Pod, pvc); err != nil {
			return nil, err
		}
	}
	// A pod that had the volume before this kubelet started goes on with it.
	if _, err := os.Stat(req.Dir); pvc.DeletionTimestamp != nil && err != nil {
		return nil, errors.New("PVC is being deleted")
	}
	if pvc.Status.Phase != corev1.ClaimBound || pvc.Spec.VolumeName == "" {
		return nil, errors.New("PVC is not bound")
	}
	return pvc, nil
}

// checkMode wants containers to use a volume as what it is.
func checkMode(req Request, pv *corev1.PersistentVolume) error {
	block := ptr.Deref(pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock
	check := func(c *corev1.Container) error {
		for _, m := range c.VolumeMounts {
			if block && m.Name == req.Volume.Name {
				return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", req.Volume.Name)
			}
		}
		for _, d := range c.VolumeDevices {
			if !block && d.Name == req.Volume.Name {
				return fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", req.Volume.Name)
			}
		}
		return nil
	}
	for _, list := range [][]corev1.Container{req.Pod.Spec.InitContainers, req.Pod.Spec.Containers} {
		for i := range list {
			if err := check(&list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// open makes the volume's content ready.
func (c *claim) open(req Request, pv *corev1.PersistentVolume) (Volume, error) {
	block := ptr.Deref(pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock
	switch {
	case pv.Spec.HostPath != nil && !block:
		source := pv.Spec.HostPath
		if source.Type != nil {
			if err := checkHostPath(source.Path, *source.Type); err != nil {
				return Volume{}, err
			}
		}
		return Volume{Path: source.Path}, nil
	case pv.Spec.Local != nil && block:
		if err := checkHostPath(pv.Spec.Local.Path, corev1.HostPathBlockDev); err != nil {
			return Volume{}, err
		}
		return Volume{Path: pv.Spec.Local.Path, Device: true}, nil
	case pv.Spec.Local != nil:
		return c.openLocal(req, pv)
	}
	return Volume{}, errors.New("no volume plugin matched")
}

func (c *claim) openLocal(req Request, pv *corev1.PersistentVolume) (Volume, error) {
	path := pv.Spec.Local.Path
	if c.owns(pv) {
		if err := makeOpen(path); err != nil {
			return Volume{}, err
		}
	}
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return Volume{}, fmt.Errorf("path %q does not exist", path)
	case err != nil:
		return Volume{}, err
	case !info.IsDir():
		return Volume{}, fmt.Errorf("path %q is not a directory", path)
	}
	if gid := fsGroup(req.Pod); gid != nil && (req.Volume.PersistentVolumeClaim == nil || !req.Volume.PersistentVolumeClaim.ReadOnly) {
		if err := ownTree(path, int(*gid), req.Pod.Spec.SecurityContext.FSGroupChangePolicy); err != nil {
			return Volume{}, fmt.Errorf("applyFSGroup failed for vol %s: %w", pv.Name, err)
		}
	}
	return Volume{Path: path}, nil
}

// owns says that this node makes and removes the volume's directory, which
// must be where such directories are: nothing else is ever made or removed.
func (c *claim) owns(pv *corev1.PersistentVolume) bool {
	node := c.node()
	return c.root != "" && node != nil && localvolume.HeldBy(pv, node.Name) && pv.Spec.ClaimRef != nil &&
		pv.Spec.Local.Path == filepath.Join(c.root, localvolume.Directory(pv.Name, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name))
}

// makeOpen makes a directory that every user may write to; one that is there
// is its users'.
func makeOpen(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	err := os.Mkdir(path, 0o777)
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o777) // the umask may have cut it
}
