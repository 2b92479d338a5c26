// Package bootstrap keeps what nodes join by: it signs the ConfigMap cluster-info
// with every bootstrap token, and removes tokens whose time is over.
package bootstrap

import (
	"context"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/bootstraptoken"
)

// Name is the controllers' name in logs.
const Name = "bootstrap-controllers"

type controller struct{ env loop.Env }

// New makes the controllers.
func New(env loop.Env) (loop.Loop, error) {
	c := &controller{env.Named(Name)}
	signer, err := c.signer()
	if err != nil {
		return loop.Loop{}, err
	}
	cleaner, err := c.cleaner()
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, signer, cleaner), nil
}

func isToken(s *corev1.Secret) bool {
	return s.Namespace == metav1.NamespaceSystem && s.Type == bootstraptoken.SecretType
}

func (c *controller) signer() (loop.Loop, error) {
	info := loop.Key(metav1.NamespacePublic, bootstraptoken.ClusterInfo)
	secret := func(_ context.Context, q loop.Queue, s *corev1.Secret) {
		if isToken(s) {
			q.Add(info)
		}
	}
	public := func(_ context.Context, q loop.Queue, cm *corev1.ConfigMap) {
		if cm.Namespace == info.Namespace && cm.Name == info.Name {
			q.Add(info)
		}
	}
	return loop.New(c.env, "bootstrap-signer-controller", 1, c.sign,
		loop.Watch(c.env.Cluster, &corev1.Secret{}, loop.On[*corev1.Secret]{
			Created: secret, Deleted: secret,
			Updated: func(ctx context.Context, q loop.Queue, _, s *corev1.Secret) { secret(ctx, q, s) },
		}),
		loop.Watch(c.env.Cluster, &corev1.ConfigMap{}, loop.On[*corev1.ConfigMap]{
			Created: public,
			Updated: func(ctx context.Context, q loop.Queue, _, cm *corev1.ConfigMap) { public(ctx, q, cm) },
		}),
	)
}

func (c *controller) sign(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	info := &corev1.ConfigMap{}
	if err := api.Get(ctx, key, info); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	secrets := &corev1.SecretList{}
	if err := api.List(ctx, secrets, client.InNamespace(metav1.NamespaceSystem), client.UnsafeDisableDeepCopy); err != nil {
		return 0, err
	}
	next, err := c.signed(info.Data, secrets.Items)
	if err != nil || maps.Equal(next, info.Data) {
		return 0, err
	}
	info = info.DeepCopy()
	info.Data = next
	return 0, client.IgnoreNotFound(api.Update(ctx, info))
}

// signed is the data of cluster-info with the signatures that belong there.
func (c *controller) signed(data map[string]string, secrets []corev1.Secret) (map[string]string, error) {
	content, ok := data[bootstraptoken.KubeconfigKey]
	if !ok {
		return data, nil
	}
	next := maps.Clone(data)
	maps.DeleteFunc(next, func(key, _ string) bool { return strings.HasPrefix(key, bootstraptoken.SignaturePrefix) })
	for i := range secrets {
		if !isToken(&secrets[i]) {
			continue
		}
		token, may, err := bootstraptoken.Read(&secrets[i])
		if err != nil || may.Expired(c.env.Clock.Now()) || !may.May(bootstraptoken.UsageSigning) {
			continue
		}
		signature, err := token.Sign(content)
		if err != nil {
			return nil, err
		}
		next[bootstraptoken.SignaturePrefix+token.ID] = signature
	}
	return next, nil
}

func (c *controller) cleaner() (loop.Loop, error) {
	add := func(_ context.Context, q loop.Queue, s *corev1.Secret) {
		if isToken(s) {
			q.Add(loop.Key(s.Namespace, s.Name))
		}
	}
	return loop.New(c.env, "token-cleaner-controller", 1, c.clean, loop.Watch(c.env.Cluster, &corev1.Secret{}, loop.On[*corev1.Secret]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, _, s *corev1.Secret) { add(ctx, q, s) },
	}))
}

// clean removes a token whose time is over, or comes back when it is. A time
// that cannot be read counts as over.
func (c *controller) clean(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	s := &corev1.Secret{}
	if err := c.env.Cluster.Client().Get(ctx, key, s); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if !isToken(s) {
		return 0, nil
	}
	at, err := bootstraptoken.Expiration(s)
	if err == nil {
		if at.IsZero() {
			return 0, nil
		}
		if left := at.Sub(c.env.Clock.Now()); left > 0 {
			return left, nil
		}
	}
	err = c.env.Cluster.Client().Delete(ctx, s, client.Preconditions{UID: &s.UID})
	return 0, client.IgnoreNotFound(err)
}
