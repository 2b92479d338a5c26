package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// SettingsName is the ConfigMap in kube-system that holds the Settings.
const SettingsName = "proa-cluster"

// Settings is what all nodes of a cluster must agree on.
type Settings struct {
	// Pods holds the pods of all nodes, DNS is where pods ask for names.
	Pods   netip.Prefix
	DNS    netip.Addr
	Domain string
	// PodNetwork is how pods of different nodes reach each other.
	PodNetwork string
}

// The keys of the ConfigMap.
const (
	keyPods       = "clusterCIDR"
	keyDNS        = "clusterDNS"
	keyDomain     = "clusterDomain"
	keyPodNetwork = "podNetwork"
)

// Data is the content of the ConfigMap.
func (s Settings) Data() map[string]string {
	return map[string]string{keyPods: s.Pods.String(), keyDNS: s.DNS.String(), keyDomain: s.Domain, keyPodNetwork: s.PodNetwork}
}

// ParseSettings reads the content of the ConfigMap.
func ParseSettings(data map[string]string) (Settings, error) {
	s := Settings{Domain: data[keyDomain], PodNetwork: data[keyPodNetwork]}
	var err, errs error
	if s.Pods, err = netip.ParsePrefix(data[keyPods]); err != nil {
		errs = errors.Join(errs, fmt.Errorf("%s: %w", keyPods, err))
	}
	if s.DNS, err = netip.ParseAddr(data[keyDNS]); err != nil {
		errs = errors.Join(errs, fmt.Errorf("%s: %w", keyDNS, err))
	}
	if s.Domain == "" {
		errs = errors.Join(errs, fmt.Errorf("%s is empty", keyDomain))
	}
	return s, errs
}

const settingsFile = "settings.json"

// askAtStart is how long a server may take to tell the settings to a node that
// remembers them.
const askAtStart = 5 * time.Second

// learn asks for the settings. A node that knows them from before works with
// those while no server answers.
func (n *Node) learn(ctx context.Context) error {
	maps, err := corev1.NewForConfig(n.REST())
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	ask := func(ctx context.Context) error {
		cm, err := maps.ConfigMaps(metav1.NamespaceSystem).Get(ctx, SettingsName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n.settings, err = ParseSettings(cm.Data); err != nil {
			return fmt.Errorf("ConfigMap %s: %w", SettingsName, err)
		}
		data, err := json.Marshal(cm.Data)
		if err != nil {
			return final{err}
		}
		return writeFile(n.path(settingsFile), data)
	}
	known, err := n.remembered()
	if err != nil {
		return n.insist(ctx, "ask for the cluster's settings", ask)
	}
	short, cancel := context.WithTimeout(ctx, askAtStart)
	defer cancel()
	if err := ask(short); err != nil {
		n.cfg.Logger.Warn("the server does not answer; working on with what is known", "servers", n.servers.order(), "error", err)
		n.settings = known
	}
	return ctx.Err()
}

func (n *Node) remembered() (Settings, error) {
	text, err := os.ReadFile(n.path(settingsFile))
	if err != nil {
		return Settings{}, err
	}
	data := map[string]string{}
	if err := json.Unmarshal(text, &data); err != nil {
		return Settings{}, err
	}
	return ParseSettings(data)
}
