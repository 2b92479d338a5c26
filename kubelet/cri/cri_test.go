package cri_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

// runtime answers from lists.
type runtime struct {
	runtimeapi.RuntimeServiceClient
	sandboxes  []*runtimeapi.PodSandboxStatus
	containers []*runtimeapi.ContainerStatus
	lost       map[string]bool // gone between the list and the question
	asked      []string
	streams    chan *stream
}

func (r *runtime) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range r.sandboxes {
		out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.Id, Metadata: s.Metadata, Labels: s.Labels})
	}
	return out, nil
}

func (r *runtime) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range r.containers {
		out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.Id, PodSandboxId: "s", Metadata: c.Metadata, Labels: c.Labels})
	}
	return out, nil
}

func (r *runtime) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest, _ ...grpc.CallOption) (*runtimeapi.PodSandboxStatusResponse, error) {
	for _, s := range r.sandboxes {
		if s.Id == req.PodSandboxId && !r.lost[s.Id] {
			return &runtimeapi.PodSandboxStatusResponse{Status: s}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "gone")
}

func (r *runtime) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	r.asked = append(r.asked, req.ContainerId)
	for _, c := range r.containers {
		if c.Id == req.ContainerId && !r.lost[c.Id] {
			return &runtimeapi.ContainerStatusResponse{Status: c}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "gone")
}

func (r *runtime) Version(context.Context, *runtimeapi.VersionRequest, ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{}, nil
}

func (r *runtime) GetContainerEvents(ctx context.Context, _ *runtimeapi.GetEventsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[runtimeapi.ContainerEventResponse], error) {
	s := &stream{ctx: ctx, events: make(chan *runtimeapi.ContainerEventResponse)}
	r.streams <- s
	return s, nil
}

type stream struct {
	grpc.ClientStream
	ctx    context.Context
	events chan *runtimeapi.ContainerEventResponse
}

func (s *stream) Recv() (*runtimeapi.ContainerEventResponse, error) {
	select {
	case e, ok := <-s.events:
		if !ok {
			return nil, errors.New("the runtime went away")
		}
		return e, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func sandbox(id string, attempt uint32, ready bool, ip string) *runtimeapi.PodSandboxStatus {
	s := &runtimeapi.PodSandboxStatus{Id: id, Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u", Attempt: attempt},
		State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY, Network: &runtimeapi.PodSandboxNetworkStatus{Ip: ip, AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::1"}}}}
	if ready {
		s.State = runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return s
}

func container(id, name string, made int64, state runtimeapi.ContainerState) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}, CreatedAt: made, State: state,
		Labels: map[string]string{cri.LabelPodName: "p", cri.LabelPodNamespace: "ns", cri.LabelPodUID: "u"}}
}

func TestPod(t *testing.T) {
	const exited, runs = runtimeapi.ContainerState_CONTAINER_EXITED, runtimeapi.ContainerState_CONTAINER_RUNNING
	r := &runtime{
		sandboxes:  []*runtimeapi.PodSandboxStatus{sandbox("old", 0, false, "10.0.0.1"), sandbox("s", 1, true, "10.0.0.2"), sandbox("lost", 2, true, "")},
		containers: []*runtimeapi.ContainerStatus{container("a1", "a", 1, exited), container("a3", "a", 3, runs), container("a2", "a", 2, exited), container("lost", "b", 4, runs)},
		lost:       map[string]bool{"lost": true},
	}
	// The clock was set back before the newest was made.
	r.containers[1].Metadata.Attempt, r.containers[1].CreatedAt = 1, 0
	c := &cri.Client{Runtime: r}
	pod, err := c.Pod(t.Context(), "u", nil)
	if err != nil {
		t.Fatal(err)
	}
	if pod.Name != "p" || pod.Namespace != "ns" || pod.Sandbox().Id != "s" || len(pod.Sandboxes) != 2 || len(pod.Containers) != 3 {
		t.Errorf("pod %+v", pod)
	}
	if ips := pod.IPs(); len(ips) != 2 || ips[0] != "10.0.0.2" || ips[1] != "fd00::1" {
		t.Errorf("addresses %v", ips)
	}
	if pod.Latest("a").Id != "a3" || pod.Current("a").Id != "a3" || pod.Latest("b") != nil || !pod.AnyRunning() {
		t.Errorf("containers %v", pod.Containers)
	}
	// What has ended does not change: it is not asked for again.
	r.asked = nil
	if _, err := c.Pod(t.Context(), "u", pod); err != nil {
		t.Fatal(err)
	}
	if len(r.asked) != 2 || r.asked[0] != "a3" {
		t.Errorf("asked for %v", r.asked)
	}
	uids, err := c.UIDs(t.Context())
	if err != nil || len(uids) != 1 || uids["u"].Name != "p" {
		t.Errorf("pods %v, %v", uids, err)
	}
}

// Events are lost while no stream is open: after each connection everything is
// looked at anew.
func TestWatchReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &runtime{streams: make(chan *stream, 1)}
		connected, stopped := 0, []string{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			(&cri.Client{Runtime: r}).Watch(ctx, slog.New(slog.DiscardHandler), func() { connected++ }, func(uid string) { stopped = append(stopped, uid) })
			close(done)
		}()
		first := <-r.streams
		event := func(kind runtimeapi.ContainerEventType, uid string) *runtimeapi.ContainerEventResponse {
			return &runtimeapi.ContainerEventResponse{ContainerEventType: kind, PodSandboxStatus: &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{Uid: uid}}}
		}
		first.events <- event(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, "a")
		first.events <- event(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, "b")
		first.events <- event(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, "c")
		synctest.Wait()
		if connected != 1 || len(stopped) != 2 || stopped[0] != "b" || stopped[1] != "c" {
			t.Errorf("connected %d times, stopped %v", connected, stopped)
		}
		first.events <- event(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, "") // of a pod that is gone
		synctest.Wait()
		if connected != 2 {
			t.Errorf("an event without a pod had nobody look")
		}
		began := time.Now()
		close(first.events)
		second := <-r.streams
		if took := time.Since(began); took != 100*time.Millisecond {
			t.Errorf("reconnected after %s", took)
		}
		close(second.events)
		<-r.streams
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("reconnected again after %s", took)
		}
		synctest.Wait()
		if connected != 4 {
			t.Errorf("connected %d times", connected)
		}
		cancel()
		<-done
	})
}
