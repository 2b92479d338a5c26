// Package datastore runs a server on an etcd that is not its own.
package datastore

import (
	"context"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/test/cluster"
	"github.com/proa-dev/proa/test/isolate"
)

func TestMain(m *testing.M) {
	flag.Parse()
	isolate.Enter()
	os.Exit(m.Run())
}

// TestOutsideEtcd also checks the layout: another reader of that etcd finds
// keys and values as upstream writes them.
func TestOutsideEtcd(t *testing.T) {
	endpoint := startEtcd(t)
	c, err := cluster.New("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	flags := []string{"--disable-agent", "--datastore-endpoint", endpoint}
	if err := c.Start(t.Context(), flags...); err != nil {
		t.Fatal(err)
	}
	api, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	made, err := api.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Data: map[string]string{"k": "v"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	got, err := etcd.Get(t.Context(), "/registry/configmaps/default/kept")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("the key of a ConfigMap: %v, %v", got, err)
	}
	if v := string(got.Kvs[0].Value); !strings.HasPrefix(v, "k8s\x00") || strings.Contains(v, made.ResourceVersion+"\"") {
		t.Errorf("the value is not an envelope as upstream writes it: %q", v)
	}

	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context(), flags...); err != nil {
		t.Fatal(err)
	}
	again, err := api.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil || again.ResourceVersion != made.ResourceVersion || again.Data["k"] != "v" {
		t.Errorf("after kill -9: %v, %v", again, err)
	}
}

// startEtcd runs an etcd of this test's on loopback.
func startEtcd(t *testing.T) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(t.TempDir(), "etcd")
	cfg.LogLevel = "error"
	cfg.LogOutputs = []string{filepath.Join(t.TempDir(), "log")}
	at := func(port string) []url.URL { return []url.URL{{Scheme: "http", Host: "127.0.0.1:" + port}} }
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at("12379"), at("12379")
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at("12380"), at("12380")
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	srv, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	select {
	case <-srv.Server.ReadyNotify():
	case <-time.After(20 * time.Second):
		t.Fatal("etcd is not ready in 20 s")
	}
	return "http://127.0.0.1:12379"
}
