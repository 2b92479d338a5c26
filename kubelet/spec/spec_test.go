package spec_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/spec"
)

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "EMPTY": ""}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"$(A)": "1", "x$(A)y$(A)": "x1y1", "$(NO)": "$(NO)", "$$(A)": "$(A)", "$$$(A)": "$1", "$(EMPTY)": "",
		"$": "$", "$(": "$(", "$(A": "$(A", "$A": "$A", "": "", "$()": "$()", "100$": "100$",
	} {
		if got := spec.Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

type sources struct {
	cm       map[string]string
	file     string
	services []corev1.Service
}

func (s sources) ConfigMap(string, string) (*corev1.ConfigMap, error) {
	if s.cm == nil {
		return nil, errors.New(`configmap "x" not found`)
	}
	return &corev1.ConfigMap{Data: s.cm}, nil
}

func (s sources) Secret(string, string) (*corev1.Secret, error) {
	return &corev1.Secret{Data: map[string][]byte{"k": []byte("v")}}, nil
}

func (s sources) File(_, path string) ([]byte, error) {
	if path != "dir/file" {
		return nil, fs.ErrNotExist
	}
	return []byte(s.file), nil
}

func (s sources) Services(namespace string) ([]corev1.Service, error) {
	var out []corev1.Service
	for _, x := range s.services {
		if x.Namespace == namespace {
			out = append(out, x)
		}
	}
	return out, nil
}

func env(c corev1.Container, src spec.Sources) (map[string]string, error) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
	got, err := spec.MakeEnv(spec.Fields{Pod: pod, PodIPs: []string{"10.0.0.1", "fd00::1"},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}}, &c, src)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, kv := range got.KeyValues() {
		out[kv.Key] = string(kv.Value)
	}
	return out, nil
}

func TestMakeEnv(t *testing.T) {
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	c := corev1.Container{
		Name:    "c",
		EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{}}, {SecretRef: &corev1.SecretEnvSource{}}},
		Env: []corev1.EnvVar{
			{Name: "NAME", ValueFrom: field("metadata.name")},
			{Name: "LABEL", ValueFrom: field("metadata.labels['a']")},
			{Name: "IPS", ValueFrom: field("status.podIPs")},
			{Name: "USE", Value: "$(NAME)-$(P_x)-$(WEB_SERVICE_PORT)"},
			{Name: "k", Value: "own"},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		},
	}
	service := corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"}, Spec: corev1.ServiceSpec{ClusterIP: "10.1.1.1",
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}}}
	got, err := env(c, sources{cm: map[string]string{"x": "1"}, services: []corev1.Service{service}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"P_x": "1", "k": "own", "NAME": "p", "LABEL": "b", "IPS": "10.0.0.1,fd00::1", "USE": "p-1-80", "CPU": "4",
		"WEB_SERVICE_HOST": "10.1.1.1", "WEB_SERVICE_PORT": "80", "WEB_SERVICE_PORT_HTTP": "80", "WEB_PORT": "tcp://10.1.1.1:80",
		"WEB_PORT_80_TCP": "tcp://10.1.1.1:80", "WEB_PORT_80_TCP_PROTO": "tcp", "WEB_PORT_80_TCP_PORT": "80", "WEB_PORT_80_TCP_ADDR": "10.1.1.1",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestMakeEnvErrors(t *testing.T) {
	key := &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}, Key: "no"}}
	for want, src := range map[string]sources{
		`configmap "x" not found`:                {},
		"couldn't find key no in ConfigMap ns/x": {cm: map[string]string{}},
	} {
		if _, err := env(corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: key}}}, src); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestMakeEnvOfFiles(t *testing.T) {
	for file, want := range map[string]string{
		"A='1'": "1",
		"# A='0'\n\n\tB='x'\r\n  A='two\nlines' # end\n": "two\nlines",
		"A='$HOME \"x\"'\nA='2'\n":                       `$HOME "x"`,
		"A=''":                                           `environment variable key "A" not found in file "dir/file" of volume "v"`,
		"A= 'x'":                                         `environment variable key "A" not found in file "dir/file" of volume "v"`,
		"":                                               `environment variable key "A" not found in file "dir/file" of volume "v"`,
		"B='1'\nsecret":                                  `couldn't parse env file "dir/file" of volume "v": line 2: missing '='`,
		"='1'":                                           `couldn't parse env file "dir/file" of volume "v": line 1: empty variable name`,
		"A ='1'":                                         `couldn't parse env file "dir/file" of volume "v": line 1: whitespace before '=' is not allowed`,
		"A=1":                                            `couldn't parse env file "dir/file" of volume "v": line 1: value must be enclosed in single quotes`,
		"A='1\n":                                         `couldn't parse env file "dir/file" of volume "v": line 1: unclosed single quote`,
		"A='1''2'":                                       `couldn't parse env file "dir/file" of volume "v": line 1: unexpected content after closing quote`,
	} {
		ref := &corev1.FileKeySelector{VolumeName: "v", Path: "dir/file", Key: "A"}
		c := corev1.Container{Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{FileKeyRef: ref}}}}
		got, err := env(c, sources{file: file})
		text := got["X"]
		if err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%q: %s, want %s", file, text, want)
		}
		yes := true
		ref.Path, ref.Optional = "none", &yes
		if got, err := env(c, sources{}); err != nil || len(got) != 0 {
			t.Errorf("a file that need not be: %v, %v", got, err)
		}
	}
}

