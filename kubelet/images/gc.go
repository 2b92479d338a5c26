package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

// Collector removes unused images, the longest unused first, when their file
// system is fuller than High percent, until it is below Low. What was imported,
// and could not be pulled again, goes only if the node is under pressure.
type Collector struct {
	Client    *cri.Client
	Logger    *slog.Logger
	High, Low int
	MinAge    time.Duration
	Now       func() time.Time
	// Mounted lists the references of images that pods mount as volumes; may be
	// nil.
	Mounted func() []string
	// Removed is told of every image that went; may be nil.
	Removed func()
	// Puller remembers the images that it pulled until it is told that they are
	// gone, by whomever.
	Puller *Puller

	mu   sync.Mutex
	seen map[string]sighting // by image
}

// sighting is when an image was first seen, and when it was last in use, or
// else first seen.
type sighting struct{ first, last time.Time }

// Collect looks once. pressed overrides the thresholds: everything goes that is
// unused and not just pulled.
func (c *Collector) Collect(ctx context.Context, pressed bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	idle, err := c.idle(ctx, pressed)
	if err != nil {
		return err
	}
	need, disk, err := c.excess(ctx, pressed)
	if err != nil {
		return err
	}
	var errs []error
	asked := need
	for _, i := range idle {
		if need <= 0 {
			break
		}
		c.Logger.Info("image removed to make room", "image", i.Id, "tags", i.RepoTags, "bytes", i.Size)
		if _, err := c.Client.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: i.Id}}); err != nil {
			errs = append(errs, fmt.Errorf("remove image %s: %w", i.Id, err))
			continue
		}
		need -= int64(min(i.Size, 1<<62))
		if c.Removed != nil {
			c.Removed()
		}
	}
	if need > 0 && !pressed {
		errs = append(errs, &FullError{disk, asked - need})
	}
	return errors.Join(errs...)
}

// idle lists the images that may go, the longest unused first.
func (c *Collector) idle(ctx context.Context, pressed bool) ([]*runtimeapi.Image, error) {
	pulled := c.Puller.Pulled() // before the list: what comes meanwhile is on neither
	images, err := c.Client.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	for _, id := range pulled {
		if !slices.ContainsFunc(images.Images, func(i *runtimeapi.Image) bool { return i.Id == id }) {
			if err := c.Puller.Gone(id); err != nil {
				return nil, err
			}
		}
	}
	containers, err := c.Client.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, k := range containers.Containers {
		used[k.ImageRef], used[k.ImageId], used[k.GetImage().GetImage()] = true, true, true
	}
	if c.Mounted != nil {
		for _, ref := range c.Mounted() {
			used[fullName(ref)] = true
		}
	}
	now := c.Now()
	seen := map[string]sighting{}
	var idle []*runtimeapi.Image
	for _, i := range images.Images {
		at, known := c.seen[i.Id]
		inUse := slices.ContainsFunc(slices.Concat([]string{i.Id}, i.RepoTags, i.RepoDigests), func(name string) bool { return used[name] })
		if !known && c.seen != nil { // what was there before the first look may be as old as it likes
			at = sighting{now, now}
		}
		if inUse {
			at.last = now
		}
		seen[i.Id] = at
		mayGo := pressed || slices.Contains(pulled, i.Id)
		if !inUse && !i.Pinned && mayGo && now.Sub(at.first) >= c.MinAge {
			idle = append(idle, i)
		}
	}
	c.seen = seen
	slices.SortStableFunc(idle, func(a, b *runtimeapi.Image) int { return seen[a.Id].last.Compare(seen[b.Id].last) })
	return idle, nil
}

// FullError says that images were not enough to make room.
type FullError struct {
	disk  string
	freed int64
}

func (e *FullError) Error() string {
	return fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%s). Failed to free sufficient space by deleting unused images (freed %d bytes). "+
		"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", e.disk, e.freed)
}

// excess is how many bytes are to be freed, and how full the disk is.
func (c *Collector) excess(ctx context.Context, pressed bool) (need int64, disk string, err error) {
	if pressed {
		return 1 << 62, "", nil
	}
	info, err := c.Client.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.ImageFilesystems) == 0 {
		return 0, "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(info.ImageFilesystems[0].GetFsId().GetMountpoint(), &st); err != nil {
		return 0, "", fmt.Errorf("image file system: %w", err)
	}
	size := int64(st.Blocks) * st.Bsize
	if size == 0 {
		return 0, "", nil
	}
	used := size - int64(st.Bavail)*st.Bsize
	percent := used * 100 / size
	if percent < int64(c.High) {
		return 0, "", nil
	}
	return used - size*int64(c.Low)/100, fmt.Sprintf("%d%% of %.1f GiB used", percent, float64(size)/(1<<30)), nil
}
