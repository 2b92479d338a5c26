package bootstraptoken_test

import (
	"strings"
	"testing"
	"time"

	"github.com/proa-dev/proa/internal/bootstraptoken"
)

func TestForms(t *testing.T) {
	token, err := bootstraptoken.New()
	if err != nil {
		t.Fatal(err)
	}
	hash := strings.Repeat("0a", 32)
	got, gotHash, err := bootstraptoken.ParseFull(" " + token.Full(hash) + "\n")
	if err != nil || !got.Equal(token) || gotHash != hash {
		t.Errorf("%v %q %v", got, gotHash, err)
	}
	for _, bad := range []string{"", ".", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0", "abcde-.0123456789abcdef"} {
		if _, err := bootstraptoken.Parse(bad); err == nil {
			t.Errorf("%q is a token", bad)
		}
	}
	for _, bad := range []string{"abcdef.0123456789abcdef", "K10::abcdef.0123456789abcdef", "K10" + hash + ":abcdef.0123456789abcdef", "K10zz::abcdef.0123456789abcdef", "K10" + hash + "::abcdef"} {
		if _, _, err := bootstraptoken.ParseFull(bad); err == nil {
			t.Errorf("%q is a full token", bad)
		}
	}
}

func TestSecret(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	token := bootstraptoken.Token{ID: "abcdef", Secret: "0123456789abcdef"}
	o := bootstraptoken.Options{
		Expires: now.Add(time.Hour), Usages: []string{"authentication", "signing"}, Groups: []string{bootstraptoken.NodeGroup}, Description: "for n2",
	}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	s := bootstraptoken.SecretOf(token, o)
	for key, want := range map[string]string{
		"token-id": "abcdef", "token-secret": "0123456789abcdef", "expiration": "2026-01-01T01:00:00Z", "usage-bootstrap-signing": "true",
		"usage-bootstrap-authentication": "true", "auth-extra-groups": bootstraptoken.NodeGroup, "description": "for n2",
	} {
		if string(s.Data[key]) != want {
			t.Errorf("%s: %q, want %q", key, s.Data[key], want)
		}
	}
	back, may, err := bootstraptoken.Read(s)
	if err != nil || back != token || !may.May("signing") || may.Expired(now) || !may.Expired(now.Add(time.Hour)) {
		t.Errorf("%v %+v %v", back, may, err)
	}
	for what, change := range map[string]func(){
		"another type":   func() { s.Type = "Opaque" },
		"another id":     func() { s.Data["token-id"] = []byte("fedcba") },
		"no secret":      func() { delete(s.Data, "token-secret") },
		"a wrong group":  func() { s.Data["auth-extra-groups"] = []byte("system:masters") },
		"no time at all": func() { s.Data["expiration"] = []byte("tomorrow") },
	} {
		s = bootstraptoken.SecretOf(token, o)
		change()
		if _, _, err := bootstraptoken.Read(s); err == nil {
			t.Errorf("%s: it is a token", what)
		}
	}
	if (bootstraptoken.Options{Usages: []string{"fly"}, Groups: []string{"system:masters"}}).Validate() == nil {
		t.Error("usages and groups of any kind")
	}
}

// The signature is that of upstream's library for the same content.
func TestSign(t *testing.T) {
	got, err := bootstraptoken.Token{ID: "joshua", Secret: "my voice is my passcode"}.Sign("Hello from the other side. I must have called a thousand times.")
	if want := "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"; err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
}
