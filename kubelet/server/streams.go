package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/logs"
	"github.com/proa-dev/proa/kubelet/spec"
)

// find answers the request itself when there is no such pod.
func (s *Server) find(w http.ResponseWriter, r *http.Request) *corev1.Pod {
	pod := s.cfg.Pods.Get(r.PathValue("namespace"), r.PathValue("pod"))
	if uid := r.PathValue("uid"); pod != nil && uid != "" && string(pod.UID) != uid {
		pod = nil
	}
	if pod == nil {
		http.Error(w, "pod does not exist", http.StatusNotFound)
	}
	return pod
}

// running answers the request itself when the container does not run.
func (s *Server) running(w http.ResponseWriter, r *http.Request) *cri.Container {
	pod := s.find(w, r)
	if pod == nil {
		return nil
	}
	name := r.PathValue("container")
	c, _ := s.cfg.Pods.Container(pod, name, false)
	if c == nil || c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		http.Error(w, fmt.Sprintf("container not found (%q)", name), http.StatusNotFound)
		return nil
	}
	return c
}

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	pod := s.find(w, r)
	if pod == nil {
		return
	}
	name := r.PathValue("container")
	if spec.FindContainer(pod, name) == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, pod.Name), http.StatusNotFound)
		return
	}
	o, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	previous := r.URL.Query().Get("previous") == "true"
	c, ended := s.cfg.Pods.Container(pod, name, previous)
	if c == nil || c.LogPath == "" || (c.State == runtimeapi.ContainerState_CONTAINER_CREATED) {
		http.Error(w, noLog(pod, name, previous), http.StatusBadRequest)
		return
	}
	if r.URL.Query().Get("follow") == "true" {
		o.Ended = ended
	}
	out := &flusher{w: w, c: http.NewResponseController(w)}
	switch stream := r.URL.Query().Get("stream"); stream {
	case "", "All":
		o.Stdout, o.Stderr = out, out
	case "Stdout":
		o.Stdout = out
	case "Stderr":
		o.Stderr = out
	default:
		http.Error(w, fmt.Sprintf("invalid stream type %q", stream), http.StatusBadRequest)
		return
	}
	o.Flush = out.flush
	w.Header().Set("Content-Type", "text/plain")
	err = logs.Read(r.Context(), c.LogPath, o)
	if err != nil && !out.began {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("failed to try resolving symlinks in path %q: lstat %s: no such file or directory", c.LogPath, c.LogPath)
		}
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// noLog explains why a container has no log, in upstream's words.
func noLog(pod *corev1.Pod, name string, previous bool) string {
	if previous {
		return fmt.Sprintf("previous terminated container %q in pod %q not found", name, pod.Name)
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			st := &list[i]
			switch t := st.State.Terminated; {
			case st.Name != name || t == nil && st.State.Waiting == nil:
				continue
			case t != nil && t.ContainerID == "":
				return fmt.Sprintf("container %q in pod %q is terminated", name, pod.Name)
			case t != nil: // it had to make room
				return "unable to retrieve container logs for " + t.ContainerID
			}
			why := st.State.Waiting.Reason
			switch why {
			case images.ReasonErrImagePull:
				why = "image can't be pulled"
			case images.ReasonBackOff:
				why = "trying and failing to pull image"
			}
			return fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, pod.Name, why)
		}
	}
	return fmt.Sprintf("container %q in pod %q is not available", name, pod.Name)
}

func logOptions(q url.Values) (logs.Options, error) {
	o := logs.Options{Tail: -1, Bytes: -1, Timestamps: q.Get("timestamps") == "true"}
	number := func(name string, to *int64, least int64) error {
		if text := q.Get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < least {
				return fmt.Errorf("invalid %s %q", name, text)
			}
			*to = n
		}
		return nil
	}
	seconds := int64(-1)
	if err := errors.Join(number("tailLines", &o.Tail, 0), number("limitBytes", &o.Bytes, 1), number("sinceSeconds", &seconds, 1)); err != nil {
		return o, err
	}
	if seconds > 0 {
		o.Since = time.Now().Add(-time.Duration(min(seconds, math.MaxInt64/int64(time.Second))) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return o, fmt.Errorf("invalid sinceTime %q", text)
		}
		o.Since = at
	}
	return o, nil
}

