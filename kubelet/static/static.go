// Package static runs pods from manifests in a directory, and shows each in
// the API as a mirror pod.
package static

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/kubelet/pods"
)

// maxManifest is far beyond any pod that etcd would take.
const maxManifest = 2 << 20

// Config is what a Source needs.
type Config struct {
	Dir      string
	NodeName string
	NodeUID  func() types.UID
	Client   ctrl.Client
	Reader   ctrl.Reader
	Logger   *slog.Logger
	// Default fills in what the API server would; it may be nil.
	Default func(pod *corev1.Pod)
	Update  func(pod *corev1.Pod)
	Remove  func(pod *corev1.Pod)
}

// Source follows a directory.
type Source struct {
	cfg  Config
	have map[types.UID]*corev1.Pod
	gone []*corev1.Pod // whose mirrors are to be deleted
	poke chan struct{}

	loaded chan struct{}
}

// New makes a source.
func New(cfg Config) *Source {
	return &Source{cfg: cfg, have: map[types.UID]*corev1.Pod{}, poke: make(chan struct{}, 1), loaded: make(chan struct{})}
}

// Loaded is closed when the manifests have been read for the first time: until
// then a static pod that runs already looks like one that nobody wants.
func (s *Source) Loaded() <-chan struct{} { return s.loaded }

// Poke has the mirror pods looked at: one was changed or deleted.
func (s *Source) Poke() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// Run follows the directory until ctx ends. A directory that does not exist
// is made.
func (s *Source) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("static pods: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("static pods: %w", err)
	}
	defer w.Close()
	if err := w.Add(s.cfg.Dir); err != nil {
		return fmt.Errorf("static pods: watch %s: %w", s.cfg.Dir, err)
	}
	s.load()
	close(s.loaded)
	for {
		var again <-chan time.Time
		if s.cfg.NodeUID() == "" { // not registered yet: a mirror's owner is missing
			again = time.After(100 * time.Millisecond)
		} else if err := s.mirror(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("mirror pods", "err", err)
			again = time.After(5 * time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return errors.New("static pods: the watch of the directory ended")
			}
			s.load()
		case err := <-w.Errors:
			s.cfg.Logger.Warn("static pods", "err", err)
			s.load()
		case <-s.poke:
		case <-again:
		}
	}
}

// load reads every manifest. A file that does not parse leaves the pod alone
// that it described before, if there is one.
func (s *Source) load() {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		s.cfg.Logger.Error("static pods", "err", err)
		return
	}
	now, broken := map[types.UID]*corev1.Pod{}, map[string]bool{}
	named := map[types.NamespacedName]*corev1.Pod{}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		pod, err := s.read(filepath.Join(s.cfg.Dir, e.Name()))
		if err != nil {
			s.cfg.Logger.Error("static pod not read", "file", e.Name(), "err", err)
			broken[e.Name()] = true
			continue
		}
		// Of two files that name the same pod, as a copy that was kept beside the
		// manifest, one counts: that which runs, or else the first.
		if other := named[nameOf(pod)]; other != nil {
			s.cfg.Logger.Error("two files name the same static pod", "pod", nameOf(pod), "file", other.Annotations[annotationFile], "other", e.Name())
			if s.have[pod.UID] == nil {
				continue
			}
			delete(now, other.UID)
		}
		now[pod.UID], named[nameOf(pod)] = pod, pod
	}
	for uid, pod := range s.have {
		if now[uid] != nil {
			now[uid] = pod
			continue
		}
		if broken[pod.Annotations[annotationFile]] {
			if other := named[nameOf(pod)]; other != nil {
				delete(now, other.UID)
			}
			now[uid] = pod
			continue
		}
		s.cfg.Remove(pod)
		s.gone = append(s.gone, pod)
	}
	for uid, pod := range now {
		if s.have[uid] == nil {
			s.cfg.Update(pod)
		}
	}
	s.have = now
}

func nameOf(pod *corev1.Pod) types.NamespacedName { return ctrl.ObjectKeyFromObject(pod) }

const annotationFile = "proa.dev/manifest"

