// Package kubelet is the node agent: it runs the pods that the API assigns to
// its node, through a container runtime, and says how they and the node are.
//
//	API watch ────┐                ┌─> volumes, images, control groups
//	static pods ──┼─> pods (one ───┼─> CRI: sandboxes and containers
//	CRI events ───┤   goroutine    ├─> probes ──> verdicts back to the pod
//	objects ──────┘   each)        └─> status writer ──> API
//
// A restart of the kubelet finds what runs and leaves it alone; a stop too.
package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/kubelet/cgroups"
	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/evict"
	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/metrics"
	"github.com/proa-dev/proa/kubelet/node"
	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/server"
	"github.com/proa-dev/proa/kubelet/spec"
	"github.com/proa-dev/proa/kubelet/static"
	"github.com/proa-dev/proa/kubelet/stats"
	"github.com/proa-dev/proa/kubelet/status"
	"github.com/proa-dev/proa/kubelet/volumes"
)

// Config is what a Kubelet needs.
type Config struct {
	NodeName string
	// NodeIPs are the node's addresses, the first of each family in front.
	NodeIPs []string
	// RootDir holds pods' volumes; it is made.
	RootDir string
	// PodLogsDir is where runtimes write logs, /var/log/pods by custom;
	// ContainerLogsDir gets links for log shippers, none when empty.
	PodLogsDir       string
	ContainerLogsDir string
	// RuntimeEndpoint and ImageEndpoint are CRI sockets: unix:///path. An
	// empty ImageEndpoint is the RuntimeEndpoint.
	RuntimeEndpoint string
	ImageEndpoint   string
	ClusterDNS      []string
	ClusterDomain   string
	// ResolvConf is the node's; empty means that pods inherit nothing.
	ResolvConf string
	// StaticPodDir holds manifests of static pods; none when empty.
	StaticPodDir string
	// DefaultPod fills in what a static pod's manifest leaves out.
	DefaultPod func(pod *corev1.Pod)
	// Listen is the address of the node API, ":10250" by custom; none when
	// empty. TLS must hold a certificate, and the CA of client certificates.
	Listen string
	TLS    *tls.Config
	// Port is announced as the node API's.
	Port int32
	// MaxPods is how many pods the node takes; 0 means 110.
	MaxPods int64
	// CgroupRoot is the control group above all pods': "/proa".
	CgroupRoot string
	Labels     map[string]string
	Taints     []corev1.Taint
	// EvictionHard is what the node must have left; upstream's when nil.
	EvictionHard Thresholds
	// Version is shown as the kubelet's: v1.37.2+proa.
	Version string
	// StorageDir holds the node's own PersistentVolumes; none when empty.
	StorageDir string
	// VolumePlugins are tried before the built-in ones.
	VolumePlugins []volumes.Plugin
	Logger        *slog.Logger
	// Clock is real when nil.
	Clock clock.Clock
}

// Validate says what is missing or wrong.
func (c *Config) Validate() error {
	switch {
	case c.NodeName == "":
		return errors.New("kubelet: no node name")
	case len(c.NodeIPs) == 0:
		return errors.New("kubelet: no node address")
	case c.RootDir == "" || !filepath.IsAbs(c.RootDir):
		return fmt.Errorf("kubelet: root directory %q is not absolute", c.RootDir)
	case c.PodLogsDir == "" || !filepath.IsAbs(c.PodLogsDir):
		return fmt.Errorf("kubelet: log directory %q is not absolute", c.PodLogsDir)
	case c.RuntimeEndpoint == "":
		return errors.New("kubelet: no container runtime endpoint")
	case c.CgroupRoot == "":
		return errors.New("kubelet: no cgroup root")
	case c.Listen != "" && c.TLS == nil:
		return errors.New("kubelet: the node API needs TLS")
	case c.Logger == nil:
		return errors.New("kubelet: no logger")
	}
	return nil
}

// Kubelet is the node agent.
type Kubelet struct {
	cfg     Config
	cluster client.Cluster
	log     *slog.Logger

	runtimeVersion atomic.Pointer[string]
	features       atomic.Pointer[runtimeapi.StatusResponse]
}

