// Package images sees to it that a container's image is on the node: pull
// policies, credentials, back-off, and the removal of images that fill the
// disk without being used.
package images

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

// Reasons that a container waits with, as upstream names them.
const (
	ReasonErrImagePull     = "ErrImagePull"
	ReasonBackOff          = "ImagePullBackOff"
	ReasonInvalidName      = "InvalidImageName"
	ReasonNeverPull        = "ErrImageNeverPull"
	ReasonInspect          = "ImageInspectError"
	ReasonRegistryDown     = "RegistryUnavailable"
	ReasonSignature        = "SignatureValidationFailed"
	firstBackOff           = 10 * time.Second
	maxBackOff             = 5 * time.Minute
	maxBackOffEntries      = 4096
	defaultParallelPulls   = 8
	defaultMaxPullDuration = time.Hour
)

// Error says why an image is not there.
type Error struct {
	Reason  string
	Message string
	// Retry is when another attempt makes sense; zero means now.
	Retry time.Time
}

func (e *Error) Error() string { return e.Message }

// Event is told of what happens: type, reason and message of an API event.
type Event func(kind, reason, message string)

// Request is an image that a container wants.
type Request struct {
	Pod    *corev1.Pod
	Image  string
	Policy corev1.PullPolicy
	// Secrets gets the pod's; nil has none.
	Secrets func() []corev1.Secret
	Sandbox *runtimeapi.PodSandboxConfig
	Event   Event
}

// Config is what a Puller needs.
type Config struct {
	Client *cri.Client
	Now    func() time.Time
	// Dir keeps who may use the images that were pulled.
	Dir string
	// Parallel bounds the pulls that run at once; 0 means 8.
	Parallel int
}

// Puller pulls images. Safe for concurrent use.
type Puller struct {
	cfg     Config
	slot    chan struct{}
	records *records

	mu      sync.Mutex
	backoff map[backoffKey]*backoff
}

type backoffKey struct {
	pod   types.UID
	image string
}

type backoff struct {
	delay time.Duration
	since time.Time
	last  string // why the last pull failed
}

// New makes a puller.
func New(cfg Config) (*Puller, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = defaultParallelPulls
	}
	r, err := openRecords(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("records of images: %w", err)
	}
	return &Puller{cfg: cfg, slot: make(chan struct{}, cfg.Parallel), records: r, backoff: map[backoffKey]*backoff{}}, nil
}

// Status returns the image if it is on the node, else nil.
func (p *Puller) Status(ctx context.Context, ref string) (*runtimeapi.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	got, err := p.cfg.Client.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return nil, err
	}
	return got.Image, nil
}

// Normalize adds the tag that an image name leaves out.
func Normalize(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", name, err)
	}
	if reference.IsNameOnly(named) {
		return name + ":latest", nil
	}
	return name, nil
}

// NameOf is what the runtime's store calls an image that was found by ref: one
// of its full names. Not every way into the store leaves its id as a name.
func NameOf(image *runtimeapi.Image, ref string) string {
	full := fullName(ref)
	names := append(append([]string{}, image.RepoTags...), image.RepoDigests...)
	if slices.Contains(names, full) {
		return full
	}
	if len(names) > 0 {
		return names[0]
	}
	return image.Id
}

// fullName is a reference with all that it may leave out.
func fullName(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TagNameOnly(named).String()
}

// PolicyOf is the pull policy that holds when a spec names none.
func PolicyOf(policy corev1.PullPolicy, image string) corev1.PullPolicy {
	if policy != "" {
		return policy
	}
	if ref, err := Normalize(image); err == nil && strings.HasSuffix(ref, ":latest") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// Present answers at once and without a pull when the image is on the node, the
// policy lets it be used, and its registry let the pod have it before. Nil
// without an error means: Pull.
func (p *Puller) Present(ctx context.Context, req Request) (*runtimeapi.Image, error) {
	ref, err := Normalize(req.Image)
	if err != nil {
		req.Event(corev1.EventTypeWarning, "InspectFailed", fmt.Sprintf("Failed to apply default image tag %q: %v", req.Image, err))
		req.Event(corev1.EventTypeWarning, "Failed", "Error: "+ReasonInvalidName)
		return nil, &Error{Reason: ReasonInvalidName, Message: fmt.Sprintf("Failed to apply default image tag %q: %v", req.Image, err),
			Retry: p.cfg.Now().Add(maxBackOff)}
	}
	have, err := p.Status(ctx, ref)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", ref, err)
		req.Event(corev1.EventTypeWarning, "InspectFailed", message)
		req.Event(corev1.EventTypeWarning, "Failed", "Error: "+ReasonInspect)
		return nil, &Error{Reason: ReasonInspect, Message: message, Retry: p.cfg.Now().Add(firstBackOff)}
	}
	policy := PolicyOf(req.Policy, req.Image)
	usable := have != nil && policy != corev1.PullAlways && p.records.may(ref, have.Id, func() []source { return req.sources(ref) })
	switch {
	case usable:
		req.Event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", req.Image))
		return have, nil
	case policy == corev1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", req.Image)
		req.Event(corev1.EventTypeWarning, "ErrImageNeverPull", message)
		req.Event(corev1.EventTypeWarning, "Failed", "Error: "+ReasonNeverPull)
		return nil, &Error{Reason: ReasonNeverPull, Message: message, Retry: p.cfg.Now().Add(firstBackOff)}
	}
	return nil, nil
}

