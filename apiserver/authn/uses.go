package authn

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// Upstream's labels of Secrets that hold legacy tokens.
const (
	lastUsed     = "kubernetes.io/legacy-token-last-used"
	invalidSince = "kubernetes.io/legacy-token-invalid-since"
)

// maxUses bounds what waits to be written. A use that finds no room is written
// at the next one.
const maxUses = 64

// known says whether the Secret already tells of a use today. Another server's
// clock may be a little ahead.
func known(secret *corev1.Secret, now time.Time) bool {
	label := secret.Labels[lastUsed]
	return label == now.UTC().Format(time.DateOnly) || label == now.UTC().AddDate(0, 0, 1).Format(time.DateOnly)
}

// used remembers that a legacy token was used, without keeping its request waiting.
func (a *Authenticator) used(secret *corev1.Secret, now time.Time) {
	if known(secret, now) {
		return
	}
	select {
	case a.uses <- types.NamespacedName{Namespace: secret.Namespace, Name: secret.Name}:
	default:
	}
}

// NoteUses writes down the day on which each legacy token was used last, until
// ctx ends. c must be allowed to write Secrets.
func (a *Authenticator) NoteUses(ctx context.Context, c ctrl.Client, logger *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case key := <-a.uses:
			if err := a.noteUse(ctx, c, key); err != nil && ctx.Err() == nil {
				logger.Warn("the use of a service account's token is not noted", "secret", key, "error", err)
			}
		}
	}
}

func (a *Authenticator) noteUse(ctx context.Context, c ctrl.Client, key types.NamespacedName) error {
	now := a.cfg.Clock.Now()
	secret, ok := a.object(ctx, "secrets", key.Namespace, key.Name).(*corev1.Secret)
	if !ok || known(secret, now) { // several requests, one note
		return nil
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": secret.UID, "labels": map[string]string{lastUsed: now.UTC().Format(time.DateOnly)},
	}})
	if err != nil {
		return err
	}
	bare := &corev1.Secret{}
	bare.Namespace, bare.Name = key.Namespace, key.Name
	err = c.Patch(ctx, bare, ctrl.RawPatch(types.MergePatchType, body))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it was deleted meanwhile, or made again
	}
	return err
}
