package authn

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authnv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/warning"

	"github.com/proa-dev/proa/api"
)

const (
	defaultExpiration = 3600
	minExpiration     = 600
	maxExpiration     = 1 << 32
	// kubeletExpiration marks the token that admission mounts into a pod
	// whose client may not know that tokens expire. It lives a year, but the
	// kubelet renews it hourly, and use after warnAfter can be told.
	kubeletExpiration  = 60*60 + 7
	extendedExpiration = 365 * 24 * 60 * 60
)

// IssueToken answers a TokenRequest for sa. admit, if not nil, may refuse the
// request, which has all its defaults then. Errors are status errors. The
// argument is left alone.
func (a *Authenticator) IssueToken(ctx context.Context, sa *corev1.ServiceAccount, request *authnv1.TokenRequest, admit func(*authnv1.TokenRequest) error) (*authnv1.TokenRequest, error) {
	if request.UID != "" && request.UID != sa.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: authnv1.GroupName, Resource: "TokenRequest"}, sa.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", request.UID, sa.UID))
	}
	now := a.cfg.Clock.Now()
	out := request.DeepCopy()
	out.Name, out.Namespace, out.UID = sa.Name, sa.Namespace, sa.UID
	out.CreationTimestamp, out.Status = metav1.NewTime(now.Truncate(time.Second)), authnv1.TokenRequestStatus{}
	if err := defaultRequest(out, a.cfg.Audiences); err != nil {
		return nil, err
	}
	if admit != nil {
		if err := admit(out); err != nil {
			return nil, err
		}
	}
	k := &boundClaims{Namespace: sa.Namespace, ServiceAccount: ref{Name: sa.Name, UID: string(sa.UID)}}
	if err := a.bind(ctx, k, sa, out.Spec.BoundObjectRef); err != nil {
		return nil, err
	}
	seconds := *out.Spec.ExpirationSeconds
	if limit := int64(a.cfg.MaxTokenLife / time.Second); limit > 0 && seconds > limit {
		warning.AddWarning(ctx, "", fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", seconds, limit))
		seconds = limit
		out.Spec.ExpirationSeconds = &seconds
	}
	expires := now.Add(time.Duration(seconds) * time.Second)
	life := seconds
	if k.Pod != nil && seconds == kubeletExpiration && a.isOwnAudience(out.Spec.Audiences) {
		life = extendedExpiration
		k.WarnAfter = jwt.NewNumericDate(expires)
	}
	token, err := a.signer.sign(&claims{
		Claims: jwt.Claims{
			Issuer:    a.cfg.Issuer,
			Subject:   serviceaccount.MakeUsername(sa.Namespace, sa.Name),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			Expiry:    jwt.NewNumericDate(now.Add(time.Duration(life) * time.Second)),
			ID:        uuid.NewString(),
		},
		Audience:   out.Spec.Audiences,
		Kubernetes: k,
	})
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	out.Status = authnv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires.Truncate(time.Second))}
	return out, nil
}

// LegacyToken makes the token of a secret of type
// kubernetes.io/service-account-token; it is valid while the secret holds it.
func (a *Authenticator) LegacyToken(sa *corev1.ServiceAccount, secretName string) (string, error) {
	return a.signer.sign(&claims{
		Claims:          jwt.Claims{Issuer: legacyIssuer, Subject: serviceaccount.MakeUsername(sa.Namespace, sa.Name)},
		LegacyNamespace: sa.Namespace,
		LegacySecret:    secretName,
		LegacyName:      sa.Name,
		LegacyUID:       string(sa.UID),
	})
}

func defaultRequest(tr *authnv1.TokenRequest, audiences []string) error {
	if tr.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultExpiration)
		tr.Spec.ExpirationSeconds = &seconds
	}
	seconds := *tr.Spec.ExpirationSeconds
	path := field.NewPath("spec", "expirationSeconds")
	var errs field.ErrorList
	if seconds < minExpiration {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > maxExpiration {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(authnv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	if len(tr.Spec.Audiences) == 0 {
		tr.Spec.Audiences = slices.Clone(audiences)
	}
	return nil
}

// bind writes the object that the token shall depend on into k.
func (a *Authenticator) bind(ctx context.Context, k *boundClaims, sa *corev1.ServiceAccount, bound *authnv1.BoundObjectReference) error {
	if bound == nil {
		return nil
	}
	gvk := schema.FromAPIVersionAndKind(bound.APIVersion, bound.Kind)
	var obj api.Object
	switch {
	case gvk.Group == "" && gvk.Kind == "Pod":
		pod, ok := a.object(ctx, "pods", sa.Namespace, bound.Name).(*corev1.Pod)
		if !ok {
			return apierrors.NewNotFound(corev1.Resource("pods"), bound.Name)
		}
		if pod.Spec.ServiceAccountName != sa.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		obj, k.Pod = pod, refTo(pod)
		if node := pod.Spec.NodeName; node != "" {
			k.Node = &ref{Name: node}
			if n := a.object(ctx, "nodes", "", node); n != nil {
				k.Node = refTo(n)
			}
		}
	case gvk.Group == "" && gvk.Kind == "Node":
		if obj = a.object(ctx, "nodes", "", bound.Name); obj == nil {
			return apierrors.NewNotFound(corev1.Resource("nodes"), bound.Name)
		}
		k.Node = refTo(obj)
	case gvk.Group == "" && gvk.Kind == "Secret":
		if obj = a.object(ctx, "secrets", sa.Namespace, bound.Name); obj == nil {
			return apierrors.NewNotFound(corev1.Resource("secrets"), bound.Name)
		}
		k.Secret = refTo(obj)
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if bound.UID != "" && bound.UID != obj.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, bound.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", bound.UID))
	}
	return nil
}

func refTo(obj api.Object) *ref { return &ref{Name: obj.GetName(), UID: string(obj.GetUID())} }

// isOwnAudience says that a token is for the API server and nobody else.
func (a *Authenticator) isOwnAudience(audiences []string) bool {
	return !slices.ContainsFunc(audiences, func(aud string) bool { return !slices.Contains(a.cfg.Audiences, aud) })
}
