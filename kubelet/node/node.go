// Package node registers the node and its CSINode, keeps its status and its
// Lease, and knows what the machine has.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/nodedeclaredfeatures/features/inplacepodresize"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/internal/localvolume"
)

// How often things happen, as upstream has it.
const (
	leaseSeconds  = 40
	leasePeriod   = 10 * time.Second
	statusPeriod  = 10 * time.Second // looked at; written when it differs
	statusRefresh = 5 * time.Minute  // written anyway
)

// While the node is not Ready it is looked at sooner, at growing intervals: a
// network is there a moment after the node is known, or once someone installs
// one. A runtime has no event that tells of it.
const (
	firstWait = 20 * time.Millisecond
	lastWait  = 640 * time.Millisecond
)

// Config is what a Node needs.
type Config struct {
	Name      string
	Addresses []corev1.NodeAddress
	Labels    map[string]string
	Taints    []corev1.Taint
	PodCIDR   func() string
	// MaxPods is how many pods the node takes.
	MaxPods int64
	// Thresholds are those of eviction: pods do not get what is below.
	Thresholds Thresholds
	// RootDir is on the file system whose space is the node's.
	RootDir string
	// StorageDir holds the node's local volumes; none when empty.
	StorageDir string
	// Port is where the node API listens.
	Port           int32
	KubeletVersion string
	// Runtime asks the runtime: name://version, and why it is not ready.
	Runtime func(ctx context.Context) (version string, notReady string)
	// Images lists what is on the node, biggest first.
	Images func(ctx context.Context) ([]corev1.ContainerImage, error)
	// Handlers and Features of the runtime, for the node's status.
	Handlers func() ([]corev1.NodeRuntimeHandler, *corev1.NodeFeatures)
	// Pressure says what the node is short of.
	Pressure func() (memory, disk, pid bool)
	Client   ctrl.Client
	Reader   ctrl.Reader
	Recorder record.EventRecorder
	Clock    clock.Clock
	Logger   *slog.Logger
}

// Node is this node. Safe for concurrent use.
type Node struct {
	cfg     Config
	machine machine
	poke    chan struct{}

	mu      sync.Mutex
	current *corev1.Node
}

// New reads what the machine has.
func New(cfg Config) (*Node, error) {
	m, err := readMachine(cfg.RootDir)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, machine: m, poke: make(chan struct{}, 1)}
	n.current = n.initial()
	return n, nil
}

// Get returns the node as last known: read only.
func (n *Node) Get() *corev1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.current
}

// MilliCPU is what the machine has of it.
func (n *Node) MilliCPU() int64 { return n.machine.cpus * 1000 }

// HostIPs are the node's internal addresses.
func (n *Node) HostIPs() []string {
	var out []string
	for _, a := range n.cfg.Addresses {
		if a.Type == corev1.NodeInternalIP {
			out = append(out, a.Address)
		}
	}
	return out
}

// Observed tells of the node's object in the API.
func (n *Node) Observed(node *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node.Name == n.cfg.Name && len(node.Status.Allocatable) > 0 {
		n.current = node
	}
}

// Poke has the status looked at now.
func (n *Node) Poke() {
	select {
	case n.poke <- struct{}{}:
	default:
	}
}

func (n *Node) initial() *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: n.cfg.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: n.machine.arch,
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": n.machine.arch,
	}
	for k, v := range n.cfg.Labels {
		labels[k] = v
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.cfg.Name, Labels: labels,
			Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
		Spec: corev1.NodeSpec{Taints: n.cfg.Taints},
	}
	if n.cfg.StorageDir != "" {
		node.Annotations[localvolume.RootAnnotation] = n.cfg.StorageDir
	}
	if n.cfg.PodCIDR != nil {
		if cidr := n.cfg.PodCIDR(); cidr != "" {
			node.Spec.PodCIDR, node.Spec.PodCIDRs = cidr, []string{cidr}
		}
	}
	n.fill(&node.Status)
	return node
}

// fill sets what does not change while the kubelet runs.
func (n *Node) fill(s *corev1.NodeStatus) {
	declared := extended(s.Capacity)
	s.Capacity = n.machine.capacity(n.cfg.MaxPods)
	s.Allocatable = n.machine.allocatable(n.cfg.MaxPods, n.cfg.Thresholds)
	maps.Copy(s.Capacity, declared)
	maps.Copy(s.Allocatable, declared)
	s.Addresses = n.cfg.Addresses
	s.NodeInfo = n.machine.info
	s.NodeInfo.KubeletVersion = n.cfg.KubeletVersion
	s.DaemonEndpoints.KubeletEndpoint.Port = n.cfg.Port
	// Sorted: what a node has to declare that it understands.
	s.DeclaredFeatures = []string{inplacepodresize.IPPRPodLevelResourcesFeatureGate, inplacepodresize.IPPRInitContainersFeatureGate}
}