// New makes a kubelet that sees the cluster through cluster, whose caches must
// run before Run is called or start with it.
func New(cluster client.Cluster, cfg Config) (*Kubelet, error) {
	if cfg.MaxPods == 0 {
		cfg.MaxPods = 110
	}
	if cfg.Port == 0 {
		cfg.Port = 10250
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.EvictionHard == nil {
		cfg.EvictionHard = node.DefaultThresholds()
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Kubelet{cfg: cfg, cluster: cluster, log: cfg.Logger}, nil
}

// parts are what a running kubelet consists of.
type parts struct {
	cri     *cri.Client
	node    *node.Node
	cgroups *cgroups.Manager
	objects *objects.Store
	volumes *volumes.Manager
	images  *images.Puller
	gc      *images.Collector
	writer  *status.Writer
	pods    *pods.Manager
	static  *static.Source
	evictor *evict.Evictor
	server  *server.Server
	metrics *metrics.Metrics
	stats   *stats.Reader
}

// Run works until ctx ends and leaves containers running. It calls ready when
// the node is registered and its pods are known.
func (k *Kubelet) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := k.assemble(ctx)
	if p != nil && p.cri != nil {
		defer p.cri.Close()
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var wg sync.WaitGroup
	fail := func(name string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	wg.Go(func() { p.writer.Run(ctx) })
	if p.static != nil {
		fail("static pods", p.static.Run)
	}
	if p.server != nil {
		fail("node API", p.server.Run)
	}
	fail("kubelet", func(ctx context.Context) error { return k.join(ctx, p, &wg, ready) })
	<-ctx.Done()
	wg.Wait()
	p.pods.Wait()
	p.objects.Wait()
	p.stats.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// join registers the node, takes up its pods and starts all that keeps going.
func (k *Kubelet) join(ctx context.Context, p *parts, wg *sync.WaitGroup, ready func()) error {
	if err := p.node.Register(ctx); err != nil {
		return err
	}
	if err := k.follow(ctx, p); err != nil {
		return err
	}
	if p.static != nil {
		select {
		case <-p.static.Loaded():
		case <-ctx.Done():
			return nil
		}
	}
	wg.Go(func() {
		p.cri.Watch(ctx, k.log, func() {
			if err := p.pods.Reconcile(ctx, true); err != nil && ctx.Err() == nil {
				k.log.Warn("pods not compared with the runtime", "err", err)
			}
		}, p.pods.Stopped)
	})
	wg.Go(func() { p.node.Run(ctx) })
	wg.Go(func() { p.evictor.Run(ctx) })
	wg.Go(func() { k.collect(ctx, p) })
	wg.Go(func() { p.volumes.Reclaim(ctx, k.cluster.Client(), k.cfg.Clock) })
	wg.Go(func() { p.pods.RotateLogs(ctx) })
	if p.static != nil {
		p.static.Poke()
	}
	ready()
	<-ctx.Done()
	return nil
}

// assemble makes the parts, once the runtime answers.
func (k *Kubelet) assemble(ctx context.Context) (*parts, error) {
	p := &parts{metrics: metrics.New()}
	var err error
	if p.cri, err = cri.Dial(k.cfg.RuntimeEndpoint, k.cfg.ImageEndpoint, p.metrics.Runtime()); err != nil {
		return nil, err
	}
	name, err := k.awaitRuntime(ctx, p.cri)
	if err != nil {
		return p, err
	}
	recorder := k.cluster.Recorder("kubelet")
	now := k.cfg.Clock.Now
	p.evictor = k.evictor(p, recorder)
	p.node, err = node.New(node.Config{
		Name: k.cfg.NodeName, Addresses: k.addresses(), Labels: k.cfg.Labels, Taints: k.cfg.Taints, MaxPods: k.cfg.MaxPods, Thresholds: k.cfg.EvictionHard,
		RootDir: k.cfg.RootDir, StorageDir: k.cfg.StorageDir, Port: k.cfg.Port, KubeletVersion: k.cfg.Version,
		Runtime:  func(ctx context.Context) (string, string) { return k.runtimeState(ctx, p.cri) },
		Images:   func(ctx context.Context) ([]corev1.ContainerImage, error) { return listImages(ctx, p.cri) },
		Handlers: k.handlers, Pressure: p.evictor.Pressure,
		Client: k.cluster.Client(), Reader: k.cluster.Reader(), Recorder: recorder, Clock: k.cfg.Clock, Logger: k.log,
	})
	if err != nil {
		return p, err
	}
	if p.cgroups, err = cgroups.New(k.cfg.CgroupRoot, p.node.MilliCPU()); err != nil {
		return p, err
	}
	p.objects = objects.New(ctx, direct{k.cluster.Reader(), k.cluster.Client()}, k.log)
	p.volumes = volumes.New(volumes.Config{RootDir: k.cfg.RootDir, Objects: p.objects, Tokens: tokens{k.cluster.Client()},
		Certificates: certificates{k.cluster, func() uidType { return p.node.Get().UID }},
		Reader:       k.cluster.Reader(), Logger: k.log, Now: now, Plugins: k.cfg.VolumePlugins,
		StorageDir: k.cfg.StorageDir, Node: p.node.Get})
	if p.images, err = images.New(images.Config{Client: p.cri, Now: now, Dir: filepath.Join(k.cfg.RootDir, "images")}); err != nil {
		return p, err
	}
	p.gc = &images.Collector{Client: p.cri, Puller: p.images, Logger: k.log, High: 85, Low: 80, MinAge: 2 * time.Minute, Now: now,
		Mounted: func() []string { return imageVolumes(p.pods.Pods()) }, Removed: func() { p.metrics.Collected("space") }}
	p.writer = status.NewWriter(k.cluster.Client(), k.log)
	p.pods, err = pods.New(ctx, pods.Config{
		CRI: p.cri, RuntimeName: name, RuntimeHandler: k.runtimeHandler, RecursiveReadOnly: k.recursiveReadOnly,
		Cluster: spec.Cluster{DNS: k.cfg.ClusterDNS, Domain: k.cfg.ClusterDomain, ResolvConf: k.cfg.ResolvConf},
		Volumes: p.volumes, Objects: p.objects, Images: p.images, Cgroups: p.cgroups, Status: p.writer, Services: k.services,
		Node: p.node.Get, ReadNode: k.readNode, HostIPs: p.node.HostIPs, Recorder: recorder, Clock: k.cfg.Clock, Logger: k.log,
		PodLogsDir: k.cfg.PodLogsDir, ContainerLogsDir: k.cfg.ContainerLogsDir, SeccompDir: filepath.Join(k.cfg.RootDir, "seccomp"),
		Unified: p.cgroups.Unified(), AppArmor: appArmor(), Metrics: p.metrics,
	})
	if err != nil {
		return p, err
	}
	k.extras(ctx, p)
	return p, nil
}

// extras makes the parts that not every kubelet has.
func (k *Kubelet) extras(ctx context.Context, p *parts) {
	if k.cfg.StaticPodDir != "" {
		p.static = static.New(static.Config{Dir: k.cfg.StaticPodDir, NodeName: k.cfg.NodeName, NodeUID: func() uidType { return p.node.Get().UID },
			Client: k.cluster.Client(), Reader: k.cluster.Reader(), Logger: k.log, Default: k.cfg.DefaultPod,
			Update: p.pods.Update, Remove: p.pods.Remove})
	}
	p.stats = stats.New(ctx, stats.Config{NodeName: k.cfg.NodeName, Pods: p.pods, CRI: p.cri, Groups: p.cgroups, Volumes: p.volumes,
		RootDir: k.cfg.RootDir, PodLogsDir: k.cfg.PodLogsDir, Clock: k.cfg.Clock, Logger: k.log})
	if k.cfg.Listen != "" {
		version := 1
		if p.cgroups.V2() {
			version = 2
		}
		p.metrics.Gauges(k.cfg.NodeName, version, p.pods.Pods, pods.IsStatic, p.stats.Volumes())
		p.server = server.New(server.Config{
			Listen: k.cfg.Listen, TLS: k.cfg.TLS, NodeName: k.cfg.NodeName, Pods: p.pods, CRI: p.cri, Stats: p.stats, Metrics: p.metrics,
			PodLogsDir: k.cfg.PodLogsDir, Client: k.cluster.Client(), Logger: k.log, Clock: k.cfg.Clock,
			Healthy: func() error { return nil },
			Configz: map[string]any{"kubeletconfig": map[string]any{"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
				"clusterDNS": k.cfg.ClusterDNS, "clusterDomain": k.cfg.ClusterDomain, "maxPods": k.cfg.MaxPods, "staticPodPath": k.cfg.StaticPodDir,
				"cgroupRoot": k.cfg.CgroupRoot, "resolvConf": k.cfg.ResolvConf, "containerRuntimeEndpoint": k.cfg.RuntimeEndpoint}},
		})
	}
}

// follow hands in the API's pods, services and node as they change, and
// returns when the first lists are through.
func (k *Kubelet) follow(ctx context.Context, p *parts) error {
	c := k.cluster.Cache()
	podInformer, err := c.GetInformer(ctx, &corev1.Pod{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	mine := func(pod *corev1.Pod) bool { return pod.Spec.NodeName == k.cfg.NodeName }
	handled, err := podInformer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if pod, ok := o.(*corev1.Pod); ok && mine(pod) {
				k.update(ctx, p, pod)
			}
		},
		UpdateFunc: func(_, o any) {
			if pod, ok := o.(*corev1.Pod); ok && mine(pod) {
				k.update(ctx, p, pod)
			}
		},
		DeleteFunc: func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok && mine(pod) {
				p.pods.Remove(pod)
				if p.static != nil && pods.IsMirror(pod) {
					p.static.Poke()
				}
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	if _, err := c.GetInformer(ctx, &corev1.Service{}, cache.BlockUntilSynced(false)); err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	if err := k.followNode(ctx, p); err != nil {
		return err
	}
	if !toolscache.WaitFor(ctx, "", handled.HasSyncedChecker()) {
		return ctx.Err()
	}
	return nil
}

func (k *Kubelet) update(ctx context.Context, p *parts, pod *corev1.Pod) {
	p.pods.Update(pod)
	if p.static == nil || !pods.IsMirror(pod) {
		return
	}
	if p.pods.HasStatic(pod) {
		if pod.DeletionTimestamp != nil { // its pod stays: it is replaced
			p.static.Poke()
		}
		return
	}
	if err := p.static.Gone(ctx, pod); err != nil && ctx.Err() == nil {
		k.log.Warn("mirror of a static pod that is gone not deleted", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

func (k *Kubelet) followNode(ctx context.Context, p *parts) error {
	informer, err := k.cluster.Cache().GetInformer(ctx, &corev1.Node{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch the node: %w", err)
	}
	observe := func(o any) {
		if n, ok := o.(*corev1.Node); ok && n.Name == k.cfg.NodeName {
			p.node.Observed(n)
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: observe, UpdateFunc: func(_, o any) { observe(o) }})
	return err
}

// readNode reads this node from the API server itself.
func (k *Kubelet) readNode(ctx context.Context) (*corev1.Node, error) {
	n := &corev1.Node{}
	return n, k.cluster.Reader().Get(ctx, ctrl.ObjectKey{Name: k.cfg.NodeName}, n)
}

// services reads the cached Services of a namespace.
func (k *Kubelet) services(ctx context.Context, namespace string) ([]corev1.Service, error) {
	var list corev1.ServiceList
	if err := k.cluster.Cache().List(ctx, &list, ctrl.InNamespace(namespace), ctrl.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	return list.Items, nil
}

// collect removes images that fill the disk, now and then. Who looks at the node
// is told when that failed twice in a row.
func (k *Kubelet) collect(ctx context.Context, p *parts) {
	recorder, failed := k.cluster.Recorder("kubelet"), false
	for {
		t := k.cfg.Clock.NewTimer(5 * time.Minute)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return
		}
		err := p.gc.Collect(ctx, false)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			k.log.Warn("images not collected", "err", err)
			if full := (*images.FullError)(nil); errors.As(err, &full) {
				recorder.Event(p.node.Ref(), corev1.EventTypeWarning, "FreeDiskSpaceFailed", full.Error())
			}
			if failed {
				recorder.Event(p.node.Ref(), corev1.EventTypeWarning, "ImageGCFailed", err.Error())
			}
		}
		failed = err != nil
	}
}

// direct lists and watches at the API server itself.
type direct struct {
	ctrl.Reader
	watcher ctrl.WithWatch
}

func (d direct) Watch(ctx context.Context, list ctrl.ObjectList, opts ...ctrl.ListOption) (watchInterface, error) {
	return d.watcher.Watch(ctx, list, opts...)
}

// tokens asks for tokens of service accounts.
type tokens struct{ client ctrl.Client }

func (t tokens) Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	err := t.client.SubResource("token").Create(ctx, sa, request)
	return request, err
}

// runtimeHandler resolves a pod's RuntimeClass.
func (k *Kubelet) runtimeHandler(ctx context.Context, pod *corev1.Pod) (string, error) {
	if pod.Spec.RuntimeClassName == nil || *pod.Spec.RuntimeClassName == "" {
		return "", nil
	}
	class := &nodev1.RuntimeClass{}
	if err := k.cluster.Reader().Get(ctx, ctrl.ObjectKey{Name: *pod.Spec.RuntimeClassName}, class); err != nil {
		return "", fmt.Errorf("failed to get sandbox runtime: %w", err)
	}
	return class.Handler, nil
}
