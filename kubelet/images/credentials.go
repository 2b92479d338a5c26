package images

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type dockerEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// credential is what a secret holds for an image.
type credential struct {
	auth *runtimeapi.AuthConfig
	from source
}

// credentials lists what the secrets hold for an image, most specific first.
// A secret of another type is passed over, as upstream does; one that does
// not parse is an error that the user must see.
func credentials(image string, secrets []corev1.Secret) ([]credential, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil, err
	}
	type match struct {
		key string
		credential
	}
	var found []match
	for i := range secrets {
		entries, err := parseSecret(&secrets[i])
		if err != nil {
			return nil, fmt.Errorf("image pull secret %s/%s: %w", secrets[i].Namespace, secrets[i].Name, err)
		}
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			e := entries[key]
			server, repository, ok := matches(key, named)
			if !ok {
				continue
			}
			auth, err := e.auth(server)
			if err != nil {
				return nil, fmt.Errorf("image pull secret %s/%s: %w", secrets[i].Namespace, secrets[i].Name, err)
			}
			from, err := sourceOf(&secrets[i], auth)
			if err != nil {
				return nil, err
			}
			found = append(found, match{server + repository, credential{auth, from}})
		}
	}
	// Backwards by name: a longer path comes before what it begins with, and a
	// host before a pattern.
	slices.SortStableFunc(found, func(a, b match) int { return strings.Compare(b.key, a.key) })
	var out []credential
	for _, m := range found {
		out = append(out, m.credential)
	}
	return out, nil
}

// sourceOf names a secret and what it holds for an image.
func sourceOf(s *corev1.Secret, auth *runtimeapi.AuthConfig) (source, error) {
	data, err := json.Marshal([]string{auth.Username, auth.Password, auth.IdentityToken, auth.RegistryToken})
	if err != nil {
		return source{}, err
	}
	sum := sha256.Sum256(data)
	return source{UID: s.UID, Namespace: s.Namespace, Name: s.Name, Hash: hex.EncodeToString(sum[:])}, nil
}

func parseSecret(s *corev1.Secret) (map[string]dockerEntry, error) {
	entries := map[string]dockerEntry{}
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		config := struct {
			Auths map[string]dockerEntry `json:"auths"`
		}{}
		if err := json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &config); err != nil {
			return nil, err
		}
		return config.Auths, nil
	case corev1.SecretTypeDockercfg:
		if err := json.Unmarshal(s.Data[corev1.DockerConfigKey], &entries); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func (e dockerEntry) auth(server string) (*runtimeapi.AuthConfig, error) {
	// Without a server's address, which may be a pattern: the runtime would
	// compare it with the host it asks, and that is often another, a mirror's.
	out := &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password,
		IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		raw, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			raw, err = base64.RawStdEncoding.DecodeString(e.Auth)
		}
		if err != nil {
			return nil, fmt.Errorf("auth for %s is no base64", server)
		}
		user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if !ok {
			return nil, fmt.Errorf("auth for %s has no colon", server)
		}
		out.Username, out.Password = user, password
	}
	return out, nil
}

// matches compares a key such as https://index.docker.io/v1/, *.example.com
// or example.com/team with an image's registry and repository.
func matches(key string, named reference.Named) (server, repository string, ok bool) {
	if !strings.Contains(key, "://") {
		key = "https://" + key
	}
	u, err := url.Parse(key)
	if err != nil {
		return "", "", false
	}
	repository = strings.TrimSuffix(u.Path, "/")
	if repository == "/v1" || repository == "/v2" {
		repository = ""
	}
	domain := reference.Domain(named)
	want := strings.Split(u.Host, ".")
	have := strings.Split(domain, ".")
	if u.Host == "index.docker.io" && domain == "docker.io" {
		want = have
	}
	if len(want) != len(have) {
		return "", "", false
	}
	for i := range want {
		if fits, err := path.Match(want[i], have[i]); err != nil || !fits {
			return "", "", false
		}
	}
	full := "/" + reference.Path(named)
	if repository != "" && full != repository && !strings.HasPrefix(full, repository+"/") {
		return "", "", false
	}
	return u.Host, repository, true
}
