package volumes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/spec"
)

const defaultMode = int32(0o644)

// payloads makes files from API objects.
type payloads struct {
	objects Objects
	reader  ctrl.Reader
	tokens  *tokenCache
	certs   *certCache
}

func modeOr(mode *int32, otherwise int32) int32 {
	if mode != nil {
		return *mode
	}
	return otherwise
}

func (p *payloads) configMap(ctx context.Context, req Request) (payload, error) {
	s := req.Volume.ConfigMap
	out := payload{files: map[string]file{}}
	err := p.addConfigMap(ctx, out.files, req.Pod.Namespace, s.Name, s.Items, modeOr(s.DefaultMode, defaultMode), isTrue(s.Optional))
	return out, err
}

func (p *payloads) secret(ctx context.Context, req Request) (payload, error) {
	s := req.Volume.Secret
	out := payload{files: map[string]file{}}
	err := p.addSecret(ctx, out.files, req.Pod.Namespace, s.SecretName, s.Items, modeOr(s.DefaultMode, defaultMode), isTrue(s.Optional))
	return out, err
}

func (p *payloads) downward(_ context.Context, req Request) (payload, error) {
	s := req.Volume.DownwardAPI
	out := payload{files: map[string]file{}}
	return out, addDownward(out.files, req.Fields, s.Items, modeOr(s.DefaultMode, defaultMode))
}

func (p *payloads) projected(ctx context.Context, req Request) (payload, error) {
	out := payload{files: map[string]file{}}
	ns := req.Pod.Namespace
	mode := modeOr(req.Volume.Projected.DefaultMode, defaultMode)
	for i := range req.Volume.Projected.Sources {
		s := &req.Volume.Projected.Sources[i]
		var err error
		switch {
		case s.ConfigMap != nil:
			err = p.addConfigMap(ctx, out.files, ns, s.ConfigMap.Name, s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional))
		case s.Secret != nil:
			err = p.addSecret(ctx, out.files, ns, s.Secret.Name, s.Secret.Items, mode, isTrue(s.Secret.Optional))
		case s.DownwardAPI != nil:
			err = addDownward(out.files, req.Fields, s.DownwardAPI.Items, mode)
		case s.ServiceAccountToken != nil:
			err = p.addToken(ctx, &out, req, s.ServiceAccountToken, mode)
		case s.ClusterTrustBundle != nil:
			err = p.addTrust(ctx, &out, s.ClusterTrustBundle, mode)
		case s.PodCertificate != nil && p.certs.source != nil:
			err = p.addCertificate(ctx, &out, req, i, s.PodCertificate, mode)
		default:
			err = fmt.Errorf("source %d of the projected volume is of a type that this node does not support", i)
		}
		if err != nil {
			return payload{}, err
		}
	}
	return out, nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func (p *payloads) addConfigMap(ctx context.Context, files map[string]file, ns, name string, items []corev1.KeyToPath, mode int32, optional bool) error {
	obj, err := p.objects.Get(ctx, objects.Ref{Kind: objects.ConfigMap, Namespace: ns, Name: name})
	if err != nil {
		if apierrors.IsNotFound(err) && optional {
			return nil
		}
		return err
	}
	cm, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return fmt.Errorf("configmap %q is a %T", name, obj)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return addItems(files, "configmap references non-existent config key", data, items, mode, optional)
}

func (p *payloads) addSecret(ctx context.Context, files map[string]file, ns, name string, items []corev1.KeyToPath, mode int32, optional bool) error {
	obj, err := p.objects.Get(ctx, objects.Ref{Kind: objects.Secret, Namespace: ns, Name: name})
	if err != nil {
		if apierrors.IsNotFound(err) && optional {
			return nil
		}
		return err
	}
	secret, ok := obj.(*corev1.Secret)
	if !ok {
		return fmt.Errorf("secret %q is a %T", name, obj)
	}
	return addItems(files, "references non-existent secret key", secret.Data, items, mode, optional)
}

// addItems adds every key, or those that items choose. absent is the text about a
// key that is not there.
func addItems(files map[string]file, absent string, data map[string][]byte, items []corev1.KeyToPath, mode int32, optional bool) error {
	if len(items) == 0 {
		for k, v := range data {
			files[k] = file{data: v, mode: mode}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s: %s", absent, item.Key)
		}
		files[item.Path] = file{data: v, mode: modeOr(item.Mode, mode)}
	}
	return nil
}

func addDownward(files map[string]file, fields spec.Fields, items []corev1.DownwardAPIVolumeFile, mode int32) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = fields.Value(item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			c := spec.FindContainer(fields.Pod, item.ResourceFieldRef.ContainerName)
			if c == nil {
				err = fmt.Errorf("cannot find container %q", item.ResourceFieldRef.ContainerName)
			} else {
				value, err = fields.Resource(item.ResourceFieldRef, c)
			}
		}
		if err != nil {
			return err
		}
		files[item.Path] = file{data: []byte(value), mode: modeOr(item.Mode, mode)}
	}
	return nil
}

// soonest keeps the earlier of two times of which zero is never.
func soonest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
