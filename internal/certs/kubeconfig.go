package certs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig names the parts of a kubeconfig file.
type Kubeconfig struct {
	Path   string
	Server string // https://127.0.0.1:6443
	// Name is given to the cluster, the user and the context.
	Name string
	// Mode is 0600 unless set: the file is a credential.
	Mode fs.FileMode
}

type kubeconfigFile struct {
	Kubeconfig
	ca   []byte
	leaf *Leaf

	mu      sync.Mutex
	written []byte // the certificate that the file holds
}

// WriteKubeconfig writes a kubeconfig (0600, atomically) for the holder of a
// client certificate, and writes it again whenever Run renews that.
func (a *Authority) WriteKubeconfig(k Kubeconfig, leaf *Leaf) error {
	if k.Mode == 0 {
		k.Mode = 0o600
	}
	f := &kubeconfigFile{Kubeconfig: k, ca: a.CAPEM(), leaf: leaf}
	if err := f.write(); err != nil {
		return err
	}
	a.mu.Lock()
	a.files = append(a.files, f)
	a.mu.Unlock()
	return nil
}

// write brings the file up to date with its leaf.
func (f *kubeconfigFile) write() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	current := f.leaf.Certificate()
	if bytes.Equal(f.written, current.Leaf.Raw) {
		return nil
	}
	cert, key, err := certPEM(current)
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[f.Name] = &clientcmdapi.Cluster{Server: f.Server, CertificateAuthorityData: f.ca}
	config.AuthInfos[f.Name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[f.Name] = &clientcmdapi.Context{Cluster: f.Name, AuthInfo: f.Name}
	config.CurrentContext = f.Name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig %s: %w", f.Path, err)
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return fmt.Errorf("create directory of kubeconfig: %w", err)
	}
	if err := replaceFile(f.Path, data, f.Mode); err != nil {
		return err
	}
	f.written = current.Leaf.Raw
	return nil
}
