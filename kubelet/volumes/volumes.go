// Package volumes makes a pod's volumes ready on the node and takes them away
// again. One file holds one volume type.
//
// A volume lives in <root>/pods/<uid>/volumes/<plugin>/<name>. SetUp is called
// again whenever an object changes that the pod refers to: it must be
// idempotent, and cheap when nothing changed. TearDown works from what is on
// the disk, so that nothing leaks when the kubelet was restarted in between.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/spec"
)

// Objects gives the objects that a pod has registered.
type Objects interface {
	Get(ctx context.Context, ref objects.Ref) (ctrl.Object, error)
}

// Tokens asks the API server for a token of a service account.
type Tokens interface {
	Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// Request is one volume to set up.
type Request struct {
	Pod    *corev1.Pod
	Volume *corev1.Volume
	Fields spec.Fields
	// Dir is the volume's own directory; its parent exists.
	Dir string
}

// Volume is one that is ready.
type Volume struct {
	// Path is where it is on the node.
	Path string
	// ReadOnly volumes are mounted read-only whatever the container says.
	ReadOnly bool
	// Device says that Path is a block device.
	Device bool
	// Groups are supplemental groups that may read it.
	Groups []int64
	// Image is the image that the runtime mounts by itself; Path is empty.
	Image *corev1.ImageVolumeSource
	// Refresh is when SetUp wants to be called again; zero means never.
	Refresh time.Time
}

// Plugin is one type of volume.
type Plugin interface {
	// Name is upstream's: kubernetes.io/configmap.
	Name() string
	Supports(v *corev1.Volume) bool
	SetUp(ctx context.Context, req Request) (Volume, error)
	// TearDown undoes SetUp. What is mounted below dir is unmounted already
	// only when the plugin has done so.
	TearDown(ctx context.Context, dir string) error
}

// Config is what a Manager needs.
type Config struct {
	RootDir string // the kubelet's
	Objects Objects
	Tokens  Tokens
	// Certificates may be nil: projected pod certificates then fail.
	Certificates Certificates
	Reader       ctrl.Reader // for cluster-wide trust bundles
	Logger       *slog.Logger
	Now          func() time.Time
	// StorageDir holds the node's own PersistentVolumes; none when empty.
	StorageDir string
	// Node is this node, nil as long as it is not known.
	Node func() *corev1.Node
	// Plugins are tried before those of this package.
	Plugins []Plugin
}

// Manager sets up the volumes of all pods. Safe for concurrent use by
// different pods; calls for one pod must not overlap.
type Manager struct {
	cfg     Config
	plugins []Plugin
	certs   *certCache
	claims  *claim

	mu   sync.Mutex
	pods map[types.UID]map[string]Volume
}

// New makes a manager.
func New(cfg Config) *Manager {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	certs := &certCache{source: cfg.Certificates, now: cfg.Now, certs: map[certKey]*certificate{}}
	source := &payloads{objects: cfg.Objects, reader: cfg.Reader, tokens: newTokenCache(cfg.Tokens, cfg.Now), certs: certs}
	if cfg.Node == nil {
		cfg.Node = func() *corev1.Node { return nil }
	}
	claims := &claim{reader: cfg.Reader, node: cfg.Node, root: cfg.StorageDir, ready: map[string]mounted{}}
	return &Manager{cfg: cfg, certs: certs, claims: claims, pods: map[types.UID]map[string]Volume{}, plugins: append(cfg.Plugins,
		&emptyDir{},
		&hostPath{},
		&image{},
		claims,
		&files{name: "kubernetes.io/configmap", make: source.configMap, is: func(v *corev1.Volume) bool { return v.ConfigMap != nil }},
		&files{name: "kubernetes.io/secret", make: source.secret, is: func(v *corev1.Volume) bool { return v.Secret != nil }},
		&files{name: "kubernetes.io/downward-api", make: source.downward, is: func(v *corev1.Volume) bool { return v.DownwardAPI != nil }},
		&files{name: "kubernetes.io/projected", make: source.projected, is: func(v *corev1.Volume) bool { return v.Projected != nil }},
	)}
}

// PodDir is where a pod's files live.
func (m *Manager) PodDir(uid types.UID) string {
	return filepath.Join(m.cfg.RootDir, "pods", string(uid))
}

func (m *Manager) plugin(v *corev1.Volume) Plugin {
	for _, p := range m.plugins {
		if p.Supports(v) {
			return p
		}
	}
	return nil
}

// Failure is a volume that could not be set up.
type Failure struct {
	Volume string
	Err    error
}

// Error is upstream's text for events.
func (f *Failure) Error() string {
	var unknown *unprocessed
	if errors.As(f.Err, &unknown) {
		return unknown.Error()
	}
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", f.Volume, f.Err)
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// SetUp makes every volume of the pod ready, or brings those that are ready up
// to date. It goes on after a failure and returns all of them as *Failure,
// joined. refresh is when to call again at the latest; zero means never.
func (m *Manager) SetUp(ctx context.Context, pod *corev1.Pod, fields spec.Fields) (refresh time.Time, err error) {
	ready := map[string]Volume{}
	var failures []error
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		got, err := m.setUp(ctx, pod, v, fields)
		if err != nil {
			failures = append(failures, &Failure{Volume: v.Name, Err: err})
			if old, ok := m.Ready(pod.UID)[v.Name]; ok {
				ready[v.Name] = old // what containers have mounted stays
			}
			continue
		}
		ready[v.Name] = got
		if !got.Refresh.IsZero() && (refresh.IsZero() || got.Refresh.Before(refresh)) {
			refresh = got.Refresh
		}
	}
	m.mu.Lock()
	m.pods[pod.UID] = ready
	m.mu.Unlock()
	return refresh, errors.Join(failures...)
}

func (m *Manager) setUp(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, fields spec.Fields) (Volume, error) {
	p := m.plugin(v)
	if p == nil {
		return Volume{}, errors.New("no volume plugin matched")
	}
	dir := filepath.Join(m.PodDir(pod.UID), "volumes", escape(p.Name()), v.Name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return Volume{}, err
	}
	return p.SetUp(ctx, Request{Pod: pod, Volume: v, Fields: fields, Dir: dir})
}

func escape(plugin string) string { return strings.ReplaceAll(plugin, "/", "~") }

// Ready returns the pod's volumes that are set up, by name: read only.
func (m *Manager) Ready(uid types.UID) map[string]Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pods[uid]
}

