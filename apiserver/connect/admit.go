package connect

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/registry"
)

// admit asks the admission plugins about the request's options. What they change
// counts: it returns the request and the path as they are to be carried out.
func (p *Proxy) admit(r *http.Request, t registry.Target, rest string) (*http.Request, string, error) {
	if p.cfg.Registry == nil || t.Subresource == "log" {
		return r, rest, nil
	}
	query := r.URL.Query()
	opts, err := optionsOf(t, query, rest, strings.HasSuffix(r.URL.Path, "/"))
	if err != nil {
		return nil, "", err
	}
	before := opts.DeepCopyObject()
	if err := p.cfg.Registry.AdmitConnect(r.Context(), t, opts); err != nil {
		return nil, "", err
	}
	if api.Equal(before, opts) {
		return r, rest, nil
	}
	if path, ok := pathOf(opts); ok {
		return r, strings.TrimPrefix(path, "/"), nil
	}
	put(opts, query)
	r = r.Clone(r.Context())
	r.URL.RawQuery = query.Encode()
	return r, rest, nil
}

// optionsOf reads the options of a request; rest is the path that is proxied,
// without the slash at its beginning.
func optionsOf(t registry.Target, query url.Values, rest string, slash bool) (runtime.Object, error) {
	path := rest
	if path != "" || slash {
		path = "/" + path
	}
	flag := func(name string) bool {
		v, ok := query[name]
		return ok && !slices.Contains([]string{"0", "false"}, strings.ToLower(v[0]))
	}
	var opts runtime.Object
	var kind string
	switch t.Kind.Resource + "/" + t.Subresource {
	case "pods/exec":
		kind, opts = "PodExecOptions", &corev1.PodExecOptions{
			Stdin: flag("stdin"), Stdout: flag("stdout"), Stderr: flag("stderr"), TTY: flag("tty"),
			Container: query.Get("container"), Command: query["command"],
		}
	case "pods/attach":
		kind, opts = "PodAttachOptions", &corev1.PodAttachOptions{
			Stdin: flag("stdin"), Stdout: flag("stdout"), Stderr: flag("stderr"), TTY: flag("tty"), Container: query.Get("container"),
		}
	case "pods/portforward":
		ports, err := portsOf(query["ports"])
		if err != nil {
			return nil, err
		}
		kind, opts = "PodPortForwardOptions", &corev1.PodPortForwardOptions{Ports: ports}
	case "pods/proxy":
		kind, opts = "PodProxyOptions", &corev1.PodProxyOptions{Path: path}
	case "services/proxy":
		kind, opts = "ServiceProxyOptions", &corev1.ServiceProxyOptions{Path: path}
	case "nodes/proxy":
		kind, opts = "NodeProxyOptions", &corev1.NodeProxyOptions{Path: path}
	default:
		return nil, apierrors.NewMethodNotSupported(t.Kind.GR(), "connect")
	}
	opts.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return opts, nil
}

// portsOf reads ports, several of which may stand in one value.
func portsOf(values []string) ([]int32, error) {
	var out []int32
	for _, v := range values {
		for one := range strings.SplitSeq(v, ",") {
			n, err := strconv.ParseInt(one, 10, 32)
			if err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
			out = append(out, int32(n))
		}
	}
	return out, nil
}

func pathOf(opts runtime.Object) (string, bool) {
	switch o := opts.(type) {
	case *corev1.PodProxyOptions:
		return o.Path, true
	case *corev1.ServiceProxyOptions:
		return o.Path, true
	case *corev1.NodeProxyOptions:
		return o.Path, true
	}
	return "", false
}

// put writes options back into a query.
func put(opts runtime.Object, query url.Values) {
	streams := func(in, out, err, tty bool, container string) {
		for name, v := range map[string]bool{"stdin": in, "stdout": out, "stderr": err, "tty": tty} {
			query.Set(name, strconv.FormatBool(v))
		}
		query.Set("container", container)
	}
	switch o := opts.(type) {
	case *corev1.PodExecOptions:
		streams(o.Stdin, o.Stdout, o.Stderr, o.TTY, o.Container)
		query["command"] = o.Command
	case *corev1.PodAttachOptions:
		streams(o.Stdin, o.Stdout, o.Stderr, o.TTY, o.Container)
	case *corev1.PodPortForwardOptions:
		query.Del("ports")
		for _, port := range o.Ports {
			query.Add("ports", strconv.Itoa(int(port)))
		}
	}
}
