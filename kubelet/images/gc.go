package images

import (
	"context"
	"fmt"
	"log/slog"
	"sort"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

// Collector removes unused images, the longest unused first, when their file
// system is fuller than High percent, until it is below Low.
type Collector struct {
	Client    *cri.Client
	Logger    *slog.Logger
	High, Low int
	MinAge    time.Duration
	Now       func() time.Time
	// Removed is told of every image that went; may be nil.
	Removed func()

	seen map[string]time.Time // when an image was last in use, or first seen
}

// Collect looks once. It must not run twice at a time. pressed overrides the
// thresholds: everything unused goes.
func (c *Collector) Collect(ctx context.Context, pressed bool) error {
	images, err := c.Client.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	containers, err := c.Client.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, k := range containers.Containers {
		used[k.ImageRef], used[k.ImageId], used[k.GetImage().GetImage()] = true, true, true
	}
	now := c.Now()
	seen := map[string]time.Time{}
	var idle []*runtimeapi.Image
	for _, i := range images.Images {
		first, known := c.seen[i.Id]
		if !known || used[i.Id] {
			first = now
		}
		seen[i.Id] = first
		if !used[i.Id] && !i.Pinned {
			idle = append(idle, i)
		}
	}
	c.seen = seen
	need, err := c.excess(ctx, pressed)
	if err != nil || need <= 0 {
		return err
	}
	sort.Slice(idle, func(a, b int) bool { return seen[idle[a].Id].Before(seen[idle[b].Id]) })
	for _, i := range idle {
		if need <= 0 {
			return nil
		}
		if !pressed && now.Sub(seen[i.Id]) < c.MinAge {
			continue
		}
		c.Logger.Info("image removed to make room", "image", i.Id, "tags", i.RepoTags, "bytes", i.Size)
		if _, err := c.Client.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.Id}}); err != nil {
			return fmt.Errorf("remove image %s: %w", i.Id, err)
		}
		need -= int64(min(i.Size, 1<<62))
		if c.Removed != nil {
			c.Removed()
		}
	}
	return nil
}

// excess is how many bytes are to be freed.
func (c *Collector) excess(ctx context.Context, pressed bool) (int64, error) {
	if pressed {
		return 1 << 62, nil
	}
	info, err := c.Client.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.ImageFilesystems) == 0 {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(info.ImageFilesystems[0].GetFsId().GetMountpoint(), &st); err != nil {
		return 0, fmt.Errorf("image file system: %w", err)
	}
	size := int64(st.Blocks) * st.Bsize
	if size == 0 {
		return 0, nil
	}
	used := size - int64(st.Bavail)*st.Bsize
	if used*100/size < int64(c.High) {
		return 0, nil
	}
	return used - size*int64(c.Low)/100, nil
}
