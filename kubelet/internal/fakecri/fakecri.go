// Package fakecri is a container runtime in memory, for tests: no process, no
// socket, and all its waiting on Go's clock, so that it works in a
// testing/synctest bubble.
package fakecri

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

// Behaviour is how a container's process acts.
type Behaviour struct {
	// Exits after it ran For with Code; else it runs until it is stopped.
	Exits bool
	For   time.Duration
	Code  int32
	// IgnoresTerm ends only when it is killed.
	IgnoresTerm bool
	// EndsWell exits with 0 when it is asked to end.
	EndsWell bool
	// FailStart is the error of StartContainer.
	FailStart error
}

// Runtime is the runtime. Unset methods of the interfaces panic: a test that
// needs them says so loudly.
type Runtime struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient

	// Act says how the attempt-th run of a container acts; nil runs for ever.
	Act func(container string, attempt uint32) Behaviour
	// Stopped is told of the end of processes, as the event stream would.
	Stopped func(uid string)
	// Command answers commands.
	Command func(container string, command []string) (code int32)
	// FailSandbox is the error of RunPodSandbox.
	FailSandbox func() error
	// UsedMemory is what every container uses.
	UsedMemory uint64
	// Images present from the start.
	Images []string
	// PullError is the error of PullImage.
	PullError func(image string) error

	mu         sync.Mutex
	next       int
	sandboxes  []*runtimeapi.PodSandboxStatus
	containers []*container
	log        []string
}

type container struct {
	status  *runtimeapi.ContainerStatus
	sandbox string
	uid     string
	act     Behaviour
	done    chan struct{}
}

// Client is the kubelet's view of the runtime.
func (r *Runtime) Client() *cri.Client { return &cri.Client{Runtime: r, Images: r} }

// Log lists what happened: "create c/0", "stop c/0 2s", "exit c/0 3", …
func (r *Runtime) Log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// ClearLog forgets what happened.
func (r *Runtime) ClearLog() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = nil
}

func (r *Runtime) note(format string, args ...any) {
	r.log = append(r.log, fmt.Sprintf(format, args...))
}

func (r *Runtime) id(prefix string) string {
	r.next++
	return fmt.Sprintf("%s%d", prefix, r.next)
}

// Empty says that nothing is left of any pod.
func (r *Runtime) Empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes)+len(r.containers) == 0
}

// KillSandbox ends a pod's pause process, as a crash would.
func (r *Runtime) KillSandbox(uid string) {
	r.mu.Lock()
	for _, s := range r.sandboxes {
		if s.Metadata.Uid == uid {
			s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		}
	}
	r.mu.Unlock()
	r.Stopped(uid)
}

// LoseState forgets how a pod's containers are, as a runtime does that crashed
// before it noted that.
func (r *Runtime) LoseState(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.uid == uid {
			c.status.State = runtimeapi.ContainerState_CONTAINER_UNKNOWN
		}
	}
}

// Version implements the CRI.
func (r *Runtime) Version(context.Context, *runtimeapi.VersionRequest, ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake", RuntimeVersion: "1"}, nil
}

// RunPodSandbox implements the CRI.
func (r *Runtime) RunPodSandbox(_ context.Context, req *runtimeapi.RunPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RunPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.FailSandbox != nil {
		if err := r.FailSandbox(); err != nil {
			return nil, err
		}
	}
	s := &runtimeapi.PodSandboxStatus{Id: r.id("s"), Metadata: req.Config.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Now().UnixNano(), Labels: req.Config.Labels, Annotations: req.Config.Annotations,
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.0.0.%d", r.next)}}
	r.sandboxes = append(r.sandboxes, s)
	r.note("sandbox %s/%d", req.Config.Metadata.Name, req.Config.Metadata.Attempt)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.Id}, nil
}

func (r *Runtime) sandbox(id string) (*runtimeapi.PodSandboxStatus, error) {
	for _, s := range r.sandboxes {
		if s.Id == id {
			return s, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "sandbox %s", id)
}

// StopPodSandbox implements the CRI.
func (r *Runtime) StopPodSandbox(_ context.Context, req *runtimeapi.StopPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.StopPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
		s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		r.note("stop sandbox %s/%d", s.Metadata.Name, s.Metadata.Attempt)
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox implements the CRI.
func (r *Runtime) RemovePodSandbox(_ context.Context, req *runtimeapi.RemovePodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.RemovePodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes = slices.DeleteFunc(r.sandboxes, func(s *runtimeapi.PodSandboxStatus) bool { return s.Id == req.PodSandboxId })
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus implements the CRI.
func (r *Runtime) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest, _ ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Id: s.Id, Metadata: s.Metadata, State: s.State,
		CreatedAt: s.CreatedAt, Network: s.Network, Labels: s.Labels, Annotations: s.Annotations}}, nil
}

func matches(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// ListPodSandbox implements the CRI.
func (r *Runtime) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest, _ ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range r.sandboxes {
		if matches(s.Labels, req.GetFilter().GetLabelSelector()) {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels})
		}
	}
	return out, nil
}

// CreateContainer implements the CRI.
func (r *Runtime) CreateContainer(_ context.Context, req *runtimeapi.CreateContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CreateContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	c := &container{sandbox: s.Id, uid: s.Metadata.Uid, done: make(chan struct{}), status: &runtimeapi.ContainerStatus{
		Id: r.id("c"), Metadata: req.Config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Labels: req.Config.Labels, Annotations: req.Config.Annotations, Image: req.Config.Image, ImageRef: "sha256:" + req.Config.Image.Image,
		Resources: &runtimeapi.ContainerResources{Linux: req.Config.GetLinux().GetResources()}}}
	if r.Act != nil {
		c.act = r.Act(req.Config.Metadata.Name, req.Config.Metadata.Attempt)
	}
	r.containers = append(r.containers, c)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.status.Id}, nil
}