// TearDown removes all that the pod has on this node, mounts first. A pod
// without anything here is no error. The pod's directory is only removed
// when nothing is mounted below it: another's files could be lost.
func (m *Manager) TearDown(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	delete(m.pods, uid)
	m.mu.Unlock()
	m.certs.forget(uid)
	dir := m.PodDir(uid)
	if uid == "" || strings.ContainsAny(string(uid), "/\x00") || uid == "." || uid == ".." {
		return fmt.Errorf("%q is no uid of a pod", uid)
	}
	if _, err := os.Lstat(dir); os.IsNotExist(err) {
		return nil
	}
	if err := unmountBelow(filepath.Join(dir, "volume-subpaths")); err != nil {
		return err
	}
	for _, p := range m.plugins {
		base := filepath.Join(dir, "volumes", escape(p.Name()))
		entries, err := os.ReadDir(base)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, e := range entries {
			if err := p.TearDown(ctx, filepath.Join(base, e.Name())); err != nil {
				return fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", e.Name(), err)
			}
		}
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// UIDs lists the pods that have a directory on this node.
func (m *Manager) UIDs() ([]types.UID, error) {
	entries, err := os.ReadDir(filepath.Join(m.cfg.RootDir, "pods"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	var uids []types.UID
	for _, e := range entries {
		uids = append(uids, types.UID(e.Name()))
	}
	return uids, err
}

// fsGroup is the group that owns the pod's volumes, or nil.
func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}
