package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/objects"
)

// pull is a pull that runs beside the worker.
type pull struct{ cancel context.CancelFunc }

// ensureImage returns the image that a container starts from when it is there,
// else when to ask again; a pull wakes the worker at its end.
func (w *worker) ensureImage(ctx context.Context, c *corev1.Container, k *container) (*runtimeapi.Image, time.Time) {
	if k.pull != nil {
		return nil, time.Time{}
	}
	for _, v := range imageVolumes(w.pod, c) {
		sub := w.container(v.key)
		if sub.pull != nil {
			return nil, time.Time{}
		}
		image, at := w.wantImage(ctx, c, sub, v.Reference, v.PullPolicy)
		if image == nil {
			if sub.waiting != nil {
				k.wait(sub.waiting.Reason, sub.waiting.Message)
			}
			return nil, at
		}
		sub.image = image
	}
	return w.wantImage(ctx, c, k, c.Image, c.ImagePullPolicy)
}

// imageVolume is an image that a container mounts.
type imageVolume struct {
	*corev1.ImageVolumeSource
	key string // of its entry, which no container can have: a slash is no name
}

// imageVolumes lists those of a container: the runtime mounts them, but does
// not pull.
func imageVolumes(pod *corev1.Pod, c *corev1.Container) (out []imageVolume) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image != nil && slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
			out = append(out, imageVolume{v.Image, "volume/" + v.Name})
		}
	}
	return out
}

func (w *worker) wantImage(ctx context.Context, c *corev1.Container, k *container, image string, policy corev1.PullPolicy) (*runtimeapi.Image, time.Time) {
	if k.image != nil {
		return k.image, time.Time{}
	}
	if k.imageErr != nil && w.now().Before(k.imageErr.Retry) {
		return nil, k.imageErr.Retry
	}
	var missing []string
	req := images.Request{Pod: w.pod, Image: image, Policy: policy, Sandbox: w.sandboxConfig(),
		Event: w.eventer(c.Name), Secrets: sync.OnceValue(func() (found []corev1.Secret) {
			found, missing = w.pullSecrets(ctx)
			return found
		})}
	have, err := w.m.cfg.Images.Present(ctx, req) // also after a failure: somebody may have brought it
	if have != nil {
		k.imageErr = nil
		return have, time.Time{}
	}
	if err != nil {
		return nil, w.imageFailed(k, err)
	}
	req.Secrets() // here, since the pull runs beside the worker
	w.startPull(k, req, missing)
	return nil, time.Time{}
}

func (w *worker) imageFailed(k *container, err error) time.Time {
	var failed *images.Error
	if !errors.As(err, &failed) {
		failed = &images.Error{Reason: images.ReasonErrImagePull, Message: err.Error(), Retry: w.now().Add(time.Second)}
	}
	k.imageErr = failed
	k.wait(failed.Reason, failed.Message)
	return failed.Retry
}

// startPull pulls beside the worker, which stays free for news. missing are the
// secrets that might have helped.
func (w *worker) startPull(k *container, req images.Request, missing []string) {
	ctx, cancel := context.WithCancel(w.m.ctx)
	k.pull = &pull{cancel: cancel}
	begin := w.now()
	w.wg.Go(func() {
		defer cancel()
		image, err := w.m.cfg.Images.Pull(ctx, req)
		took := w.m.cfg.Clock.Since(begin)
		if err == nil {
			w.m.cfg.Metrics.Pulled(image.GetSize(), took)
		}
		w.call(func() {
			k.pull = nil
			w.pulled += took
			if w.state != running {
				return
			}
			if err != nil {
				w.imageFailed(k, err)
				if len(missing) > 0 && k.imageErr.Reason == images.ReasonErrImagePull {
					w.event("", corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf(
						"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
				}
				return
			}
			k.image, k.imageErr = image, nil
		})
	})
}

// pullSecrets gets the secrets that exist of those that the pod names.
func (w *worker) pullSecrets(ctx context.Context) (found []corev1.Secret, missing []string) {
	for _, ref := range w.pod.Spec.ImagePullSecrets {
		if ref.Name == "" { // which the API once let pass
			continue
		}
		obj, err := w.m.cfg.Objects.Get(ctx, objects.Ref{Kind: objects.Secret, Namespace: w.pod.Namespace, Name: ref.Name})
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		if s, ok := obj.(*corev1.Secret); ok {
			found = append(found, *s)
		}
	}
	return found, missing
}
