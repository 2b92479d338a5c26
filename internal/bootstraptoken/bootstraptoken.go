// Package bootstraptoken knows the tokens that let a node join a cluster.
//
// A token is id.secret: six and sixteen letters and digits. The cluster keeps it
// as a Secret in kube-system in upstream's form, so that kubeadm's tools can read
// it. What a user is given is the full form,
//
//	K10<hash of the CA's public key>::<id>.<secret>
//
// by which the node knows the cluster as well as the cluster knows the node.
package bootstraptoken

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What upstream calls things.
const (
	// SecretType is the type of the Secrets that are tokens; their namespace
	// is kube-system.
	SecretType   = corev1.SecretType("bootstrap.kubernetes.io/token")
	SecretPrefix = "bootstrap-token-"
	// UserPrefix and DefaultGroup are who the bearer of a token is.
	UserPrefix   = "system:bootstrap:"
	DefaultGroup = "system:bootstrappers"

	// ClusterInfo is the ConfigMap in kube-public by which kubeadm's nodes
	// learn of the cluster: a kubeconfig, and a signature by each token.
	ClusterInfo     = "cluster-info"
	KubeconfigKey   = "kubeconfig"
	SignaturePrefix = "jws-kubeconfig-"
)

// NodeGroup is the group of tokens by which nodes may join.
const NodeGroup = "system:bootstrappers:proa:default-node-token"

const (
	keyID          = "token-id"
	keySecret      = "token-secret"
	keyExpiration  = "expiration"
	keyDescription = "description"
	keyGroups      = "auth-extra-groups"
	usagePrefix    = "usage-bootstrap-"
)

// The usages of a token.
const (
	UsageAuthentication = "authentication"
	UsageSigning        = "signing"
)

const (
	idLength     = 6
	secretLength = 16
	letters      = "0123456789abcdefghijklmnopqrstuvwxyz"
	fullPrefix   = "K10"
)

// Token is what the bearer shows.
type Token struct{ ID, Secret string }

// New makes a random token.
func New() (Token, error) {
	text := make([]byte, idLength+secretLength)
	for i := range text {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			return Token{}, fmt.Errorf("make a token: %w", err)
		}
		text[i] = letters[n.Int64()]
	}
	return Token{string(text[:idLength]), string(text[idLength:])}, nil
}

// Parse reads id.secret.
func Parse(text string) (Token, error) {
	id, secret, ok := strings.Cut(text, ".")
	if !ok || !plain(id, idLength) || !plain(secret, secretLength) {
		return Token{}, fmt.Errorf("a token has the form [a-z0-9]{%d}.[a-z0-9]{%d}", idLength, secretLength)
	}
	return Token{id, secret}, nil
}

func plain(s string, length int) bool {
	return len(s) == length && strings.Trim(s, letters) == ""
}

// String is id.secret.
func (t Token) String() string { return t.ID + "." + t.Secret }

// Full is the form that users are given.
func (t Token) Full(caHash string) string { return fullPrefix + caHash + "::" + t.String() }

// ParseFull reads the full form. caHash is what the cluster's CA must have.
func ParseFull(text string) (t Token, caHash string, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), fullPrefix)
	hash, short, found := strings.Cut(rest, "::")
	if !ok || !found {
		return Token{}, "", errors.New("the token does not carry the hash of the cluster's CA: give it as `proa token create` prints it, K10…::id.secret")
	}
	if b, err := hex.DecodeString(hash); err != nil || len(b) != sha256.Size {
		return Token{}, "", errors.New("the token is damaged: what follows K10 is not a SHA-256 hash")
	}
	t, err = Parse(short)
	return t, hash, err
}

