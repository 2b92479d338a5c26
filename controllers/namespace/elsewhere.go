package namespace

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proa "github.com/proa-dev/proa/client"
)

// elsewhere is what servers of others serve, which is reached over HTTP alone.
type elsewhere struct {
	cluster proa.Cluster
	raw     rest.Interface
	objects dynamic.Interface
}

func newElsewhere(cluster proa.Cluster, cfg *rest.Config) (*elsewhere, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("namespaces: %w", err)
	}
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("namespaces: %w", err)
	}
	return &elsewhere{cluster: cluster, raw: d.RESTClient(), objects: objects}, nil
}

// resources lists what can be deleted from a namespace. Groups whose servers do
// not answer are the error; a namespace cannot end without them, for nobody
// knows what they have in it.
func (e *elsewhere) resources(ctx context.Context) (map[schema.GroupVersionResource]metav1.Verbs, error) {
	list := &apiregistrationv1.APIServiceList{}
	if err := e.cluster.Client().List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var remote []*apiregistrationv1.APIService
	for i := range list.Items {
		if list.Items[i].Spec.Service != nil {
			remote = append(remote, &list.Items[i])
		}
	}
	out, failed := map[schema.GroupVersionResource]metav1.Verbs{}, map[schema.GroupVersion]error{}
	for _, group := range helper.SortedByGroupAndVersion(remote) {
		known := map[string]bool{} // by a version that is preferred
		for _, svc := range group {
			gv := schema.GroupVersion{Group: svc.Spec.Group, Version: svc.Spec.Version}
			found, err := e.discover(ctx, gv)
			if err != nil {
				failed[gv] = err
				continue
			}
			for _, r := range found {
				if known[r.Name] || !r.Namespaced || strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "delete") || !slices.Contains(r.Verbs, "list") {
					continue
				}
				known[r.Name] = true
				out[gv.WithResource(r.Name)] = r.Verbs
			}
		}
	}
	if len(failed) > 0 {
		return out, &discovery.ErrGroupDiscoveryFailed{Groups: failed}
	}
	return out, nil
}

func (e *elsewhere) discover(ctx context.Context, gv schema.GroupVersion) ([]metav1.APIResource, error) {
	data, err := e.raw.Get().AbsPath("/apis/"+gv.String()).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	return list.APIResources, nil
}

// empty deletes what others have in a namespace, and counts what stays for now.
func (e *elsewhere) empty(ctx context.Context, ns string, found *content) {
	resources, err := e.resources(ctx)
	if err != nil {
		found.undiscovered = err
	}
	for gvr, verbs := range resources {
		left, err := e.emptyResource(ctx, e.objects.Resource(gvr).Namespace(ns), verbs)
		if err != nil {
			found.errs = append(found.errs, fmt.Errorf("delete %s: %w", gvr.GroupResource(), err))
		} else if len(left) > 0 {
			found.count(gvr, left)
		}
	}
}

func (e *elsewhere) emptyResource(ctx context.Context, in dynamic.ResourceInterface, verbs metav1.Verbs) ([]metav1.Object, error) {
	left, err := listed(ctx, in)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	if slices.Contains(verbs, "deletecollection") {
		if err := in.DeleteCollection(ctx, opts, metav1.ListOptions{}); err != nil {
			return nil, err
		}
		return listed(ctx, in)
	}
	for _, o := range left {
		if err := in.Delete(ctx, o.GetName(), opts); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return listed(ctx, in)
}

func listed(ctx context.Context, in dynamic.ResourceInterface) ([]metav1.Object, error) {
	list, err := in.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	out := make([]metav1.Object, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out, nil
}