func (r *Runtime) container(id string) (*container, error) {
	for _, c := range r.containers {
		if c.status.Id == id {
			return c, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "container %s", id)
}

func (c *container) String() string {
	return fmt.Sprintf("%s/%d", c.status.Metadata.Name, c.status.Metadata.Attempt)
}

// StartContainer implements the CRI.
func (r *Runtime) StartContainer(_ context.Context, req *runtimeapi.StartContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StartContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	if c.act.FailStart != nil {
		c.status.State, c.status.ExitCode, c.status.Reason = runtimeapi.ContainerState_CONTAINER_EXITED, 128, "StartError"
		c.status.FinishedAt = time.Now().UnixNano()
		close(c.done)
		return nil, c.act.FailStart
	}
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	r.note("start %s", c)
	if c.act.Exits {
		time.AfterFunc(c.act.For, func() { r.exit(c, c.act.Code) })
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

func (r *Runtime) exit(c *container, code int32) {
	r.mu.Lock()
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING && c.status.State != runtimeapi.ContainerState_CONTAINER_UNKNOWN {
		r.mu.Unlock()
		return
	}
	c.status.State, c.status.ExitCode, c.status.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
	r.note("exit %s %d", c, code)
	close(c.done)
	r.mu.Unlock()
	if r.Stopped != nil {
		r.Stopped(c.uid)
	}
}

// StopContainer implements the CRI.
func (r *Runtime) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest, _ ...grpc.CallOption) (*runtimeapi.StopContainerResponse, error) {
	r.mu.Lock()
	c, err := r.container(req.ContainerId)
	if err != nil {
		r.mu.Unlock()
		return nil, err
	}
	r.note("stop %s %ds", c, req.Timeout)
	ignores, code := c.act.IgnoresTerm, int32(143)
	if c.act.EndsWell {
		code = 0
	}
	r.mu.Unlock()
	if !ignores {
		r.exit(c, code)
		return &runtimeapi.StopContainerResponse{}, nil
	}
	timer := time.NewTimer(time.Duration(req.Timeout) * time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		r.exit(c, 137)
	case <-c.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer implements the CRI.
func (r *Runtime) RemoveContainer(_ context.Context, req *runtimeapi.RemoveContainerRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveContainerResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers = slices.DeleteFunc(r.containers, func(c *container) bool { return c.status.Id == req.ContainerId })
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (c *container) copy() *runtimeapi.ContainerStatus {
	s := c.status
	return &runtimeapi.ContainerStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
		ExitCode: s.ExitCode, Reason: s.Reason, Labels: s.Labels, Annotations: s.Annotations, Image: s.Image, ImageRef: s.ImageRef, Resources: s.Resources}
}

// UpdateContainerResources implements the CRI.
func (r *Runtime) UpdateContainerResources(_ context.Context, req *runtimeapi.UpdateContainerResourcesRequest, _ ...grpc.CallOption) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	c.status.Resources = &runtimeapi.ContainerResources{Linux: req.Linux}
	r.note("resize %s %d", c, req.Linux.MemoryLimitInBytes)
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// ContainerStats implements the CRI.
func (r *Runtime) ContainerStats(_ context.Context, req *runtimeapi.ContainerStatsRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.container(req.ContainerId); err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: &runtimeapi.ContainerStats{
		Memory: &runtimeapi.MemoryUsage{UsageBytes: &runtimeapi.UInt64Value{Value: r.UsedMemory}}}}, nil
}

// ContainerStatus implements the CRI.
func (r *Runtime) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.container(req.ContainerId)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatusResponse{Status: c.copy()}, nil
}

// ListContainers implements the CRI.
func (r *Runtime) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range r.containers {
		if matches(c.status.Labels, req.GetFilter().GetLabelSelector()) {
			out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.status.Id, PodSandboxId: c.sandbox, Metadata: c.status.Metadata,
				State: c.status.State, CreatedAt: c.status.CreatedAt, Labels: c.status.Labels})
		}
	}
	return out, nil
}

// ExecSync implements the CRI.
func (r *Runtime) ExecSync(_ context.Context, req *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	r.mu.Lock()
	c, err := r.container(req.ContainerId)
	if err != nil {
		r.mu.Unlock()
		return nil, err
	}
	name := c.status.Metadata.Name
	r.mu.Unlock()
	if r.Command == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	return &runtimeapi.ExecSyncResponse{ExitCode: r.Command(name, req.Cmd)}, nil
}

// ImageStatus implements the CRI.
func (r *Runtime) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ImageStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.Images, req.Image.Image) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: req.Image.Image, Uid: &runtimeapi.Int64Value{}}}, nil
}

// PullImage implements the CRI.
func (r *Runtime) PullImage(_ context.Context, req *runtimeapi.PullImageRequest, _ ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("pull %s", req.Image.Image)
	if r.PullError != nil {
		if err := r.PullError(req.Image.Image); err != nil {
			return nil, err
		}
	}
	r.Images = append(r.Images, req.Image.Image)
	return &runtimeapi.PullImageResponse{ImageRef: req.Image.Image}, nil
}