func TestResolvConf(t *testing.T) {
	host := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(host, []byte("# mine\nsearch corp.example.\nnameserver 192.0.2.53\noptions rotate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster := spec.Cluster{DNS: []string{"10.43.0.10"}, Domain: "cluster.local", ResolvConf: host}
	two := "2"
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want *runtimeapi.DNSConfig
	}{
		{"cluster first", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst}, &runtimeapi.DNSConfig{Servers: []string{"10.43.0.10"},
			Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"}, Options: []string{"ndots:5"}}},
		{"host network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"},
			Searches: []string{"corp.example"}, Options: []string{"rotate"}}},
		{"none", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a"}}},
			&runtimeapi.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"a"}}},
		{"merged", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}},
			&runtimeapi.DNSConfig{Servers: []string{"10.43.0.10"}, Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"}, Options: []string{"ndots:2"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, err := cluster.ResolvConfFor(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: c.spec})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestHosts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{Subdomain: "sub",
		HostAliases: []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}}}
	if err := (spec.Cluster{Domain: "cluster.local"}).WriteHosts(path, pod, []string{"10.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n", "\n10.0.0.1\tp.sub.ns.svc.cluster.local\tp\n",
		"\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q lacks %q", data, want)
		}
	}
}

func TestCheckNonRoot(t *testing.T) {
	yes, zero, user := true, int64(0), int64(1000)
	for _, c := range []struct {
		user  *int64
		image *runtimeapi.Image
		want  string
	}{
		{nil, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{}}, "container has runAsNonRoot and image will run as root"},
		{nil, &runtimeapi.Image{Username: "www"}, "image has non-numeric user (www)"},
		{nil, &runtimeapi.Image{Uid: &runtimeapi.Int64Value{Value: 5}}, ""},
		{&zero, &runtimeapi.Image{}, "container's runAsUser breaks non-root policy"},
		{&user, &runtimeapi.Image{}, ""},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: c.user}}}
		err := spec.CheckNonRoot(pod, &corev1.Container{Name: "c"}, c.image)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("user %v of %v: %v, want %q", c.user, c.image, err, c.want)
		}
	}
}

func TestResourcesOfThePodAreItsContainers(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{Spec: corev1.PodSpec{
		Resources:      &corev1.ResourceRequirements{Requests: list("1", "400Mi"), Limits: list("2", "1Gi")},
		InitContainers: []corev1.Container{{Name: "sidecar", RestartPolicy: &always}},
		Containers:     []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Requests: list("500m", "100Mi"), Limits: list("1", "200Mi")}}, {Name: "b"}},
	}}
	for name, want := range map[string]*runtimeapi.LinuxContainerResources{
		// 300 of 400 MiB are nobody's own: 100 each; the node has 1000.
		"a":       {CpuShares: 512, CpuPeriod: 100000, CpuQuota: 100000, MemoryLimitInBytes: 200 << 20, OomScoreAdj: 800},
		"b":       {CpuShares: 2048, CpuPeriod: 100000, CpuQuota: 200000, MemoryLimitInBytes: 1 << 30, OomScoreAdj: 900},
		"sidecar": {CpuShares: 2048, CpuPeriod: 100000, CpuQuota: 200000, MemoryLimitInBytes: 1 << 30, OomScoreAdj: 900},
	} {
		if got := spec.Resources(p, spec.FindContainer(p, name), 1000<<20); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	fields := spec.Fields{Pod: p, Allocatable: list("4", "8Gi")}
	for name, want := range map[string]string{"a limits.memory": "209715200", "b limits.memory": "1073741824", "b limits.cpu": "2",
		"b limits.ephemeral-storage": "0", "b limits.hugepages-2Mi": "0", "b requests.cpu": "0"} {
		container, what, _ := strings.Cut(name, " ")
		got, err := fields.Resource(&corev1.ResourceFieldSelector{Resource: what}, spec.FindContainer(p, container))
		if err != nil || got != want {
			t.Errorf("%s is %s (%v), want %s", name, got, err, want)
		}
	}
	p.Spec.Resources = nil
	p.Spec.Containers = p.Spec.Containers[:1]
	if got := spec.Resources(p, &p.Spec.InitContainers[0], 1000<<20).OomScoreAdj; got != 900 {
		t.Errorf("the sidecar's score is %d, worse than that of its container", got)
	}
}