// sources are those of the pod's secrets that hold something for the image.
func (r *Request) sources(ref string) (out []source) {
	found, err := credentials(ref, r.secrets())
	if err != nil {
		return nil // which a pull tells of
	}
	for _, c := range found {
		out = append(out, c.from)
	}
	return out
}

func (r *Request) secrets() []corev1.Secret {
	if r.Secrets == nil {
		return nil
	}
	return r.Secrets()
}

// Pull pulls the image, or says why it does not.
func (p *Puller) Pull(ctx context.Context, req Request) (*runtimeapi.Image, error) {
	ref, err := Normalize(req.Image)
	if err != nil {
		return nil, &Error{Reason: ReasonInvalidName, Message: err.Error()}
	}
	key := backoffKey{req.Pod.UID, ref}
	if err := p.inBackOff(key, req); err != nil {
		return nil, err
	}
	select {
	case p.slot <- struct{}{}:
		defer func() { <-p.slot }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	req.Event(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", req.Image))
	began := p.cfg.Now()
	image, err := p.pull(ctx, ref, req)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		text := cri.PullMessage(err)
		req.Event(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", req.Image, text))
		reason, message := explain(req.Image, text)
		req.Event(corev1.EventTypeWarning, "Failed", "Error: "+reason)
		return nil, &Error{Reason: reason, Message: message, Retry: p.failed(key, reason+": "+message)}
	}
	p.mu.Lock()
	delete(p.backoff, key)
	p.mu.Unlock()
	took := p.cfg.Now().Sub(began).Truncate(time.Millisecond)
	req.Event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		req.Image, took, took, image.Size))
	return image, nil
}

// explain names what the runtime has a word for, with which its text begins.
func explain(image, text string) (reason, message string) {
	for _, known := range []struct{ reason, because string }{
		{ReasonRegistryDown, "the registry is unavailable"},
		{ReasonSignature, "the signature validation failed"},
	} {
		if more, ok := strings.CutPrefix(text, known.reason); ok {
			return known.reason, fmt.Sprintf("image pull failed for %s because %s%s", image, known.because, more)
		}
	}
	return ReasonErrImagePull, text
}

func (p *Puller) inBackOff(key backoffKey, req Request) error {
	p.mu.Lock()
	b := p.backoff[key]
	p.mu.Unlock()
	if b == nil {
		return nil
	}
	until := b.since.Add(b.delay)
	if !p.cfg.Now().Before(until) {
		return nil
	}
	req.Event(corev1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", req.Image))
	req.Event(corev1.EventTypeWarning, "Failed", "Error: "+ReasonBackOff)
	return &Error{Reason: ReasonBackOff, Message: fmt.Sprintf("Back-off pulling image %q: %s", req.Image, b.last), Retry: until}
}

// failed lengthens the back-off and returns when it shall be announced: a
// moment after the failure itself was.
func (p *Puller) failed(key backoffKey, message string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.cfg.Now()
	b := p.backoff[key]
	if b == nil || now.Sub(b.since) > 2*maxBackOff {
		if len(p.backoff) >= maxBackOffEntries {
			clear(p.backoff)
		}
		b = &backoff{delay: firstBackOff / 2}
		p.backoff[key] = b
	}
	b.delay = min(2*b.delay, maxBackOff)
	b.since, b.last = now, message
	return now.Add(time.Second)
}

// Forget drops what is remembered of a pod.
func (p *Puller) Forget(pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.backoff {
		if k.pod == pod {
			delete(p.backoff, k)
		}
	}
}

// pull asks with one credential after the other, and as nobody only when there
// is none: who has secrets is told when they do not work.
func (p *Puller) pull(ctx context.Context, ref string, req Request) (*runtimeapi.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultMaxPullDuration)
	defer cancel()
	candidates, err := credentials(ref, req.secrets())
	if err != nil {
		return nil, err
	}
	if len(candidates) == 0 {
		candidates = []credential{{}}
	}
	if err := p.records.begin(ref); err != nil {
		return nil, err
	}
	id, by := "", (*source)(nil)
	defer func() { p.records.end(ref, id, by) }()
	var errs []error
	for _, c := range candidates {
		got, err := p.cfg.Client.Images.PullImage(ctx, &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: req.Image}, Auth: c.auth, SandboxConfig: req.Sandbox})
		if err != nil {
			errs = append(errs, errors.New(cri.PullMessage(err)))
			continue
		}
		image, err := p.Status(ctx, got.ImageRef)
		if err == nil && image == nil {
			err = fmt.Errorf("image %q vanished after it was pulled", req.Image)
		}
		if err != nil {
			return nil, err
		}
		if id = image.Id; c.auth != nil {
			by = &c.from
		}
		return image, nil
	}
	return nil, utilerrors.NewAggregate(errs)
}

// Pulled lists the images that this node has pulled and not yet forgotten.
func (p *Puller) Pulled() []string { return p.records.ids() }

// Gone tells that an image is on the node no more.
func (p *Puller) Gone(id string) error { return p.records.forget(id) }