// extended are the resources that somebody else declared on the node: they are
// not the kubelet's to remove.
func extended(list corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range list {
		if strings.Contains(string(name), "/") && !strings.Contains(string(name), "kubernetes.io/") {
			out[name] = q
		}
	}
	return out
}

// Register makes the node's object, or brings an old one's labels and
// capacity up to date, and retries until it has.
func (n *Node) Register(ctx context.Context) error {
	delay := 100 * time.Millisecond
	for {
		err := n.register(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		n.cfg.Logger.Warn("node not registered", "err", err, "again", delay)
		if !n.sleep(ctx, delay) {
			return ctx.Err()
		}
		delay = min(2*delay, 7*time.Second)
	}
}

func (n *Node) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	want := n.initial()
	n.measure(ctx, &want.Status, nil)
	err := n.cfg.Client.Create(ctx, want.DeepCopy())
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node: %w", err)
	}
	created := err == nil
	have := &corev1.Node{}
	if err := n.cfg.Reader.Get(ctx, ctrl.ObjectKey{Name: n.cfg.Name}, have); err != nil {
		return fmt.Errorf("get node: %w", err)
	}
	if !created {
		next := have.DeepCopy()
		if next.Labels == nil {
			next.Labels = map[string]string{}
		}
		for k, v := range want.Labels {
			next.Labels[k] = v
		}
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		for k, v := range want.Annotations {
			next.Annotations[k] = v
		}
		if !equality.Semantic.DeepEqual(have, next) {
			if err := n.cfg.Client.Patch(ctx, next, ctrl.StrategicMergeFrom(have)); err != nil {
				return fmt.Errorf("update node: %w", err)
			}
			have = next
		}
	}
	if err := n.publishCSINode(ctx, have.UID); err != nil {
		return fmt.Errorf("publish CSINode: %w", err)
	}
	n.set(have)
	return n.report(ctx, true)
}

func (n *Node) set(node *corev1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(node.Status.Allocatable) == 0 {
		kept := node.DeepCopy()
		n.fill(&kept.Status)
		node = kept
	}
	n.current = node
}

