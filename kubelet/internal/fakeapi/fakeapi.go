// Package fakeapi is an API server in memory, for tests: it keeps objects by
// kind and name, gives them UIDs, and judges nothing.
package fakeapi

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// API is the server. The zero value is empty. Methods that are not here panic:
// a test that needs them says so loudly.
type API struct {
	ctrl.Client

	mu      sync.Mutex
	objects map[string]ctrl.Object
	made    int
}

func kind(obj ctrl.Object) string { return reflect.TypeOf(obj).Elem().Name() }

func name(kind string, key ctrl.ObjectKey) string { return kind + " " + key.String() }

func resource(kind string) schema.GroupResource {
	return schema.GroupResource{Resource: strings.ToLower(kind) + "s"}
}

// find gives what is kept of an object; a.mu is held.
func (a *API) find(obj ctrl.Object) (ctrl.Object, error) {
	key := ctrl.ObjectKeyFromObject(obj)
	have := a.objects[name(kind(obj), key)]
	if have == nil {
		return nil, apierrors.NewNotFound(resource(kind(obj)), key.Name)
	}
	return have, nil
}

func (a *API) keep(obj ctrl.Object) {
	kept, ok := obj.DeepCopyObject().(ctrl.Object)
	if !ok {
		panic(fmt.Sprintf("%T is no object", obj))
	}
	if a.objects == nil {
		a.objects = map[string]ctrl.Object{}
	}
	a.objects[name(kind(obj), ctrl.ObjectKeyFromObject(obj))] = kept
}

// Get implements client.Client.
func (a *API) Get(_ context.Context, key ctrl.ObjectKey, obj ctrl.Object, _ ...ctrl.GetOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.objects[name(kind(obj), key)]
	if have == nil {
		return apierrors.NewNotFound(resource(kind(obj)), key.Name)
	}
	reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(have.DeepCopyObject()).Elem())
	return nil
}

// Create implements client.Client.
func (a *API) Create(_ context.Context, obj ctrl.Object, _ ...ctrl.CreateOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.find(obj); err == nil {
		return apierrors.NewAlreadyExists(resource(kind(obj)), obj.GetName())
	}
	a.made++
	obj.SetUID(types.UID(fmt.Sprint("made-", a.made)))
	a.keep(obj)
	return nil
}

// Update implements client.Client.
func (a *API) Update(_ context.Context, obj ctrl.Object, _ ...ctrl.UpdateOption) error {
	return a.replace(obj)
}

// Patch implements client.Client. The object is taken as it is to become.
func (a *API) Patch(_ context.Context, obj ctrl.Object, _ ctrl.Patch, _ ...ctrl.PatchOption) error {
	return a.replace(obj)
}

func (a *API) replace(obj ctrl.Object) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.find(obj); err != nil {
		return err
	}
	a.keep(obj)
	return nil
}

// Delete implements client.Client.
func (a *API) Delete(_ context.Context, obj ctrl.Object, opts ...ctrl.DeleteOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	have, err := a.find(obj)
	if err != nil {
		return err
	}
	var o ctrl.DeleteOptions
	o.ApplyOptions(opts)
	if o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != have.GetUID() {
		return apierrors.NewConflict(resource(kind(obj)), obj.GetName(), fmt.Errorf("UID %s", have.GetUID()))
	}
	delete(a.objects, name(kind(obj), ctrl.ObjectKeyFromObject(obj)))
	return nil
}

// Status implements client.Client.
func (a *API) Status() ctrl.SubResourceWriter { return status{api: a} }

type status struct {
	ctrl.SubResourceWriter
	api *API
}

// Patch implements client.SubResourceWriter.
func (s status) Patch(_ context.Context, obj ctrl.Object, _ ctrl.Patch, _ ...ctrl.SubResourcePatchOption) error {
	return s.api.replace(obj)
}
