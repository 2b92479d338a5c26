package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"net/url"
)

// serveYardstick is a bare Go HTTP/2 server in a process of its own: it
// answers every request with the body that it read at the start.
func serveYardstick() error {
	body, err := os.ReadFile(os.Args[2])
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	}
	return srv.ServeTLS(l, "", "")
}

// bareHTTP is the rate at which such a server answers the clients.
func bareHTTP(ctx context.Context, body []byte) (float64, error) {
	file, err := os.CreateTemp("", "proa-bench")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(body); err != nil {
		return 0, err
	}
	file.Close()
	cmd := exec.CommandContext(ctx, os.Args[0], "yardstick-http", file.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return 0, err
	}
	l := newLoad("https://"+strings.TrimSpace(addr), &tls.Config{InsecureSkipVerify: true})
	defer l.close()
	return l.rate(ctx, func(int, int) request { return request{method: http.MethodGet, path: "/"} })
}

// bareEtcd is the rate of transactions that create 1.5 kB values in an etcd of
// this process, with 32 writers.
func bareEtcd(ctx context.Context, dir string) (float64, error) {
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.LogLevel = "error"
	local := func(name string) url.URL { return url.URL{Scheme: "unix", Path: dir + "-" + name} }
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{local("client")}, []url.URL{local("client")}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{local("peer")}, []url.URL{local("peer")}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	srv, err := embed.StartEtcd(cfg)
	if err != nil {
		return 0, err
	}
	defer srv.Close()
	<-srv.Server.ReadyNotify()
	c := v3client.New(srv.Server)
	defer c.Close()
	value := strings.Repeat("x", 1500)
	var done atomic.Int64
	var failed atomic.Value
	var wg sync.WaitGroup
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	for w := range clients {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("/registry/pods/default/%d-%d", w, i)
				_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
				if err != nil {
					if ctx.Err() == nil {
						failed.Store(err)
					}
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err, ok := failed.Load().(error); ok {
		return 0, err
	}
	return float64(done.Load()) / time.Since(begin).Seconds(), nil
}
