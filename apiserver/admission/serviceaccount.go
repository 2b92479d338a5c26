package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/proa-dev/proa/internal/podrefs"
)

const (
	defaultServiceAccount = "default"
	tokenVolumePrefix     = "kube-api-access-"
	tokenMountPath        = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds tells the token of this volume from one that a user asked
	// to live an hour, see authn.IssueToken.
	tokenSeconds = 60*60 + 7
	rootCA       = "kube-root-ca.crt"

	defaultAccountWait = 1500 * time.Millisecond
	defaultAccountLook = 10 * time.Millisecond
)

// ServiceAccount gives every pod a service account, and mounts its token, the
// cluster's CA and the namespace's name where client libraries look for them.
type ServiceAccount struct{ lookup Lookup }

var (
	_ Mutator   = (*ServiceAccount)(nil)
	_ Validator = (*ServiceAccount)(nil)
)

// NewServiceAccount reads service accounts from l.
func NewServiceAccount(l Lookup) *ServiceAccount { return &ServiceAccount{l} }

// Name implements Plugin.
func (*ServiceAccount) Name() string { return "ServiceAccount" }

// Admit implements Mutator.
func (p *ServiceAccount) Admit(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok || isMirror(pod) {
		return nil // a mirror pod must stay what the node made it
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = pod.Spec.DeprecatedServiceAccount
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultServiceAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	sa, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if automounts(sa, pod) {
		mountToken(pod)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
	}
	return nil
}

func (p *ServiceAccount) account(ctx context.Context, a *Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	name := pod.Spec.ServiceAccountName
	sa, ok := p.get(ctx, a.Namespace, name)
	if !ok && name == defaultServiceAccount {
		sa, ok = p.await(ctx, a.Namespace, name)
	}
	if !ok {
		return nil, Forbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.Namespace, name,
			apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)))
	}
	return sa, nil
}

func (p *ServiceAccount) get(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, bool) {
	obj, _ := p.lookup.Get(ctx, corev1.Resource("serviceaccounts"), namespace, name)
	sa, ok := obj.(*corev1.ServiceAccount)
	return sa, ok
}

// await gives the controller that makes default accounts a little time: it is
// usual to make a namespace and a pod in it in one breath.
func (p *ServiceAccount) await(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, bool) {
	ctx, cancel := context.WithTimeout(ctx, defaultAccountWait)
	defer cancel()
	tick := time.NewTicker(defaultAccountLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-tick.C:
			if obj, ok := p.lookup.Source.Get(corev1.Resource("serviceaccounts"), namespace, name); ok {
				sa, ok := obj.(*corev1.ServiceAccount)
				return sa, ok
			}
		}
	}
}

func automounts(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return sa.AutomountServiceAccountToken == nil || *sa.AutomountServiceAccountToken
}

// mountToken adds the volume and its mounts, where a container has nothing at
// that path yet. A pod that was made from another's spec keeps its volume.
func mountToken(pod *corev1.Pod) {
	name, exists := "", false
	for _, v := range pod.Spec.Volumes {
		if strings.HasPrefix(v.Name, tokenVolumePrefix) {
			name, exists = v.Name, true
			break
		}
	}
	if !exists {
		name = tokenVolumePrefix + rand.String(5)
	}
	mount := corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath}
	needed := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, mount)
			needed = true
		}
	}
	if !exists && needed {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func tokenVolume(name string) corev1.Volume {
	mode, seconds := corev1.ProjectedVolumeSourceDefaultMode, int64(tokenSeconds)
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}}
}

// Validate implements Validator.
func (p *ServiceAccount) Validate(ctx context.Context, a *Attributes) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if isMirror(pod) {
		return validateMirror(a, pod)
	}
	if pod.Spec.ServiceAccountName == "" {
		return Forbidden(a, fmt.Errorf("no service account specified for pod %s/%s", a.Namespace, pod.Name))
	}
	sa, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if enforce, err := strconv.ParseBool(sa.Annotations["kubernetes.io/enforce-mountable-secrets"]); err == nil && enforce {
		if err := limitSecrets(sa, pod); err != nil {
			return Forbidden(a, err)
		}
	}
	return nil
}

// validateMirror refuses mirror pods that refer to other objects: the node
// that runs them would gain access to those.
func validateMirror(a *Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return Forbidden(a, errors.New("a mirror pod may not reference service accounts"))
	}
	for range podrefs.Secrets(pod) {
		return Forbidden(a, errors.New("a mirror pod may not reference secrets"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return Forbidden(a, errors.New("a mirror pod may not use ServiceAccountToken volume projections"))
			}
			if s.ClusterTrustBundle != nil {
				return Forbidden(a, errors.New("a mirror pod may not use ClusterTrustBundle volume projections"))
			}
		}
	}
	return nil
}

// limitSecrets lets a pod use only the secrets that its service account lists.
func limitSecrets(sa *corev1.ServiceAccount, pod *corev1.Pod) error {
	mountable := func(name string) bool {
		return slices.ContainsFunc(sa.Secrets, func(s corev1.ObjectReference) bool { return s.Name == name })
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && !mountable(v.Secret.SecretName) {
			return fmt.Errorf("volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", v.Secret.SecretName, sa.Name)
		}
	}
	for _, kind := range []struct {
		name       string
		containers []corev1.Container
	}{{"init container", pod.Spec.InitContainers}, {"container", pod.Spec.Containers}} {
		for _, c := range kind.containers {
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !mountable(e.ValueFrom.SecretKeyRef.Name) {
					return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
						kind.name, c.Name, e.Name, e.ValueFrom.SecretKeyRef.Name, sa.Name)
				}
			}
			for _, e := range c.EnvFrom {
				if e.SecretRef != nil && !mountable(e.SecretRef.Name) {
					return fmt.Errorf("%s %s with envFrom referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
						kind.name, c.Name, e.SecretRef.Name, sa.Name)
				}
			}
		}
	}
	for i, s := range pod.Spec.ImagePullSecrets {
		if !slices.ContainsFunc(sa.ImagePullSecrets, func(r corev1.LocalObjectReference) bool { return r.Name == s.Name }) {
			return fmt.Errorf("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, s.Name, sa.Name)
		}
	}
	return nil
}
