package podnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRequest bounds a call: environment and configuration.
	maxRequest = 4<<20 + 64<<10
	// maxCalls bounds the calls worked on at a time; more wait in the kernel.
	maxCalls = 64
	// callTimeout bounds one call, with reading it and answering.
	callTimeout = 60 * time.Second
)

// request is one exec of proa-cni.
type request struct {
	env   map[string]string
	stdin []byte
}

// handler answers a request with what goes to stdout and the exit code.
type handler func(ctx context.Context, r request) (stdout []byte, code byte)

// server answers proa-cni on a unix socket.
type server struct {
	l      *net.UnixListener
	handle handler
	log    *slog.Logger
}

// listen opens the socket for root alone.
func listen(path string, h handler, log *slog.Logger) (*server, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &server{l: l, handle: h, log: log}, nil
}

func (s *server) close() error { return s.l.Close() }

// serve answers until ctx ends and waits for the calls under way.
func (s *server) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.l.Close() })
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, maxCalls)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := s.accept(ctx)
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("podnet: accept: %w", err)
		}
		calls.Go(func() {
			defer func() { <-slots }()
			// A call under way is finished even if ctx ends: half a network
			// is worse than a late stop.
			callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			if err := s.answer(callCtx, conn); err != nil {
				s.log.Warn("call of the runtime not answered", "error", err)
			}
		})
	}
}

// How long to wait when the kernel has no room for another connection: no
// descriptor is free, or no memory.
const (
	firstWait = 5 * time.Millisecond
	lastWait  = time.Second
)

// accept gives the next call. That there is no room for it ends nothing: room
// comes with the end of others.
func (s *server) accept(ctx context.Context) (*net.UnixConn, error) {
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		conn, err := s.l.AcceptUnix()
		if !outOfRoom(err) || ctx.Err() != nil {
			return conn, err
		}
		s.log.Warn("a call of the runtime has to wait", "error", err, "again", wait)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func outOfRoom(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *server) answer(ctx context.Context, conn *net.UnixConn) error {
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	r, err := readRequest(conn)
	if err != nil {
		return err
	}
	stdout, code := s.handle(ctx, r)
	_, err = conn.Write(append([]byte{code}, stdout...))
	return err
}

// readRequest reads the format described in proa-cni.c.
func readRequest(r io.Reader) (request, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxRequest+1))
	if err != nil {
		return request{}, err
	}
	if len(data) > maxRequest {
		return request{}, errors.New("request too large")
	}
	req := request{env: map[string]string{}}
	for {
		entry, rest, ok := bytes.Cut(data, []byte{0})
		if !ok {
			return request{}, errors.New("request cut off")
		}
		data = rest
		if len(entry) == 0 {
			req.stdin = rest
			return req, nil
		}
		k, v, ok := strings.Cut(string(entry), "=")
		if !ok {
			return request{}, errors.New("malformed environment")
		}
		req.env[k] = v
	}
}