// flusher sends what was written when the log has nothing more for now.
type flusher struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	began bool
}

func (f *flusher) Write(p []byte) (int, error) {
	f.began = true
	return f.w.Write(p)
}

func (f *flusher) flush() {
	f.began = true
	_ = f.c.Flush() // the caller may be gone: the next write says so
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	c := s.running(w, r)
	if c == nil {
		return
	}
	q := r.URL.Query()
	got, err := s.cfg.CRI.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: c.Id, Cmd: q["command"], Tty: isOn(q, "tty"),
		Stdin: isOn(q, "input", "stdin"), Stdout: isOn(q, "output", "stdout"), Stderr: isOn(q, "error", "stderr") && !isOn(q, "tty")})
	if err != nil {
		http.Error(w, cri.Message(err), http.StatusInternalServerError)
		return
	}
	s.stream(w, r, got.Url)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	c := s.running(w, r)
	if c == nil {
		return
	}
	q := r.URL.Query()
	tty := false
	if pod := s.cfg.Pods.Get(r.PathValue("namespace"), r.PathValue("pod")); pod != nil {
		if sp := spec.FindContainer(pod, c.Name()); sp != nil {
			tty = sp.TTY
		}
	}
	got, err := s.cfg.CRI.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: c.Id, Tty: tty,
		Stdin: isOn(q, "input", "stdin"), Stdout: isOn(q, "output", "stdout"), Stderr: isOn(q, "error", "stderr") && !tty})
	if err != nil {
		http.Error(w, cri.Message(err), http.StatusInternalServerError)
		return
	}
	s.stream(w, r, got.Url)
}

func isOn(q url.Values, names ...string) bool {
	for _, n := range names {
		if v := q.Get(n); v == "1" || v == "true" {
			return true
		}
	}
	return false
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod := s.find(w, r)
	if pod == nil {
		return
	}
	id := s.cfg.Pods.Sandbox(pod)
	if id == "" {
		http.Error(w, fmt.Sprintf("failed to find sandbox for pod %q", pod.Name), http.StatusNotFound)
		return
	}
	var ports []int32
	for _, list := range r.URL.Query()["port"] {
		for _, text := range strings.Split(list, ",") {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || n == 0 {
				http.Error(w, fmt.Sprintf("invalid port %q", text), http.StatusBadRequest)
				return
			}
			ports = append(ports, int32(n))
		}
	}
	got, err := s.cfg.CRI.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports})
	if err != nil {
		http.Error(w, cri.Message(err), http.StatusInternalServerError)
		return
	}
	s.stream(w, r, got.Url)
}

// stream joins the caller with the runtime's streaming server, whatever
// protocol they speak over the upgraded connection.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, location string) {
	u, err := url.Parse(location)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{s}).ServeHTTP(w, r)
}

type responder struct{ s *Server }

func (r responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	r.s.cfg.Logger.Warn("node API: stream failed", "err", err)
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

// run runs a command and answers with its output.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	c := s.running(w, r)
	if c == nil {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Minute)
	defer cancel()
	command := r.URL.Query()["cmd"]
	if len(command) == 1 {
		command = strings.Split(command[0], " ")
	}
	got, err := s.cfg.CRI.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c.Id, Cmd: command, Timeout: 600})
	if err != nil {
		http.Error(w, cri.Message(err), http.StatusInternalServerError)
		return
	}
	if got.ExitCode != 0 {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = w.Write(append(got.Stdout, got.Stderr...)) // the caller may be gone
}

// nodeLogs serves the node's own /var/log.
func (s *Server) nodeLogs(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot("/var/log")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer root.Close()
	name := strings.TrimPrefix(path.Clean(strings.TrimPrefix(r.URL.Path, "/logs")), "/")
	if name == "" || strings.HasSuffix(r.URL.Path, "/") {
		http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
		return
	}
	f, err := root.Open(name)
	if err != nil {
		http.Error(w, "file not found", http.StatusNotFound)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.Copy(w, f) // the caller may be gone
}
