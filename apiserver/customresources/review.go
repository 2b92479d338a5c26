package customresources

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/apiserver/webhookclient"
)

const (
	// reviewTime is how long a webhook may take to convert.
	reviewTime = 30 * time.Second
	// reviewSize bounds what it answers.
	reviewSize = 256 << 20
)

// review asks a webhook to convert.
type review struct {
	client  *webhookclient.Client
	config  webhookclient.Config
	version string // of ConversionReview
}

func newReview(d *definition, client *webhookclient.Client) (*review, error) {
	w := d.Spec.Conversion.Webhook
	if w == nil || w.ClientConfig == nil {
		return nil, errors.New("the conversion webhook is not configured")
	}
	if client == nil {
		return nil, errors.New("this server calls no webhooks")
	}
	r := &review{client: client, config: webhookclient.Config{URL: w.ClientConfig.URL, CABundle: bytes.TrimSpace(w.ClientConfig.CABundle), MaxAnswer: reviewSize}}
	if s := w.ClientConfig.Service; s != nil {
		r.config.Service = &webhookclient.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			r.config.Service.Path = *s.Path
		}
		if s.Port != nil {
			r.config.Service.Port = *s.Port
		}
	}
	for _, v := range w.ConversionReviewVersions {
		if v == "v1" || v == "v1beta1" {
			r.version = v
			break
		}
	}
	return r, nil
}

// convert asks for objects, which are of other versions, in the version want.
func (r *review) convert(ctx context.Context, in []*unstructured.Unstructured, want string) ([]*unstructured.Unstructured, error) {
	if r.version == "" {
		return nil, errors.New("no supported conversion review versions")
	}
	gvk := schema.GroupVersionKind{Group: apiextensionsv1.GroupName, Version: r.version, Kind: "ConversionReview"}
	ask := &apiextensionsv1.ConversionReview{Request: &apiextensionsv1.ConversionRequest{UID: uuid.NewUUID(), DesiredAPIVersion: want}}
	ask.SetGroupVersionKind(gvk)
	for _, u := range in {
		ask.Request.Objects = append(ask.Request.Objects, runtime.RawExtension{Object: u})
	}
	of := in[0].GroupVersionKind()
	answer := &apiextensionsv1.ConversionReview{}
	err := r.client.Call(ctx, r.config, reviewTime, ask, answer)
	if err == nil {
		err = r.check(answer, ask, gvk)
	}
	if err != nil {
		return nil, fmt.Errorf("conversion webhook for %v failed: %w", of, err)
	}
	converted := answer.Response.ConvertedObjects
	if len(converted) != len(in) {
		return nil, fmt.Errorf("conversion webhook for %v returned %d objects, expected %d", of, len(converted), len(in))
	}
	out := make([]*unstructured.Unstructured, len(in))
	for i := range converted {
		if out[i], err = accept(in[i], converted[i].Raw, want); err == nil {
			err = restoreMeta(in[i], out[i])
			if err != nil {
				return nil, fmt.Errorf("conversion webhook for %v returned invalid metadata in object at index %v: %w", of, i, err)
			}
			continue
		}
		return nil, fmt.Errorf("conversion webhook for %v returned invalid converted object at index %v: %w", of, i, err)
	}
	return out, nil
}

// check says whether the webhook succeeded. Those that speak v1beta1 need not
// name what they answer.
func (r *review) check(answer, ask *apiextensionsv1.ConversionReview, gvk schema.GroupVersionKind) error {
	if got := answer.GroupVersionKind(); r.version == "v1" && got != gvk {
		return fmt.Errorf("expected webhook response of %v, got %v", gvk, got)
	}
	if answer.Response == nil {
		return errors.New("no response provided")
	}
	if r.version == "v1" && answer.Response.UID != ask.Request.UID {
		return fmt.Errorf("expected response.uid=%q, got %q", ask.Request.UID, answer.Response.UID)
	}
	if res := answer.Response.Result; res.Status != metav1.StatusSuccess {
		if res.Message != "" {
			return errors.New(res.Message)
		}
		return fmt.Errorf("response.result.status was '%s', not 'Success'", res.Status)
	}
	return nil
}

// accept reads a converted object and checks that it is the same one.
func accept(in *unstructured.Unstructured, raw []byte, want string) (*unstructured.Unstructured, error) {
	out := &unstructured.Unstructured{}
	if err := out.UnmarshalJSON(raw); err != nil {
		return nil, err
	}
	if got := out.GroupVersionKind().GroupVersion(); got.String() != want {
		return nil, fmt.Errorf("invalid groupVersion (expected %v, received %v)", want, got)
	}
	if got := out.GetKind(); got != in.GetKind() {
		return nil, fmt.Errorf("invalid kind (expected %v, received %v)", in.GetKind(), got)
	}
	for _, same := range []struct {
		what      string
		was, went any
	}{
		{"name", in.GetName(), out.GetName()},
		{"namespace", in.GetNamespace(), out.GetNamespace()},
		{"UID", in.GetUID(), out.GetUID()},
	} {
		if same.was != same.went {
			return nil, fmt.Errorf("must have the same %s: %v != %v", same.what, same.was, same.went)
		}
	}
	return out, nil
}

// restoreMeta gives a converted object the metadata that it had. Webhooks may
// change labels and annotations alone.
func restoreMeta(in, out *unstructured.Unstructured) error {
	meta, ok := out.Object["metadata"].(map[string]any)
	if !ok {
		if value, found := out.Object["metadata"]; found {
			return fmt.Errorf("invalid metadata of type %T in converted object", value)
		}
		return errors.New("missing metadata in converted object")
	}
	had, ok := in.Object["metadata"].(map[string]any)
	if !ok {
		had = map[string]any{}
	}
	kept := runtime.DeepCopyJSON(had)
	out.Object["metadata"] = kept
	for name, check := range map[string]func(map[string]string) field.ErrorList{
		"labels": func(m map[string]string) field.ErrorList {
			return metavalidation.ValidateLabels(m, field.NewPath("metadata", "labels"))
		},
		"annotations": func(m map[string]string) field.ErrorList {
			return validation.ValidateAnnotations(m, field.NewPath("metadata", "annotation"))
		},
	} {
		if meta[name] == nil {
			delete(kept, name)
			continue
		}
		values, ok := meta[name].(map[string]any)
		if !ok {
			return fmt.Errorf("invalid metadata.%s of type %T in converted object", name, meta[name])
		}
		before, _ := had[name].(map[string]any)
		texts, changed := make(map[string]string, len(values)), len(values) != len(before)
		for k, v := range values {
			if texts[k], ok = v.(string); !ok {
				return fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
			}
			changed = changed || before[k] != v
		}
		// What was stored by laxer rules may stay.
		if changed {
			if errs := check(texts); len(errs) > 0 {
				return errs.ToAggregate()
			}
		}
		kept[name] = values
	}
	return nil
}