// CAHash is the hash of a PEM certificate's public key: it stays when the
// certificate is made anew for the same key.
func CAHash(caPEM []byte) (string, error) {
	block, _ := pem.Decode(caPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return "", errors.New("not a PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("the CA's certificate: %w", err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

// Options are what a token may do, and for how long.
type Options struct {
	// Expires is never when zero.
	Expires     time.Time
	Usages      []string
	Groups      []string
	Description string
}

// groupForm is upstream's rule for the further groups of a token.
const groupForm = `\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`

// Validate says what is wrong with o.
func (o Options) Validate() error {
	var errs []error
	for _, u := range o.Usages {
		if u != UsageAuthentication && u != UsageSigning {
			errs = append(errs, fmt.Errorf("usage %q is neither %q nor %q", u, UsageAuthentication, UsageSigning))
		}
	}
	for _, g := range o.Groups {
		errs = append(errs, checkGroup(g))
	}
	return errors.Join(errs...)
}

func checkGroup(name string) error {
	if regexp.MustCompile(groupForm).MatchString(name) {
		return nil
	}
	return fmt.Errorf("bootstrap group %q is invalid (must match %s)", name, groupForm)
}

// SecretOf is the object that the cluster keeps of a token.
func SecretOf(t Token, o Options) *corev1.Secret {
	data := map[string][]byte{keyID: []byte(t.ID), keySecret: []byte(t.Secret)}
	if !o.Expires.IsZero() {
		data[keyExpiration] = []byte(o.Expires.UTC().Format(time.RFC3339))
	}
	if o.Description != "" {
		data[keyDescription] = []byte(o.Description)
	}
	if len(o.Groups) > 0 {
		data[keyGroups] = []byte(strings.Join(o.Groups, ","))
	}
	for _, u := range o.Usages {
		data[usagePrefix+u] = []byte("true")
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: SecretPrefix + t.ID},
		Type:       SecretType, Data: data,
	}
}

// Read reads a token's Secret: the token as it is and what it may do. The form
// of the parts is checked; whether it has expired is for the caller.
func Read(s *corev1.Secret) (Token, Options, error) {
	fail := func(format string, args ...any) (Token, Options, error) {
		return Token{}, Options{}, fmt.Errorf("bootstrap token %s/%s: "+format, append([]any{s.Namespace, s.Name}, args...)...)
	}
	if s.Type != SecretType {
		return fail("type %q is not %q", s.Type, SecretType)
	}
	t := Token{string(s.Data[keyID]), string(s.Data[keySecret])}
	if !plain(t.ID, idLength) || s.Name != SecretPrefix+t.ID {
		return fail("%s does not fit the name", keyID)
	}
	if t.Secret == "" {
		return fail("no %s", keySecret)
	}
	o := Options{Description: string(s.Data[keyDescription])}
	for _, u := range []string{UsageAuthentication, UsageSigning} {
		if string(s.Data[usagePrefix+u]) == "true" {
			o.Usages = append(o.Usages, u)
		}
	}
	if text := string(s.Data[keyGroups]); text != "" {
		for g := range strings.SplitSeq(text, ",") {
			if err := checkGroup(g); err != nil {
				return fail("%w", err)
			}
			o.Groups = append(o.Groups, g)
		}
	}
	var err error
	if o.Expires, err = Expiration(s); err != nil {
		return fail("%w", err)
	}
	return t, o, nil
}

// Expiration is when a token's Secret expires; zero is never.
func Expiration(s *corev1.Secret) (time.Time, error) {
	text := string(s.Data[keyExpiration])
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s %q is not a time", keyExpiration, text)
	}
	return at, nil
}

// Expired says whether the time of a token is over.
func (o Options) Expired(now time.Time) bool { return !o.Expires.IsZero() && !now.Before(o.Expires) }

// May says whether a token has a usage.
func (o Options) May(usage string) bool { return slices.Contains(o.Usages, usage) }

// AllGroups are the groups of the bearer, sorted.
func (o Options) AllGroups() []string {
	all := append([]string{DefaultGroup}, o.Groups...)
	slices.Sort(all)
	return slices.Compact(all)
}

// Equal compares in a time that does not depend on where they differ.
func (t Token) Equal(other Token) bool {
	return subtle.ConstantTimeCompare([]byte(t.String()), []byte(other.String())) == 1
}

// Sign is the token's signature of content: a JWS (RFC 7515) with the content
// left out, as kubeadm's nodes verify it.
func (t Token) Sign(content string) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "HS256", "kid": t.ID})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	mac := hmac.New(sha256.New, []byte(t.Secret))
	mac.Write([]byte(encode(header) + "." + encode([]byte(content))))
	return encode(header) + ".." + encode(mac.Sum(nil)), nil
}
