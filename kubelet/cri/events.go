package cri

import (
	"context"
	"log/slog"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Watch follows the runtime's event stream until ctx ends. After every
// (re)connection it calls connected, whose task is to look at everything anew,
// since events are lost while no stream is open. stopped is called with the
// uid of a pod one of whose processes ended or vanished; starts are of the
// kubelet's own making and need no news.
func (c *Client) Watch(ctx context.Context, log *slog.Logger, connected func(), stopped func(uid string)) {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	delay := first
	for ctx.Err() == nil {
		began := time.Now()
		err := c.stream(ctx, connected, stopped)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > most {
			delay = first
		}
		log.Warn("container runtime's event stream ended", "err", err, "again", delay)
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		delay = min(2*delay, most)
	}
}

func (c *Client) stream(ctx context.Context, connected func(), stopped func(uid string)) error {
	stream, err := c.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	// The call returns before the runtime has subscribed us. A unary call on
	// the same connection is answered after the stream was opened.
	if _, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return err
	}
	connected()
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		switch event.ContainerEventType {
		case runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT:
		default:
			continue
		}
		uid := event.GetPodSandboxStatus().GetMetadata().GetUid()
		if uid == "" && len(event.ContainersStatuses) > 0 {
			uid = event.ContainersStatuses[0].Labels[LabelPodUID]
		}
		if uid != "" {
			stopped(uid)
		} else {
			// An event of a sandbox that is gone already names no pod.
			connected()
		}
	}
}