func (n *Node) sleep(ctx context.Context, d time.Duration) bool {
	t := n.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// Run keeps status and Lease until ctx ends.
func (n *Node) Run(ctx context.Context) {
	n.cfg.Recorder.Event(n.Ref(), corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	var wg sync.WaitGroup
	wg.Go(func() { n.runLease(ctx) })
	written := n.cfg.Clock.Now()
	wait := firstWait
	for {
		period := statusPeriod
		if n.ready() {
			wait = firstWait
		} else {
			period, wait = wait, min(2*wait, lastWait)
		}
		t := n.cfg.Clock.NewTimer(period)
		select {
		case <-t.C():
		case <-n.poke:
		case <-ctx.Done():
			t.Stop()
			wg.Wait()
			return
		}
		t.Stop()
		due := n.cfg.Clock.Since(written) >= statusRefresh
		callCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := n.report(callCtx, due)
		cancel()
		if err != nil && ctx.Err() == nil {
			n.cfg.Logger.Warn("node status not written", "err", err)
			if apierrors.IsNotFound(err) {
				err = n.Register(ctx)
			}
		}
		if err == nil && due {
			written = n.cfg.Clock.Now()
		}
	}
}

func (n *Node) ready() bool {
	for _, c := range n.Get().Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Ref names the node in events.
func (n *Node) Ref() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.cfg.Name, UID: n.Get().UID}
}

// report writes the status if it differs, or in any case. heartbeats alone
// are no difference.
func (n *Node) report(ctx context.Context, always bool) error {
	have := n.Get()
	next := have.DeepCopy()
	n.fill(&next.Status)
	n.measure(ctx, &next.Status, have)
	if !always && equality.Semantic.DeepEqual(still(have.Status), still(next.Status)) {
		return nil
	}
	n.announce(have, next)
	// Conditions are merged by type and addresses replaced: as upstream does,
	// a strategic merge patch, that leaves others' conditions alone.
	before := have.DeepCopy()
	before.ResourceVersion, next.ResourceVersion = "", ""
	if err := n.cfg.Client.Status().Patch(ctx, next, ctrl.StrategicMergeFrom(before)); err != nil {
		return fmt.Errorf("patch node status: %w", err)
	}
	n.set(next)
	return nil
}

// still is a status without what moves all the time.
func still(s corev1.NodeStatus) corev1.NodeStatus {
	out := *s.DeepCopy()
	for i := range out.Conditions {
		out.Conditions[i].LastHeartbeatTime = metav1.Time{}
	}
	return out
}

// announce records events of changed conditions.
func (n *Node) announce(have, next *corev1.Node) {
	old := map[corev1.NodeConditionType]corev1.ConditionStatus{}
	for _, c := range have.Status.Conditions {
		old[c.Type] = c.Status
	}
	names := map[corev1.NodeConditionType][2]string{
		corev1.NodeReady:          {"NodeReady", "NodeNotReady"},
		corev1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		corev1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		corev1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
	}
	for _, c := range next.Status.Conditions {
		pair, ok := names[c.Type]
		if !ok || old[c.Type] == c.Status {
			continue
		}
		reason := pair[1]
		if c.Status == corev1.ConditionTrue {
			reason = pair[0]
		}
		n.cfg.Recorder.Event(n.Ref(), corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", n.cfg.Name, reason))
	}
}

// measure sets what may differ each time.
func (n *Node) measure(ctx context.Context, s *corev1.NodeStatus, old *corev1.Node) {
	version, notReady := n.cfg.Runtime(ctx)
	s.NodeInfo.ContainerRuntimeVersion = version
	if n.cfg.Images != nil {
		if images, err := n.cfg.Images(ctx); err == nil {
			s.Images = images
		}
	}
	if n.cfg.Handlers != nil {
		s.RuntimeHandlers, s.Features = n.cfg.Handlers()
	}
	memory, disk, pid := n.cfg.Pressure()
	now := metav1.NewTime(n.cfg.Clock.Now().Truncate(time.Second))
	n.condition(s, old, now, corev1.NodeMemoryPressure, memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
		"KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	n.condition(s, old, now, corev1.NodeDiskPressure, disk, "KubeletHasDiskPressure", "kubelet has disk pressure",
		"KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	n.condition(s, old, now, corev1.NodePIDPressure, pid, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
		"KubeletHasSufficientPID", "kubelet has sufficient PID available")
	n.condition(s, old, now, corev1.NodeReady, notReady == "", "KubeletReady", "kubelet is posting ready status", "KubeletNotReady", notReady)
}

func (n *Node) condition(s *corev1.NodeStatus, old *corev1.Node, now metav1.Time, kind corev1.NodeConditionType, on bool, yes, yesText, no, noText string) {
	c := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: no, Message: noText, LastHeartbeatTime: now, LastTransitionTime: now}
	if on {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, yes, yesText
	}
	if old != nil {
		for _, o := range old.Status.Conditions {
			if o.Type == kind && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			s.Conditions[i] = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// runLease renews the node's Lease: the sign of life that controllers watch.
func (n *Node) runLease(ctx context.Context) {
	var lease *coordinationv1.Lease
	for {
		callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		next, err := n.renew(callCtx, lease)
		cancel()
		wait := leasePeriod
		if err != nil {
			if ctx.Err() == nil {
				n.cfg.Logger.Warn("node lease not renewed", "err", err)
			}
			next, wait = nil, time.Second
		}
		lease = next
		if !n.sleep(ctx, wait) {
			return
		}
	}
}

func (n *Node) renew(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	now := metav1.NewMicroTime(n.cfg.Clock.Now())
	if lease == nil {
		lease = &coordinationv1.Lease{}
		err := n.cfg.Reader.Get(ctx, ctrl.ObjectKey{Namespace: corev1.NamespaceNodeLease, Name: n.cfg.Name}, lease)
		if apierrors.IsNotFound(err) {
			seconds := int32(leaseSeconds)
			lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: n.cfg.Name},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.cfg.Name, LeaseDurationSeconds: &seconds, RenewTime: &now}}
			if node := n.Get(); node.UID != "" {
				lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
			}
			return lease, n.cfg.Client.Create(ctx, lease)
		}
		if err != nil {
			return nil, err
		}
	}
	next := lease.DeepCopy()
	seconds := int32(leaseSeconds)
	next.Spec.HolderIdentity, next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = &n.cfg.Name, &seconds, &now
	return next, n.cfg.Client.Update(ctx, next)
}