func (s *Source) read(path string) (*corev1.Pod, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxManifest {
		return nil, errors.New("no regular file of a manifest's size")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(data, pod); err != nil {
		return nil, err
	}
	if pod.Kind != "Pod" || pod.Name == "" || len(pod.Spec.Containers) == 0 {
		return nil, errors.New("no manifest of a Pod with a name and containers")
	}
	if pod.Spec.ServiceAccountName != "" {
		return nil, errors.New("a static pod may not have a service account")
	}
	return s.complete(pod, path, data), nil
}

// complete names the pod after its node and gives it an identity that changes
// with its content.
func (s *Source) complete(pod *corev1.Pod, path string, data []byte) *corev1.Pod {
	pod.Name += "-" + s.cfg.NodeName
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	sum := sha256.New()
	for _, part := range [][]byte{[]byte(s.cfg.NodeName), []byte(path), data} {
		_, _ = sum.Write(part) // a hash never fails
	}
	hash := hex.EncodeToString(sum.Sum(nil)[:16])
	pod.UID = types.UID(hash)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[pods.AnnotationHash] = hash
	pod.Annotations[pods.AnnotationSource] = "file"
	pod.Annotations[pods.AnnotationSeen] = time.Now().Format(time.RFC3339Nano)
	pod.Annotations[annotationFile] = filepath.Base(path)
	pod.Spec.NodeName = s.cfg.NodeName
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})
	off := false
	pod.Spec.AutomountServiceAccountToken = &off
	pod.CreationTimestamp = metav1.Now()
	if s.cfg.Default != nil {
		s.cfg.Default(pod)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	return pod
}

// mirror brings the API's mirror pods to the static pods.
func (s *Source) mirror(ctx context.Context) error {
	var errs []error
	var again []*corev1.Pod
	for _, pod := range s.gone {
		if err := s.unmirror(ctx, pod); err != nil {
			errs, again = append(errs, err), append(again, pod)
		}
	}
	s.gone = again
	for _, pod := range s.have {
		errs = append(errs, s.mirrorOne(ctx, pod))
	}
	return errors.Join(errs...)
}

// unmirror deletes the mirror of a static pod that is gone, unless another
// took its name.
func (s *Source) unmirror(ctx context.Context, pod *corev1.Pod) error {
	have := &corev1.Pod{}
	err := s.cfg.Reader.Get(ctx, ctrl.ObjectKeyFromObject(pod), have)
	if noPod(err) {
		return nil
	}
	if err != nil || have.Annotations[pods.AnnotationMirror] != pod.Annotations[pods.AnnotationHash] {
		return err
	}
	return s.Gone(ctx, have)
}

func (s *Source) mirrorOne(ctx context.Context, pod *corev1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	hash := pod.Annotations[pods.AnnotationHash]
	have := &corev1.Pod{}
	err := s.cfg.Reader.Get(ctx, ctrl.ObjectKeyFromObject(pod), have)
	if err == nil {
		if have.Annotations[pods.AnnotationMirror] == hash && have.DeletionTimestamp == nil {
			return nil
		}
		if !pods.IsMirror(have) {
			return fmt.Errorf("a pod %s/%s that is no mirror is in the way", have.Namespace, have.Name)
		}
		zero := int64(0)
		if err := s.cfg.Client.Delete(ctx, have, &ctrl.DeleteOptions{GracePeriodSeconds: &zero,
			Preconditions: &metav1.Preconditions{UID: &have.UID}}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	} else if !noPod(err) {
		return err
	}
	mirror := pod.DeepCopy()
	mirror.Annotations[pods.AnnotationMirror] = hash
	mirror.UID, mirror.ResourceVersion, mirror.CreationTimestamp = "", "", metav1.Time{}
	controller := true
	mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: s.cfg.NodeName, UID: s.cfg.NodeUID(), Controller: &controller}}
	return s.cfg.Client.Create(ctx, mirror)
}

// Gone removes a mirror whose static pod is no more.
func (s *Source) Gone(ctx context.Context, mirror *corev1.Pod) error {
	zero := int64(0)
	err := s.cfg.Client.Delete(ctx, mirror, &ctrl.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &mirror.UID}})
	return ctrl.IgnoreNotFound(err)
}

// noPod says whether a read failed because the pod is not there. A node may
// read its own pods alone, so that it is told nothing of one that is absent.
func noPod(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) }
