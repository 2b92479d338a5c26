// Package cri speaks to the container runtime: the Container Runtime Interface
// over a unix socket, and the pods as the runtime knows them.
package cri

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and annotations on sandboxes and containers. They are upstream's, so
// that tools which read a runtime directly (crictl, log shippers) understand
// them, and so that a pod survives a change of kubelet.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash           = "io.kubernetes.container.hash"
	AnnotationRestartCount   = "io.kubernetes.container.restartCount"
	AnnotationMessagePath    = "io.kubernetes.container.terminationMessagePath"
	AnnotationMessagePolicy  = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationMessageFile    = "proa.dev/termination-message-file"
	AnnotationPodGracePeriod = "io.kubernetes.pod.terminationGracePeriod"
)

// maxMessage is the largest answer taken from the runtime: a list of every
// container and image of a full node stays far below.
const maxMessage = 16 << 20

// Client is a connection to a runtime. Safe for concurrent use.
type Client struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	conns   []*grpc.ClientConn
}

// Dial connects to the runtime's and the image service's endpoints
// (unix:///path); an empty image endpoint means the same. Connecting is lazy:
// an absent runtime shows as an error of the first call. Interceptors see
// every call.
func Dial(runtimeEndpoint, imageEndpoint string, interceptors ...grpc.UnaryClientInterceptor) (*Client, error) {
	c := &Client{}
	conn, err := c.dial(runtimeEndpoint, interceptors)
	if err != nil {
		return nil, err
	}
	images := conn
	if imageEndpoint != "" && imageEndpoint != runtimeEndpoint {
		if images, err = c.dial(imageEndpoint, interceptors); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	c.Runtime = runtimeapi.NewRuntimeServiceClient(conn)
	c.Images = runtimeapi.NewImageServiceClient(images)
	return c, nil
}

func (c *Client) dial(endpoint string, interceptors []grpc.UnaryClientInterceptor) (*grpc.ClientConn, error) {
	if !strings.HasPrefix(endpoint, "unix://") {
		return nil, fmt.Errorf("container runtime endpoint %q: want unix:///path", endpoint)
	}
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(interceptors...),
		grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, fmt.Errorf("container runtime %s: %w", endpoint, err)
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// Close ends the connections.
func (c *Client) Close() error {
	var err error
	for _, conn := range c.conns {
		if e := conn.Close(); e != nil {
			err = e
		}
	}
	return err
}

// IsNotFound says that the runtime does not know the sandbox, container or image.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

// Text is the runtime's own text of an error, without gRPC's decoration.
func Text(err error) string { return status.Convert(err).Message() }

// PullMessage is the text of a failed pull: decorated, unless the runtime
// knows no code for it.
func PullMessage(err error) string {
	if status.Code(err) == codes.Unknown {
		return Text(err)
	}
	return Message(err)
}

// Message is the text of an error with gRPC's decoration, which users know
// from the events of sandboxes.
func Message(err error) string {
	if s, ok := status.FromError(err); ok {
		return fmt.Sprintf("rpc error: code = %s desc = %s", s.Code(), s.Message())
	}
	return err.Error()
}

// Container is one container of a pod, of any generation.
type Container struct {
	*runtimeapi.ContainerStatus
	SandboxID string
}

// Name is the container's name in the pod's spec.
func (c *Container) Name() string { return c.GetMetadata().GetName() }

// Running says that the container's process lives, or may do so.
func (c *Container) Running() bool {
	return c.State == runtimeapi.ContainerState_CONTAINER_RUNNING || c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

// Exited says that the container has run and ended.
func (c *Container) Exited() bool { return c.State == runtimeapi.ContainerState_CONTAINER_EXITED }

// Pod is what the runtime has of one pod.
type Pod struct {
	UID, Namespace, Name string
	// Sandboxes and Containers are ordered newest first: the attempt tells, since
	// a clock may be set back.
	Sandboxes  []*runtimeapi.PodSandboxStatus
	Containers []*Container
}

// Sandbox is the newest sandbox if it is ready, else nil.
func (p *Pod) Sandbox() *runtimeapi.PodSandboxStatus {
	if len(p.Sandboxes) == 0 || p.Sandboxes[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil
	}
	return p.Sandboxes[0]
}

// Latest is the newest container of that name, or nil.
func (p *Pod) Latest(name string) *Container {
	for _, c := range p.Containers {
		if c.Name() == name {
			return c
		}
	}
	return nil
}

// Current is the newest container of that name in the present sandbox, or nil.
func (p *Pod) Current(name string) *Container {
	if len(p.Sandboxes) == 0 {
		return nil
	}
	c := p.Latest(name)
	if c == nil || c.SandboxID != p.Sandboxes[0].Id {
		return nil
	}
	return c
}

// IPs are the addresses of the newest sandbox.
func (p *Pod) IPs() []string {
	if len(p.Sandboxes) == 0 {
		return nil
	}
	net := p.Sandboxes[0].GetNetwork()
	if net.GetIp() == "" {
		return nil
	}
	ips := []string{net.GetIp()}
	for _, ip := range net.GetAdditionalIps() {
		ips = append(ips, ip.GetIp())
	}
	return ips
}

// AnyRunning says that a container still runs or a sandbox is still ready.
func (p *Pod) AnyRunning() bool {
	for _, c := range p.Containers {
		if c.Running() {
			return true
		}
	}
	for _, s := range p.Sandboxes {
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			return true
		}
	}
	return false
}

// Pod asks the runtime for everything it has of a pod. Containers that ended
// before are taken from known, since an ended container never changes.
func (c *Client) Pod(ctx context.Context, uid string, known *Pod) (*Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	selector := map[string]string{LabelPodUID: uid}
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return c.pod(ctx, uid, sandboxes.Items, containers.Containers, known)
}

func (c *Client) pod(ctx context.Context, uid string, sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container, known *Pod) (*Pod, error) {
	pod := &Pod{UID: uid}
	for _, s := range sandboxes {
		pod.Name, pod.Namespace = s.GetMetadata().GetName(), s.GetMetadata().GetNamespace()
		got, err := c.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id})
		if IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of sandbox %s: %w", s.Id, err)
		}
		pod.Sandboxes = append(pod.Sandboxes, got.Status)
	}
	for _, k := range containers {
		if old := known.ended(k.Id); old != nil {
			pod.Containers = append(pod.Containers, old)
			continue
		}
		got, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: k.Id})
		if IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of container %s: %w", k.Id, err)
		}
		pod.Containers = append(pod.Containers, &Container{ContainerStatus: got.Status, SandboxID: k.PodSandboxId})
		if pod.Name == "" {
			pod.Name, pod.Namespace = k.Labels[LabelPodName], k.Labels[LabelPodNamespace]
		}
	}
	sort.SliceStable(pod.Sandboxes, func(i, j int) bool {
		a, b := pod.Sandboxes[i], pod.Sandboxes[j]
		if x, y := a.GetMetadata().GetAttempt(), b.GetMetadata().GetAttempt(); x != y {
			return x > y
		}
		return a.CreatedAt > b.CreatedAt
	})
	sort.SliceStable(pod.Containers, func(i, j int) bool {
		a, b := pod.Containers[i], pod.Containers[j]
		if x, y := a.GetMetadata().GetAttempt(), b.GetMetadata().GetAttempt(); x != y {
			return x > y
		}
		return a.CreatedAt > b.CreatedAt
	})
	return pod, nil
}

func (p *Pod) ended(id string) *Container {
	if p == nil {
		return nil
	}
	for _, c := range p.Containers {
		if c.Id == id && c.Exited() {
			return c
		}
	}
	return nil
}

// UIDs lists the pods that the runtime has anything of, with their names.
func (c *Client) UIDs(ctx context.Context) (map[string]Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pods := map[string]Pod{}
	add := func(labels map[string]string) {
		if uid := labels[LabelPodUID]; uid != "" {
			pods[uid] = Pod{UID: uid, Namespace: labels[LabelPodNamespace], Name: labels[LabelPodName]}
		}
	}
	for _, s := range sandboxes.Items {
		add(s.Labels)
	}
	for _, k := range containers.Containers {
		add(k.Labels)
	}
	return pods, nil
}
