package aggregation

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/proa-dev/proa/apiserver/apiservices"
	"github.com/proa-dev/proa/apiserver/registry"
)

// managed is the label of APIServices that this server keeps: those of built-in
// groups it corrects once, when it starts, those of custom resources always.
const (
	managed = "kube-aggregator.kubernetes.io/automanaged"
	onStart = "onstart"
	always  = "true"
)

const (
	manager = "proa"
	// maxWrites bounds the writes at a time.
	maxWrites = 8
)

// remember notes which APIServices there were at the start.
func (s *Server) remember(services []*apiService) {
	s.atStart = make(map[string]bool, len(services))
	for _, svc := range services {
		s.atStart[svc.Name] = true
	}
}

// wanted are the APIServices of what this server serves.
func (s *Server) wanted(customs []*apiextensionsv1.CustomResourceDefinition) map[string]*apiService {
	out := map[string]*apiService{}
	add := func(gv schema.GroupVersion, label string) {
		name := gv.Version + "." + gv.Group
		if gv == apiregistrationv1.SchemeGroupVersion || out[name] != nil {
			return
		}
		p := apiservices.Default(gv)
		svc := &apiService{Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.Group, VersionPriority: p.Version,
		}}
		svc.Name = name
		if label != "" {
			svc.Labels = map[string]string{managed: label}
		}
		out[name] = svc
	}
	for _, gv := range s.builtin {
		if gv == metricsv1beta1.SchemeGroupVersion {
			// Without the label it is everybody's: whoever installs an add-on that
			// serves the group may point it there, and gets this server back by
			// deleting it.
			add(gv, "")
			continue
		}
		add(gv, onStart)
	}
	for _, d := range customs {
		for _, v := range d.Spec.Versions {
			if v.Served {
				add(schema.GroupVersion{Group: d.Spec.Group, Version: v.Name}, always)
			}
		}
	}
	return out
}

// register makes, corrects and removes the APIServices of what this server
// serves; again says that something is left to do.
func (s *Server) register(ctx context.Context, services []*apiService, customs []*apiextensionsv1.CustomResourceDefinition) (again bool) {
	var group errgroup.Group
	group.SetLimit(maxWrites)
	wanted := s.wanted(customs)
	for _, svc := range services {
		want := wanted[svc.Name]
		delete(wanted, svc.Name)
		group.Go(func() error { return s.keep(ctx, svc, want) })
	}
	for _, want := range wanted {
		group.Go(func() error {
			_, err := s.cfg.Registry.Create(ctx, registry.Target{Kind: s.services}, want, &metav1.CreateOptions{FieldManager: manager})
			return s.report(ctx, want.Name, err)
		})
	}
	again = group.Wait() != nil
	if !again {
		for _, svc := range services {
			s.settled[svc.Name] = true
		}
	}
	return again
}

// keep brings one APIService in line; want is nil where this server serves
// nothing by that name.
func (s *Server) keep(ctx context.Context, svc, want *apiService) error {
	target := registry.Target{Kind: s.services, Name: svc.Name}
	label := svc.Labels[managed]
	if label == always || label == onStart && s.atStart[svc.Name] && !s.settled[svc.Name] {
		switch {
		case want == nil:
			_, _, err := s.cfg.Registry.Delete(ctx, target, &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(svc.UID))})
			return s.report(ctx, svc.Name, err)
		case !equality.Semantic.DeepEqual(svc.Spec, want.Spec):
			next := svc.DeepCopy()
			next.Spec = want.Spec
			_, err := s.cfg.Registry.Update(ctx, target, next, &metav1.UpdateOptions{FieldManager: manager})
			return s.report(ctx, svc.Name, err)
		}
	}
	if svc.Spec.Service == nil {
		return s.report(ctx, svc.Name, s.tell(ctx, svc, helper.NewLocalAvailableAPIServiceCondition()))
	}
	return nil
}

// tell writes a condition, unless it is there.
func (s *Server) tell(ctx context.Context, svc *apiService, c apiregistrationv1.APIServiceCondition) error {
	next := svc.DeepCopy()
	helper.SetAPIServiceCondition(next, c)
	if slices.Equal(next.Status.Conditions, svc.Status.Conditions) {
		return nil
	}
	_, err := s.cfg.Registry.Update(ctx, registry.Target{Kind: s.services, Name: svc.Name, Subresource: "status"}, next,
		&metav1.UpdateOptions{FieldManager: manager})
	return err
}

// report logs what cannot be explained by another server that does the same at
// the same time, which will be seen.
func (s *Server) report(ctx context.Context, name string, err error) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		return nil
	}
	if ctx.Err() == nil {
		s.cfg.Logger.Warn("keep an APIService", "name", name, "error", err)
	}
	return err
}
