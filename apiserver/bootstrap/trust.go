package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/internal/bootstraptoken"
)

// ensureTrust publishes how extension API servers (metrics-server, …) verify
// clients and front proxies: they read this ConfigMap at their start.
func ensureTrust(ctx context.Context, cfg Config) error {
	data, err := trustData(cfg)
	if err != nil {
		return err
	}
	return ensureData(ctx, cfg, metav1.NamespaceSystem, "extension-apiserver-authentication", data)
}

// ensureData makes a ConfigMap hold data; what else is in it stays.
func ensureData(ctx context.Context, cfg Config, namespace, name string, data map[string]string) error {
	want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: data}
	have := &corev1.ConfigMap{}
	err := cfg.Reader.Get(ctx, ctrl.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err):
		return ensure(ctx, cfg.Client, want)
	case err != nil:
		return fmt.Errorf("read ConfigMap %s: %w", want.Name, err)
	}
	merged := maps.Clone(have.Data)
	if merged == nil {
		merged = map[string]string{}
	}
	maps.Copy(merged, data)
	if maps.Equal(merged, have.Data) {
		return nil
	}
	have.Data = merged
	if err := cfg.Client.Update(ctx, have); err != nil && !apierrors.IsConflict(err) { // another server writes the same
		return fmt.Errorf("update ConfigMap %s: %w", want.Name, err)
	}
	return nil
}

// ensureClusterInfo publishes, to everybody, where the cluster is and by what
// authority it is known: a kubeconfig without a user, as kubeadm's nodes read it.
// The signatures beside it are the bootstrap signer's.
func ensureClusterInfo(ctx context.Context, cfg Config) error {
	info := clientcmdapi.NewConfig()
	info.Clusters[""] = &clientcmdapi.Cluster{Server: cfg.Server, CertificateAuthorityData: cfg.ClientCA}
	text, err := clientcmd.Write(*info)
	if err != nil {
		return fmt.Errorf("encode %s: %w", bootstraptoken.ClusterInfo, err)
	}
	return ensureData(ctx, cfg, metav1.NamespacePublic, bootstraptoken.ClusterInfo, map[string]string{bootstraptoken.KubeconfigKey: string(text)})
}

func trustData(cfg Config) (map[string]string, error) {
	data := map[string]string{"client-ca-file": string(cfg.ClientCA)}
	if len(cfg.FrontProxyCA) == 0 {
		return data, nil
	}
	data["requestheader-client-ca-file"] = string(cfg.FrontProxyCA)
	for key, list := range map[string][]string{
		"requestheader-username-headers":     {"X-Remote-User"},
		"requestheader-uid-headers":          {"X-Remote-Uid"},
		"requestheader-group-headers":        {"X-Remote-Group"},
		"requestheader-extra-headers-prefix": {"X-Remote-Extra-"},
		"requestheader-allowed-names":        append([]string{}, cfg.FrontProxyNames...),
	} {
		text, err := json.Marshal(list)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", key, err)
		}
		data[key] = string(text)
	}
	return data, nil
}
