package images

import (
	"io/fs"

	"github.com/proa-dev/proa/internal/ociimage"
)

const (
	promoted = "registry.k8s.io/e2e-test-images/"
	path     = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// nginxConf is what the official image comes to: everything on standard
// output, one page.
const nginxConf = `user nginx;
worker_processes auto;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    types { text/html html htm; text/css css; text/plain txt; }
    default_type application/octet-stream;
    access_log /dev/stdout;
    keepalive_timeout 65;
    server {
        listen 80;
        server_name localhost;
        location / { root /usr/share/nginx/html; index index.html index.htm; }
    }
}
`

const nginxPage = `<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1><p>The web server works.</p></body>
</html>
`

// specs lists the images. Versions are those of the suite's own list.
func (b *builder) specs() ([]ociimage.Spec, error) {
	agnhost, err := b.agnhost()
	if err != nil {
		return nil, err
	}
	nginx, err := b.nginx()
	if err != nil {
		return nil, err
	}
	dns, err := b.debian.programs("/bin/bash", "/usr/bin/dig", "/usr/bin/host", "/usr/bin/nslookup", "/usr/bin/getent")
	if err != nil {
		return nil, err
	}
	ipc, err := b.debian.programs("/usr/bin/ipcs", "/usr/bin/ipcmk", "/usr/bin/ipcrm")
	if err != nil {
		return nil, err
	}
	stress, err := b.debian.programs("/usr/bin/stress")
	if err != nil {
		return nil, err
	}
	of := func(names []string, command []string, layers ...[]ociimage.File) ociimage.Spec {
		return ociimage.Spec{Names: names, Layers: layers, Cmd: command, Env: []string{path}}
	}
	entry := func(name, entrypoint string, layers ...[]ociimage.File) ociimage.Spec {
		return ociimage.Spec{Names: []string{name}, Layers: layers, Entrypoint: []string{entrypoint}, Env: []string{path}}
	}
	nonroot := of([]string{promoted + "nonroot:1.5"}, []string{"sh"}, b.userland)
	nonroot.User = "1234"
	pets := func(name string) ociimage.Spec {
		spec := agnhost
		spec.Names = []string{promoted + name + ":1.8"}
		spec.Layers = append(spec.Layers[:len(spec.Layers):len(spec.Layers)], []ociimage.File{
			b.data("/"+name+".jpg", name+"/html/"+name+".jpg"), b.data("/data.json", name+"/html/data.json"),
		})
		spec.Cmd = []string{"test-webserver"}
		return spec
	}
	return []ociimage.Spec{
		agnhost, nginx, nonroot, pets("kitten"), pets("nautilus"),
		of([]string{promoted + "busybox:1.37.0-2", promoted + "busybox:1.36.1-1"}, []string{"sh"}, b.userland),
		of([]string{promoted + "glibc-dns-testing:2.1.1"}, []string{"bash"}, without(b.userland, "/bin/nslookup"), dns),
		of([]string{promoted + "ipc-utils:1.4"}, []string{"sh"}, without(b.userland, "/bin/ipcs", "/bin/ipcrm"), ipc),
		of([]string{promoted + "nonewprivs:1.4"}, []string{"nnp"}, b.userland, []ociimage.File{
			{Path: "/usr/local/bin/nnp", Source: b.program("", "nonewprivs").Source, Mode: fs.ModeSetuid | fs.ModeSetgid | 0o755},
		}),
		entry(promoted+"regression-issue-74839:1.5", "/regression-issue-74839", b.userland,
			[]ociimage.File{b.program("/regression-issue-74839", "regression-issue-74839")}),
		entry(promoted+"resource-consumer:1.14", "/consumer", b.userland, stress,
			[]ociimage.File{b.program("/consumer", "resource-consumer"), b.program("/consume-cpu", "consume-cpu")}),
		entry(promoted+"sample-apiserver:1.29.2", "/sample-apiserver", b.userland, []ociimage.File{b.program("/sample-apiserver", "sample-apiserver")}),
		entry(promoted+"sample-device-plugin:1.7", "/sampledeviceplugin", b.userland, []ociimage.File{b.program("/sampledeviceplugin", "sample-device-plugin")}),
		of([]string{"registry.k8s.io/etcd:3.7.0-0"}, []string{"etcd"}, b.userland, []ociimage.File{b.program("/usr/local/bin/etcd", "server")}),
		entry("registry.k8s.io/pause:3.10.2", "/pause", []ociimage.File{{Path: "/pause", Source: b.Pause, Mode: 0o755}}),
	}, nil
}

// agnhost is most tests' image: upstream's program of many parts on a small
// system with the tools that tests run in it.
func (b *builder) agnhost() (ociimage.Spec, error) {
	tools, err := b.debian.programs(
		"/bin/bash", "/usr/bin/curl", "/usr/bin/dig", "/usr/bin/host", "/usr/bin/nslookup", "/usr/bin/socat", "/usr/bin/iperf",
		"/usr/bin/nc=/bin/nc.openbsd", "/sbin/ip=/bin/ip", "/sbin/ss=/bin/ss", "/sbin/tc", "/usr/bin/taskset", "/usr/bin/getent",
	)
	if err != nil {
		return ociimage.Spec{}, err
	}
	base := b.accounts(
		"user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n",
		"user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
	)
	return ociimage.Spec{
		Names: []string{promoted + "agnhost:2.66.1", promoted + "agnhost:2.55"},
		Layers: [][]ociimage.File{
			without(base, "/bin/nc", "/bin/ip", "/bin/ss", "/bin/tc", "/bin/nslookup", "/bin/taskset"),
			append(tools,
				ociimage.File{Path: "/usr/local/bin/iperf", Link: "/usr/bin/iperf"},
				ociimage.File{Path: "/home/user-defined-in-image", Mode: fs.ModeDir | 0o755, UID: 1000, GID: 1000},
				// Tests look for the name of the system that upstream builds on.
				ociimage.File{Path: "/etc/os-release", Content: []byte("NAME=\"Alpine Linux\"\nID=alpine\nPRETTY_NAME=\"Alpine Linux (tools of Debian)\"\n")},
				ociimage.File{Path: "/uploads", Mode: fs.ModeDir | 0o755},
				b.data("/localhost.crt", "agnhost/porter/localhost.crt"), b.data("/localhost.key", "agnhost/porter/localhost.key"),
				ociimage.File{Path: "/agnhost-2", Link: "agnhost"}),
			{b.program("/agnhost", "agnhost")},
		},
		Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{path},
		ExposedPorts: []string{"80", "5000", "8080", "8081", "9376"},
	}, nil
}

func (b *builder) nginx() (ociimage.Spec, error) {
	server, err := b.debian.programs("/usr/sbin/nginx")
	if err != nil {
		return ociimage.Spec{}, err
	}
	dir := fs.ModeDir | 0o755
	return ociimage.Spec{
		Names: []string{promoted + "nginx:1.27.0-2", promoted + "nginx:1.28.0-2"},
		Layers: [][]ociimage.File{
			b.accounts("nginx:x:101:101:nginx:/nonexistent:/bin/false\n", "nginx:x:101:\n"),
			append(server,
				ociimage.File{Path: "/etc/nginx/nginx.conf", Content: []byte(nginxConf)},
				ociimage.File{Path: "/usr/share/nginx/html/index.html", Content: []byte(nginxPage)},
				ociimage.File{Path: "/var/lib/nginx", Mode: dir}, ociimage.File{Path: "/var/log/nginx", Mode: dir}, ociimage.File{Path: "/run", Mode: dir}),
		},
		Cmd: []string{"nginx", "-g", "daemon off;"}, Env: []string{path}, StopSignal: "SIGQUIT", ExposedPorts: []string{"80"},
	}, nil
}
