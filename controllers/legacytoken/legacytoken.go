// Package legacytoken removes tokens of service accounts that older clusters
// made by themselves, kept in Secrets, and that nobody has used for a year:
// first they are marked invalid, and a year later they are gone. What was made
// by hand stays. From when on uses are known is told by a ConfigMap.
package legacytoken

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/podrefs"
)

// Name is the controller's name in logs.
const Name = "legacy-serviceaccount-token-cleaner-controller"

const (
	tracking = "kube-apiserver-legacy-service-account-token-tracking"
	sinceKey = "since"

	lastUsed     = "kubernetes.io/legacy-token-last-used"
	invalidSince = "kubernetes.io/legacy-token-invalid-since"

	// period is how long a token may go unused, and then how long it may be
	// made valid again.
	period = 365 * 24 * time.Hour
	// interval is the time between two looks at all tokens.
	interval = 24 * time.Hour
)

type controller struct{ env loop.Env }

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env}
	key := loop.Key(metav1.NamespaceSystem, tracking)
	changed := func(_ context.Context, q loop.Queue, m *corev1.ConfigMap) {
		if m.Namespace == key.Namespace && m.Name == key.Name {
			q.Add(key)
		}
	}
	track, err := loop.New(env, "legacy-token-tracking-controller", 1, c.track,
		loop.Once(key),
		loop.Watch(env.Cluster, &corev1.ConfigMap{}, loop.On[*corev1.ConfigMap]{
			Updated: func(ctx context.Context, q loop.Queue, _, m *corev1.ConfigMap) { changed(ctx, q, m) },
			Deleted: changed,
		}),
	)
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, track, loop.Loop{Name: Name, Run: c.run}), nil
}

// track keeps the day since which uses of tokens are known.
func (c *controller) track(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	today := c.env.Clock.Now().UTC().Format(time.DateOnly)
	m := &corev1.ConfigMap{}
	err := api.Get(ctx, key, m)
	if apierrors.IsNotFound(err) {
		m.Namespace, m.Name, m.Data = key.Namespace, key.Name, map[string]string{sinceKey: today}
		return 0, client.IgnoreAlreadyExists(api.Create(ctx, m))
	}
	if err != nil {
		return 0, err
	}
	if _, err := time.Parse(time.DateOnly, m.Data[sinceKey]); err == nil {
		return 0, nil
	}
	if m.Data == nil {
		m.Data = map[string]string{}
	}
	m.Data[sinceKey] = today
	return 0, client.IgnoreNotFound(api.Update(ctx, m))
}

// run looks at all tokens now and once a day.
func (c *controller) run(ctx context.Context) error {
	tick := c.env.Clock.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := c.clean(ctx); err != nil && ctx.Err() == nil {
			c.env.Logger.Error("clean up tokens of service accounts", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C():
		}
	}
}

func (c *controller) clean(ctx context.Context) error {
	m := &corev1.ConfigMap{}
	err := c.env.Cluster.Reader().Get(ctx, types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: tracking}, m)
	if apierrors.IsNotFound(err) {
		return nil // a new cluster: it is made at this moment
	}
	if err != nil {
		return err
	}
	since, err := time.Parse(time.DateOnly, m.Data[sinceKey])
	if err != nil {
		return fmt.Errorf("ConfigMap %s: %w", tracking, err)
	}
	now := c.env.Clock.Now().UTC()
	// The first day counts from its end.
	if now.Before(since.AddDate(0, 0, 1).Add(period)) {
		return nil
	}
	api := c.env.Cluster.Client()
	var secrets corev1.SecretList
	if err := api.List(ctx, &secrets, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	mounted := map[string]map[string]bool{} // by namespace
	var errs []error
	for i := range secrets.Items {
		s := &secrets.Items[i]
		if Judge(s, now) == Keep {
			continue
		}
		if ok, err := c.idle(ctx, s, mounted); err != nil {
			errs = append(errs, err)
		} else if ok {
			errs = append(errs, c.act(ctx, s, now))
		}
	}
	return errors.Join(errs...)
}

// Verdict is what becomes of a token.
type Verdict int

// The verdicts.
const (
	Keep Verdict = iota
	Mark         // as invalid
	Remove
)

// Judge decides by a Secret's labels alone.
func Judge(s *corev1.Secret, now time.Time) Verdict {
	edge := now.UTC().Add(-period)
	day := edge.Format(time.DateOnly)
	if s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil || !s.CreationTimestamp.Time.Before(edge) {
		return Keep
	}
	if used, ok := s.Labels[lastUsed]; ok {
		// A day that cannot be read proves nothing.
		if _, err := time.Parse(time.DateOnly, used); err != nil || used >= day {
			return Keep
		}
	}
	switch since := s.Labels[invalidSince]; {
	case !isDay(since):
		return Mark
	case since >= day:
		return Keep
	}
	return Remove
}

func isDay(text string) bool {
	_, err := time.Parse(time.DateOnly, text)
	return err == nil
}

// idle says whether a token was made by the cluster, and no pod names it.
func (c *controller) idle(ctx context.Context, s *corev1.Secret, mounted map[string]map[string]bool) (bool, error) {
	api := c.env.Cluster.Client()
	sa := &corev1.ServiceAccount{}
	err := api.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: s.Annotations[corev1.ServiceAccountNameKey]}, sa)
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if uid := s.Annotations[corev1.ServiceAccountUIDKey]; uid != "" && uid != string(sa.UID) {
		return false, nil
	}
	if !slices.ContainsFunc(sa.Secrets, func(r corev1.ObjectReference) bool { return r.Name == s.Name }) {
		return false, nil
	}
	if mounted[s.Namespace] == nil {
		var pods corev1.PodList
		if err := api.List(ctx, &pods, client.InNamespace(s.Namespace), client.UnsafeDisableDeepCopy); err != nil {
			return false, err
		}
		names := map[string]bool{}
		for i := range pods.Items {
			for name := range podrefs.Secrets(&pods.Items[i]) {
				names[name] = true
			}
		}
		mounted[s.Namespace] = names
	}
	return !mounted[s.Namespace][s.Name], nil
}

// act carries out the verdict on a Secret, unless it was used meanwhile.
func (c *controller) act(ctx context.Context, shared *corev1.Secret, now time.Time) error {
	api := c.env.Cluster.Client()
	name := shared.Namespace + "/" + shared.Name
	var err error
	if Judge(shared, now) == Mark {
		c.env.Logger.Info("a service account's token is unused and becomes invalid", "secret", name)
		s := shared.DeepCopy()
		metav1.SetMetaDataLabel(&s.ObjectMeta, invalidSince, now.Format(time.DateOnly))
		err = api.Patch(ctx, s, client.MergeFromWithOptions(shared.DeepCopy(), client.MergeFromWithOptimisticLock{}))
	} else {
		c.env.Logger.Info("a service account's token is unused and is deleted", "secret", name,
			"lastUsed", shared.Labels[lastUsed], "invalidSince", shared.Labels[invalidSince])
		version := shared.ResourceVersion
		err = api.Delete(ctx, shared.DeepCopy(), client.Preconditions{ResourceVersion: &version})
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
