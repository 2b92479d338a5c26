package handlers

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// maxBody is how much a client may send.
const maxBody = 3 << 20

func tooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
}

type queryValues url.Values

func parseQuery(raw string) (queryValues, error) {
	if raw == "" {
		return nil, nil
	}
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return queryValues(v), nil
}

func (q queryValues) get(name string) string {
	if v := q[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// flag reads a boolean as upstream does: named without a value is true.
func (q queryValues) flag(name string) *bool {
	v, ok := q[name]
	if !ok || len(v) == 0 {
		return nil
	}
	b := true
	switch strings.ToLower(v[0]) {
	case "false", "0":
		b = false
	}
	return &b
}

func (q queryValues) number(name string) (*int64, error) {
	v := q.get(name)
	if v == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return &n, nil
}

func (q queryValues) listOptions() (*metav1.ListOptions, error) {
	o := &metav1.ListOptions{
		LabelSelector: q.get("labelSelector"), FieldSelector: q.get("fieldSelector"),
		ResourceVersion: q.get("resourceVersion"), ResourceVersionMatch: metav1.ResourceVersionMatch(q.get("resourceVersionMatch")),
		Continue: q.get("continue"), SendInitialEvents: q.flag("sendInitialEvents"),
	}
	if b := q.flag("allowWatchBookmarks"); b != nil {
		o.AllowWatchBookmarks = *b
	}
	limit, err := q.number("limit")
	if err != nil {
		return nil, err
	}
	if limit != nil {
		o.Limit = max(*limit, 0)
	}
	o.TimeoutSeconds, err = q.number("timeoutSeconds")
	return o, err
}

func (q queryValues) createOptions() *metav1.CreateOptions {
	return &metav1.CreateOptions{DryRun: q["dryRun"], FieldManager: q.get("fieldManager"), FieldValidation: q.get("fieldValidation")}
}

func (q queryValues) updateOptions() *metav1.UpdateOptions {
	return &metav1.UpdateOptions{DryRun: q["dryRun"], FieldManager: q.get("fieldManager"), FieldValidation: q.get("fieldValidation")}
}

func (q queryValues) patchOptions() *metav1.PatchOptions {
	return &metav1.PatchOptions{DryRun: q["dryRun"], FieldManager: q.get("fieldManager"), FieldValidation: q.get("fieldValidation"), Force: q.flag("force")}
}

func (q queryValues) deleteOptions() (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{
		DryRun: q["dryRun"], OrphanDependents: q.flag("orphanDependents"),
		IgnoreStoreReadErrorWithClusterBreakingPotential: q.flag("ignoreStoreReadErrorWithClusterBreakingPotential"),
	}
	if p := metav1.DeletionPropagation(q.get("propagationPolicy")); p != "" {
		o.PropagationPolicy = &p
	}
	if uid := types.UID(q.get("uid")); uid != "" {
		o.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	var err error
	o.GracePeriodSeconds, err = q.number("gracePeriodSeconds")
	return o, err
}

// body reads what the client sent, up to the limit.
func (c *call) body() ([]byte, error) {
	if c.r.Body == nil || c.r.ContentLength == 0 {
		return nil, nil
	}
	if c.r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	if n := c.r.ContentLength; n > 0 {
		data := make([]byte, n)
		if _, err := io.ReadFull(c.r.Body, data); err != nil {
			return nil, c.unread(err)
		}
		return data, nil
	}
	data, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, tooLarge()
	}
	if err != nil {
		return nil, c.unread(err)
	}
	return data, nil
}

// unread says why a body could not be read whole.
func (c *call) unread(err error) error {
	if c.r.Context().Err() != nil {
		return apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("unable to read the body: %v", err))
}

// managerOf names the field manager of a request that names none: the program
// that speaks, as its User-Agent begins.
func managerOf(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	out := strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, name)
	if len(out) > 128 {
		out = strings.ToValidUTF8(out[:128], "")
	}
	return out
}

// restOf is the part of the path that a proxied server sees.
func restOf(p string, info *request.RequestInfo) string {
	marker := path.Join("/", info.Parts[0], info.Parts[1], info.Parts[2]) + "/"
	_, rest, _ := strings.Cut(p, marker)
	return rest
}
