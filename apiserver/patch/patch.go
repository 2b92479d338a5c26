// Package patch applies JSON patches, JSON merge patches and strategic merge
// patches to documents, with upstream's limits and errors.
package patch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"

	"github.com/proa-dev/proa/apiserver/codec"
)

// maxOperations is how many operations a JSON patch may have.
const maxOperations = 10000

// The library's bound on what the copies of one JSON patch may add up to is a
// variable of its package, unlimited unless set: thirty copies of a document
// into itself would fill the memory.
func init() { jsonpatch.AccumulatedCopySizeLimit = 3 << 20 }

// Apply returns doc with the patch applied. like is a value of the Go type
// that strategic merge patches take their directives from; it is nil for kinds
// without one. strict are the faults of the patch itself (duplicate fields)
// that a client may want to hear of.
func Apply(pt types.PatchType, doc, data []byte, like any) (out []byte, strict []error, err error) {
	switch pt {
	case types.JSONPatchType:
		return applyJSON(doc, data)
	case types.MergePatchType:
		return applyMerge(doc, data)
	case types.StrategicMergePatchType:
		if like == nil {
			return nil, nil, Unsupported([]types.PatchType{types.JSONPatchType, types.MergePatchType, types.ApplyPatchType}, pt)
		}
		return applyStrategic(doc, data, like)
	}
	return nil, nil, Unsupported([]types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyPatchType}, pt)
}

// Unsupported is the 415 for a patch of a type that is not among accepted.
func Unsupported(accepted []types.PatchType, pt types.PatchType) error {
	names := make([]string, len(accepted))
	for i, a := range accepted {
		names[i] = string(a)
	}
	return codec.UnsupportedMediaType(names...)
}

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

// operation is a step of a JSON patch; more than it has is unknown.
type operation struct {
	Op    string `json:"op"`
	From  string `json:"from"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func applyJSON(doc, data []byte) ([]byte, []error, error) {
	var v []operation
	strict, err := kjson.UnmarshalStrict(data, &v)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	for i, fault := range strict {
		strict[i] = fmt.Errorf("json patch %w", fault)
	}
	ops, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(ops) > maxOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxOperations, len(ops)))
	}
	out, err := ops.Apply(doc)
	if err != nil {
		return nil, nil, unprocessable(err)
	}
	return out, strict, nil
}

func applyMerge(doc, data []byte) ([]byte, []error, error) {
	v := map[string]any{}
	strict, err := kjson.UnmarshalStrict(data, &v)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	out, err := jsonpatch.MergePatch(doc, data)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return out, strict, nil
}

func applyStrategic(doc, data []byte, like any) ([]byte, []error, error) {
	var original, changes map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(doc, &original); err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	strict, err := kjson.UnmarshalStrict(data, &changes)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	merged, err := strategicpatch.StrategicMergeMapPatch(original, changes, like)
	if err != nil {
		return nil, nil, strategicError(err)
	}
	out, err := json.Marshal(merged)
	if err != nil {
		return nil, nil, unprocessable(err)
	}
	return out, strict, nil
}

func strategicError(err error) error {
	for _, bad := range []error{
		mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList,
		mergepatch.ErrBadPatchFormatForRetainKeys, mergepatch.ErrBadPatchFormatForSetElementOrderList,
		mergepatch.ErrUnsupportedStrategicMergePatchFormat,
	} {
		if errors.Is(err, bad) {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if errors.Is(err, mergepatch.ErrNoListOfLists) || errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys) {
		return unprocessable(err)
	}
	// The text reaches the client as it is: it names what the patch lacks, such as a merge key.
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error(),
	}}
}
