package connect

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/proa-dev/proa/apiserver/registry"
)

// insecureTLS does not verify: a proxied pod or service presents whatever
// certificate it likes, as upstream's proxy has it.
func insecureTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // see above
}

// logs streams a container's log.
func (p *Proxy) logs(w http.ResponseWriter, r *http.Request, t registry.Target) error {
	query := r.URL.Query()
	if err := checkLogOptions(t.Name, query); err != nil {
		return err
	}
	pod, err := p.pod(r.Context(), t)
	if err != nil {
		return err
	}
	name, err := container(pod, query.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		// Nothing has run yet, so there is nothing to show.
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	onward := url.Values{}
	for _, key := range []string{"follow", "previous", "timestamps"} {
		if query.Has(key) && query.Get(key) != "false" && query.Get(key) != "0" {
			onward.Set(key, "true")
		}
	}
	for _, key := range []string{"sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"} {
		if v := query.Get(key); v != "" {
			onward.Set(key, v)
		}
	}
	to, err := p.kubelet(r.Context(), pod.Spec.NodeName)
	if err != nil {
		return err
	}
	to.Path = fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, name)
	to.RawQuery = onward.Encode()
	return p.copyLogs(w, r, to)
}

// checkLogOptions validates the query as upstream validates PodLogOptions.
func checkLogOptions(pod string, query url.Values) error {
	var errs field.ErrorList
	number := func(key string, least int64) {
		v := query.Get(key)
		if v == "" {
			return
		}
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(key), v, "must be a number"))
		case n < least && least == 0:
			errs = append(errs, field.Invalid(field.NewPath(key), n, "must be greater than or equal to 0"))
		case n < least:
			errs = append(errs, field.Invalid(field.NewPath(key), n, "must be greater than 0"))
		}
	}
	number("tailLines", 0)
	number("limitBytes", 1)
	number("sinceSeconds", 1)
	if query.Get("sinceSeconds") != "" && query.Get("sinceTime") != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), pod, errs)
	}
	return nil
}

// copyLogs sends each piece of the log on as it comes.
func (p *Proxy) copyLogs(w http.ResponseWriter, r *http.Request, to *url.URL) error {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, to.String(), nil)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	resp, err := p.cfg.Transport.RoundTrip(req)
	if err != nil {
		return apierrors.NewInternalError(&url.Error{Op: "Get", URL: to.Redacted(), Err: err})
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return kubeletError(resp)
	}
	if wsstream.IsWebSocketRequest(r) {
		// The copy drops what comes together with an error: bufio parts them.
		// What Copy returns is the client's: it has been answered, or is gone.
		_ = wsstream.NewReader(bufio.NewReader(resp.Body), true, wsstream.NewDefaultReaderProtocols()).Copy(w, r)
		return nil
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	if control.Flush() != nil {
		return nil
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil || control.Flush() != nil {
				return nil
			}
		}
		if err != nil {
			return nil // the log's end, or that of the connection: the header is out
		}
	}
}

// stream serves exec and attach.
func (p *Proxy) stream(w http.ResponseWriter, r *http.Request, t registry.Target) error {
	pod, err := p.pod(r.Context(), t)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	name := query.Get("container")
	if name == "" {
		name = pod.Annotations["kubectl.kubernetes.io/default-container"]
		if !slices.Contains(allContainers(pod), name) {
			name = ""
		}
	}
	if name, err = container(pod, name); err != nil {
		return err
	}
	if phase := pod.Status.Phase; phase == corev1.PodSucceeded || phase == corev1.PodFailed {
		return apierrors.NewBadRequest(fmt.Sprintf("cannot exec or attach in a container in a completed pod; current phase is %s", phase))
	}
	onward := url.Values{}
	for from, to := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
		if v := query.Get(from); query.Has(from) && v != "false" && v != "0" {
			onward.Set(to, "1")
		}
	}
	if len(onward) == 0 || onward.Get("input") == "" && onward.Get("output") == "" && onward.Get("error") == "" {
		return apierrors.NewBadRequest("at least one of stdin, stdout, stderr must be true")
	}
	if onward.Get("tty") != "" {
		onward.Del("error") // a terminal has one output
	}
	verb := t.Subresource
	if verb == "exec" {
		commands := query["command"]
		if len(commands) == 0 {
			return apierrors.NewBadRequest("you must specify at least one command for the container")
		}
		for _, c := range commands {
			onward.Add("command", c)
		}
	}
	return p.toKubelet(w, r, pod, fmt.Sprintf("/%s/%s/%s/%s", verb, pod.Namespace, pod.Name, name), onward, p.streams(translator.Options{
		Stdin: onward.Has("input"), Stdout: onward.Has("output"), Stderr: onward.Has("error"), Tty: onward.Has("tty"),
	}))
}

func (p *Proxy) portForward(w http.ResponseWriter, r *http.Request, t registry.Target) error {
	pod, err := p.pod(r.Context(), t)
	if err != nil {
		return err
	}
	onward := url.Values{}
	for _, v := range r.URL.Query()["ports"] {
		onward.Add("port", v)
	}
	return p.toKubelet(w, r, pod, fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), onward, tunnel)
}
