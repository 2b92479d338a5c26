package join

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/proa-dev/proa/internal/bootstraptoken"
)

// How long to wait between attempts.
const (
	firstWait = 250 * time.Millisecond
	lastWait  = 10 * time.Second
)

// final is an error that no further attempt cures.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// insist tries until it succeeds, ctx ends, or trying on is of no use. What is
// in the way is told once, and again when it changes.
func (n *Node) insist(ctx context.Context, what string, try func(context.Context) error) error {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		attempt, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := try(attempt)
		cancel()
		var f final
		switch {
		case err == nil:
			n.complain("")
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &f):
			return fmt.Errorf("join: %s: %w", what, f.error)
		}
		if text := what + ": " + err.Error(); n.complain(text) {
			n.cfg.Logger.Warn("not joined yet, trying again", "servers", n.servers.order(), "step", what, "error", err)
		}
		select {
		case <-n.cfg.Clock.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// complain says whether a complaint is another one than the last.
func (n *Node) complain(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := n.complained != text
	n.complained = text
	return changed
}

// enroll obtains the CA and the client certificate by the token.
func (n *Node) enroll(ctx context.Context) error {
	if n.cfg.Token == "" {
		return fmt.Errorf("join: %s holds no certificate of node %q: give --token, from `proa token create` on a server", n.cfg.Dir, n.cfg.NodeName)
	}
	token, hash, err := bootstraptoken.ParseFull(n.cfg.Token)
	if err != nil {
		return fmt.Errorf("join: --token: %w", err)
	}
	if n.pool == nil {
		var ca []byte
		err := n.insist(ctx, "ask the server for the cluster's CA", func(ctx context.Context) (err error) {
			ca, err = discoverAny(ctx, n.cfg.Servers, hash)
			return err
		})
		if err != nil {
			return err
		}
		if err := n.trust(ca); err != nil {
			return err
		}
		if err := writeFile(n.path("ca.crt"), ca); err != nil {
			return err
		}
	}
	transport := n.transport(nil)
	defer transport.CloseIdleConnections()
	bearer := &rest.Config{Host: n.cfg.Servers[0], Transport: transport, BearerToken: token.String(), UserAgent: "proa-agent", Timeout: 30 * time.Second}
	requests, err := v1.NewForConfig(bearer)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	pair, err := n.request(ctx, requests.CertificateSigningRequests(), n.clientTemplate())
	if err != nil {
		return err
	}
	if err := pair.write(n.path(clientFile)); err != nil {
		return err
	}
	n.client.Store(pair.certificate)
	n.cfg.Logger.Info("joined the cluster", "server", n.servers.order()[0], "node", n.cfg.NodeName)
	return nil
}

// maxInfo bounds what is read of a stranger.
const maxInfo = 1 << 20

// discoverAny asks one server after the other. It is of no use to go on when one
// says so and no other knows better.
func discoverAny(ctx context.Context, servers []string, hash string) ([]byte, error) {
	var errs []error
	for _, s := range servers {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		ca, err := discover(attempt, s, hash)
		cancel()
		if err == nil {
			return ca, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	err := errors.Join(errs...)
	for _, e := range errs {
		if f := (final{}); !errors.As(e, &f) {
			return nil, fmt.Errorf("no server answers as it should: %s", err) //nolint:errorlint // one that is down may come: no end for the others' sake
		}
	}
	return nil, final{err}
}

// discover reads the cluster's CA from a server that is not known yet, and
// believes it only if it has the hash. Nothing secret is sent.
func discover(ctx context.Context, server, hash string) ([]byte, error) {
	stranger := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // the hash decides
		DisableKeepAlives: true,
	}}
	url := strings.TrimSuffix(server, "/") + "/api/v1/namespaces/" + metav1.NamespacePublic + "/configmaps/" + bootstraptoken.ClusterInfo
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, final{err}
	}
	req.Header.Set("Accept", "application/json")
	resp, err := stranger.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxInfo))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	info := &corev1.ConfigMap{}
	if err := json.Unmarshal(body, info); err != nil {
		return nil, final{fmt.Errorf("%s is no API server of a Kubernetes cluster: %w", server, err)}
	}
	config, err := clientcmd.Load([]byte(info.Data[bootstraptoken.KubeconfigKey]))
	if err != nil || config.Clusters[""] == nil {
		return nil, final{fmt.Errorf("%s does not tell the cluster's CA", url)}
	}
	ca := config.Clusters[""].CertificateAuthorityData
	have, err := bootstraptoken.CAHash(ca)
	if err != nil {
		return nil, final{err}
	}
	if have != hash {
		return nil, final{fmt.Errorf("%s is not the cluster that the token is for: its CA has the hash %s, the token says %s", server, have, hash)}
	}
	return ca, nil
}

// requester is what of the API a request needs.
type requester interface {
	Create(ctx context.Context, r *certificatesv1.CertificateSigningRequest, o metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error)
	Get(ctx context.Context, name string, o metav1.GetOptions) (*certificatesv1.CertificateSigningRequest, error)
}

// Between looks at a request that is not decided yet.
const (
	firstLook = 20 * time.Millisecond
	lastLook  = 3 * time.Second
	// patience is how long nothing is said about a request that waits.
	patience = 5 * time.Second
)

// request obtains a certificate for a new key.
func (n *Node) request(ctx context.Context, api requester, t template) (*pair, error) {
	key, text, err := t.make()
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	var made *certificatesv1.CertificateSigningRequest
	err = n.insist(ctx, "ask for a certificate", func(ctx context.Context) (err error) {
		made, err = api.Create(ctx, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
			Spec:       certificatesv1.CertificateSigningRequestSpec{Request: text, SignerName: t.signer, Usages: t.usages},
		}, metav1.CreateOptions{})
		if apierrors.IsUnauthorized(err) {
			return final{fmt.Errorf("the server does not accept this node's credentials: the token may have expired, make another one by `proa token create` (%w)", err)}
		}
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			return final{err}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	cert, err := n.await(ctx, api, made)
	if err != nil {
		return nil, err
	}
	return newPair(cert, key)
}

// await looks at a request until it is answered.
func (n *Node) await(ctx context.Context, api requester, r *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	begin, told := n.cfg.Clock.Now(), false
	for wait := firstLook; len(r.Status.Certificate) == 0; wait = min(2*wait, lastLook) {
		for _, c := range r.Status.Conditions {
			if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
				return nil, fmt.Errorf("join: certificate request %s is %s: %s %s", r.Name, c.Type, c.Reason, c.Message)
			}
		}
		if !told && n.cfg.Clock.Since(begin) > patience {
			told = true
			n.cfg.Logger.Warn("certificate request is not approved yet; a node of this name may be alive, or a person must decide: kubectl certificate approve "+r.Name, "request", r.Name)
		}
		select {
		case <-n.cfg.Clock.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		err := n.insist(ctx, "look at certificate request "+r.Name, func(ctx context.Context) error {
			now, err := api.Get(ctx, r.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsUnauthorized(err) {
				return final{err}
			}
			if err == nil {
				r = now
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return r.Status.Certificate, nil
}
