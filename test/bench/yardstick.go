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
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// yardsticks are what runs in a process of its own: `bench NAME ARGUMENT`.
var yardsticks = map[string]func(argument string) error{
	"yardstick-http": serveHTTP,
	"yardstick-etcd": serveEtcd,
}

// serveHTTP is a bare Go HTTP/2 server: it prints its address and answers every
// request with what the file holds.
func serveHTTP(file string) error {
	body, err := os.ReadFile(file)
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

// serveEtcd is an etcd without a client or a network between: it says when it
// is ready, and for each line that it reads how many transactions a second
// create 1.5 kB values, with as many writers as there are clients.
func serveEtcd(dir string) error {
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.LogLevel = "fatal"
	local := func(name string) url.URL { return url.URL{Scheme: "unix", Path: dir + "-" + name} }
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{local("client")}, []url.URL{local("client")}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{local("peer")}, []url.URL{local("peer")}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	srv, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer srv.Close()
	<-srv.Server.ReadyNotify()
	c := v3client.New(srv.Server)
	defer c.Close()
	fmt.Println("ready")
	orders := bufio.NewScanner(os.Stdin)
	for turn := 0; orders.Scan(); turn++ {
		rate, err := transactions(c, turn)
		if err != nil {
			return err
		}
		fmt.Println(rate)
	}
	return orders.Err()
}

// transactions is the rate of one turn.
func transactions(c *clientv3.Client, turn int) (float64, error) {
	value := strings.Repeat("x", 1500)
	ctx := context.Background()
	return all(ctx, func(w, n int) error {
		key := fmt.Sprintf("/registry/pods/default/%d-%d-%d", turn, w, n)
		_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
		return err
	})
}

// yardstick is such a process.
type yardstick struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
	// first is the line that said it is ready.
	first string
}

func startYardstick(ctx context.Context, name, argument string) (*yardstick, error) {
	y := &yardstick{cmd: exec.CommandContext(ctx, os.Args[0], name, argument)}
	y.cmd.Stderr = os.Stderr
	y.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if y.in, err = y.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := y.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	y.out = bufio.NewReader(out)
	if err := y.cmd.Start(); err != nil {
		return nil, err
	}
	if y.first, err = y.line(); err != nil {
		y.stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return y, nil
}

func (y *yardstick) line() (string, error) {
	s, err := y.out.ReadString('\n')
	return strings.TrimSpace(s), err
}

// rate asks for one turn.
func (y *yardstick) rate() (float64, error) {
	if _, err := io.WriteString(y.in, "go\n"); err != nil {
		return 0, err
	}
	s, err := y.line()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(s, 64)
}

func (y *yardstick) stop() {
	_ = y.cmd.Process.Kill()
	_ = y.cmd.Wait()
}

// bareHTTP is a bare server that answers with a body, and a load for it.
func bareHTTP(ctx context.Context, body []byte) (*load, func(), error) {
	file, err := os.CreateTemp("", "proa-bench")
	if err != nil {
		return nil, nil, err
	}
	defer os.Remove(file.Name())
	if _, err := file.Write(body); err != nil {
		return nil, nil, err
	}
	file.Close()
	y, err := startYardstick(ctx, "yardstick-http", file.Name())
	if err != nil {
		return nil, nil, err
	}
	l := newLoad("https://"+y.first, &tls.Config{InsecureSkipVerify: true})
	return l, func() { l.close(); y.stop() }, nil
}
