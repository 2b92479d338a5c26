package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	reviewv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/proa-dev/proa/apiserver/admission/match"
)

// review is the kind of the document that goes back and forth. Its two versions
// look alike.
const review = "AdmissionReview"

// reviewVersion is the first version that the webhook wants and we know.
func reviewVersion(versions []string) (schema.GroupVersion, bool) {
	i := slices.IndexFunc(versions, func(v string) bool { return v == "v1" || v == "v1beta1" })
	if i < 0 {
		return schema.GroupVersion{}, false
	}
	return schema.GroupVersion{Group: reviewv1.GroupName, Version: versions[i]}, true
}

// question is a request as it is put to one webhook.
type question struct {
	invocation
	dryRun bool
	review *reviewv1.AdmissionReview
	broken error
}

// ask makes the question, with the objects as they are now.
func ask(r *match.Request, in invocation) question {
	q := question{invocation: in, dryRun: r.DryRun}
	v, err := r.Versioned(in.target.GVK)
	if err != nil {
		q.broken = err
		return q
	}
	q.review = &reviewv1.AdmissionReview{Request: r.Review(in.target)}
	q.review.Request.UID = uuid.NewUUID()
	q.review.Request.Object.Object, q.review.Request.OldObject.Object = v.VersionedObject.Object(), v.VersionedOldObject.Object()
	return q
}

// call puts a question to its webhook. The answer allows the request; else the
// error is a callError, a denial, or a status error.
func (p *plugin) call(ctx context.Context, q question, mutating bool) (*reviewv1.AdmissionResponse, error) {
	h := q.hook
	if q.broken != nil {
		return nil, q.broken
	}
	fail := func(code int32, err error) (*reviewv1.AdmissionResponse, error) {
		return nil, &callError{hook: h.name, reason: err, code: code}
	}
	if q.dryRun {
		if h.sideEffects == nil {
			return fail(http.StatusBadRequest, errors.New("Webhook SideEffects is nil")) //nolint:staticcheck // upstream's words
		}
		if !h.harmless() {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", h.name))
		}
	}
	version, ok := reviewVersion(h.versions)
	if !ok {
		return fail(http.StatusBadRequest, errors.New("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"))
	}
	q.review.SetGroupVersionKind(version.WithKind(review))
	if h.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, h.timeout)
		defer cancel()
	}
	var answer reviewv1.AdmissionReview
	if err := p.cfg.Client.Call(ctx, h.client, remaining(ctx), q.review, &answer); err != nil {
		code := int32(http.StatusServiceUnavailable)
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			code = status.Status().Code
		}
		return fail(code, fmt.Errorf("failed to call webhook: %w", err))
	}
	if err := verify(&answer, q.review.Request.UID, version, mutating); err != nil {
		return fail(http.StatusServiceUnavailable, fmt.Errorf("received invalid webhook response: %w", err))
	}
	if !answer.Response.Allowed {
		return answer.Response, denial{denied(h.name, answer.Response.Result)}
	}
	return answer.Response, nil
}

// remaining is what is left of the time, in whole seconds.
func remaining(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	left := time.Until(deadline)
	if whole := left.Truncate(time.Second); whole != left {
		left = whole + time.Second
	}
	return max(left, time.Second)
}

// verify checks what only the first version promises, and makes one of both.
func verify(a *reviewv1.AdmissionReview, uid types.UID, version schema.GroupVersion, mutating bool) error {
	r := a.Response
	if r == nil {
		return errors.New("webhook response was absent")
	}
	if version.Version != "v1" {
		r.PatchType = nil
		if len(r.Patch) > 0 && mutating {
			kind := reviewv1.PatchTypeJSONPatch
			r.PatchType = &kind
		}
		return nil
	}
	if r.UID != uid {
		return fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
	}
	if want := version.WithKind(review); a.GroupVersionKind() != want {
		return fmt.Errorf("expected webhook response of %v, got %v", want, a.GroupVersionKind())
	}
	switch patch := len(r.Patch) > 0; {
	case !mutating && patch:
		return errors.New("validating webhook may not return response.patch")
	case !mutating && r.PatchType != nil:
		return errors.New("validating webhook may not return response.patchType")
	case patch && r.PatchType == nil:
		return errors.New("webhook returned response.patch but not response.patchType")
	case !patch && r.PatchType != nil:
		return errors.New("webhook returned response.patchType but not response.patch")
	case patch && *r.PatchType == "":
		return fmt.Errorf("webhook returned invalid response.patchType of %q", *r.PatchType)
	}
	return nil
}

// maxStatus is the highest status code that HTTP has.
const maxStatus = 599

// denied is the client's view of a webhook's no: its own status, as far as that
// is one of a failure.
func denied(name string, result *metav1.Status) *apierrors.StatusError {
	out := metav1.Status{}
	if result != nil {
		out = *result
	}
	if out.Code < http.StatusBadRequest || out.Code > maxStatus {
		out.Code = http.StatusBadRequest
	}
	if out.Status == "" || out.Status == metav1.StatusSuccess {
		out.Status = metav1.StatusFailure
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case out.Message != "":
		out.Message = by + ": " + out.Message
	case out.Reason != "":
		out.Message = by + ": " + string(out.Reason)
	default:
		out.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: out}
}
