package authn

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/proa-dev/proa/internal/bootstraptoken"
)

// bootstrapper is the bearer of a bootstrap token; nil when token has not the
// form of one. The Secret is read on every request: a token ends with it.
func (a *Authenticator) bootstrapper(ctx context.Context, token string) (user.Info, error) {
	shown, err := bootstraptoken.Parse(token)
	if err != nil {
		return nil, nil //nolint:nilerr // another kind of token
	}
	// Why a token is refused is not told: its bearer is a stranger.
	secret, ok := a.object(ctx, "secrets", metav1.NamespaceSystem, bootstraptoken.SecretPrefix+shown.ID).(*corev1.Secret)
	if !ok || secret.DeletionTimestamp != nil {
		return nil, errBadToken
	}
	kept, may, err := bootstraptoken.Read(secret)
	if err != nil || !kept.Equal(shown) || may.Expired(a.cfg.Clock.Now()) || !may.May(bootstraptoken.UsageAuthentication) {
		return nil, errBadToken
	}
	return withAuthenticated(&user.DefaultInfo{Name: bootstraptoken.UserPrefix + kept.ID, Groups: may.AllGroups()}), nil
}

// ownAudiences are those of wanted that are the API server's: a bootstrap token
// names none.
func (a *Authenticator) ownAudiences(wanted []string) ([]string, error) {
	both := a.matching(&claims{}, wanted)
	if len(both) == 0 {
		return nil, fmt.Errorf("%w: bootstrap tokens are for the API server, not for %q", errBadToken, wanted)
	}
	return both, nil
}
