package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/internal/ociimage"
)

// criLabel marks images that CRI manages; its event handler would add it a
// moment later.
const criLabel = "io.cri-containerd.image"

// ErrNotRunning says that the Runtime is not ready or has stopped.
var ErrNotRunning = errors.New("the container runtime is not running")

// Image is one image of a node.
type Image struct {
	// Names are its references, with tag or digest.
	Names []string
	// ID is the digest of its configuration.
	ID string
	// Size counts the bytes of its content.
	Size uint64
}

// ImportImage reads an image archive, OCI layout or docker save, plain or
// compressed by gzip or zstd, and gives the names of the images in it. When it
// returns, pods can use them.
func (r *Runtime) ImportImage(ctx context.Context, archive io.Reader) ([]string, error) {
	e := r.running.Load()
	if e == nil {
		return nil, ErrNotRunning
	}
	return e.importImage(ctx, archive)
}

func (e *engine) importImage(ctx context.Context, archive io.Reader) ([]string, error) {
	names, err := importInto(ctx, e.client, archive)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := e.waitForImage(ctx, name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// waitForImage returns once CRI knows the image: it learns of it by an event.
func (e *engine) waitForImage(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		known, err := e.hasImage(ctx, name)
		if known || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("image %s was imported, but the runtime does not list it: %w", name, ctx.Err())
		}
	}
}

func (e *engine) hasImage(ctx context.Context, name string) (bool, error) {
	resp, err := e.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err != nil {
		return false, err
	}
	return resp.Image != nil, nil
}

// ensurePause makes the pause image from the embedded program.
func (r *Runtime) ensurePause(ctx context.Context, e *engine) error {
	if known, err := e.hasImage(ctx, r.pauseImage); known || err != nil {
		return err
	}
	var archive bytes.Buffer
	err := ociimage.Build(&archive, ociimage.Spec{
		Names:      []string{r.pauseImage},
		Layers:     [][]ociimage.File{{{Path: "/pause", Mode: 0o755, Content: r.pause}}},
		Entrypoint: []string{"/pause"},
		User:       "65535:65535",
	})
	if err != nil {
		return err
	}
	_, err = e.importImage(ctx, &archive)
	return err
}

// imported is what is remembered of an archive, so that a restart does not
// read it again.
type imported struct {
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime"`
	Names   []string  `json:"names"`
}

// importDir imports every archive in <DataDir>/images that is new or whose
// images are gone. It happens before the runtime is ready, so that no pod
// fails for an image that was about to come. A bad archive is logged and left.
func (r *Runtime) importDir(ctx context.Context, e *engine) {
	dir := filepath.Join(r.cfg.DataDir, "images")
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.cfg.Logger.Error("cannot read the directory of images", "error", err)
		}
		return
	}
	record := filepath.Join(r.root(), "imported.json")
	known := map[string]imported{}
	if data, err := os.ReadFile(record); err == nil {
		// A broken record only costs importing again.
		_ = json.Unmarshal(data, &known)
	}
	now := map[string]imported{}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return
		}
		if strings.HasPrefix(entry.Name(), ".") || !isArchive(entry.Name()) {
			continue
		}
		got, err := r.importFile(ctx, e, filepath.Join(dir, entry.Name()), known[entry.Name()])
		if err != nil {
			r.cfg.Logger.Error("image archive not imported", "file", entry.Name(), "error", err)
			continue
		}
		now[entry.Name()] = got
	}
	data, err := json.Marshal(now)
	if err == nil {
		err = os.WriteFile(record, data, 0o600)
	}
	if err != nil {
		r.cfg.Logger.Warn("imported images are not remembered", "error", err)
	}
}

func isArchive(name string) bool {
	return slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.zst"}, func(ext string) bool { return strings.HasSuffix(name, ext) })
}

func (r *Runtime) importFile(ctx context.Context, e *engine, file string, last imported) (imported, error) {
	f, err := os.Open(file)
	if err != nil {
		return imported{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return imported{}, err
	}
	if last.Size == info.Size() && last.ModTime.Equal(info.ModTime()) && e.hasAll(ctx, last.Names) {
		return last, nil
	}
	names, err := e.importImage(ctx, f)
	if err != nil {
		return imported{}, err
	}
	r.cfg.Logger.Info("images imported", "file", filepath.Base(file), "images", names)
	return imported{Size: info.Size(), ModTime: info.ModTime(), Names: names}, nil
}

func (e *engine) hasAll(ctx context.Context, names []string) bool {
	for _, name := range names {
		if known, err := e.hasImage(ctx, name); !known || err != nil {
			return false
		}
	}
	return len(names) > 0
}

// importInto reads an archive into containerd and unpacks its images.
func importInto(ctx context.Context, c *containerd.Client, archive io.Reader) ([]string, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	// The images must not be collected before they are unpacked.
	ctx, done, err := c.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	archive, closeArchive, err := decompress(archive)
	if err != nil {
		return nil, fmt.Errorf("image archive: %w", err)
	}
	defer closeArchive()
	list, err := c.Import(ctx, archive, containerd.WithImageLabels(managed()))
	if err != nil {
		return nil, fmt.Errorf("image archive: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("image archive: it names no image")
	}
	var names []string
	for _, img := range list {
		image := containerd.NewImageWithPlatform(c, img, platforms.Default())
		if err := image.Unpack(ctx, ""); err != nil {
			return nil, fmt.Errorf("unpack image %s: %w", img.Name, err)
		}
		if err := nameByID(ctx, c, image); err != nil {
			return nil, fmt.Errorf("name image %s by its ID: %w", img.Name, err)
		}
		names = append(names, img.Name)
	}
	return names, nil
}

// managed labels an image as one of CRI's.
func managed() map[string]string { return map[string]string{criLabel: "managed"} }

// nameByID stores an image under the digest of its configuration too, as CRI
// does with what it pulls: CRI looks up image volumes by that name.
func nameByID(ctx context.Context, c *containerd.Client, image containerd.Image) error {
	config, err := image.Config(ctx)
	if err != nil {
		return err
	}
	named := images.Image{Name: config.Digest.String(), Target: image.Target(), Labels: managed()}
	if _, err = c.ImageService().Create(ctx, named); errdefs.IsAlreadyExists(err) {
		_, err = c.ImageService().Update(ctx, named)
	}
	return err
}

// decompress sees through zstd; containerd's reader knows gzip.
func decompress(r io.Reader) (io.Reader, func(), error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil, err
	}
	r = io.MultiReader(bytes.NewReader(head[:n]), r)
	if !bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return r, func() {}, nil
	}
	z, err := zstd.NewReader(r)
	if err != nil {
		return nil, nil, err
	}
	return z, z.Close, nil
}

// dial connects to the runtime of a running Proa.
func dial(ctx context.Context, socket string) (*containerd.Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err := conn.Close(); err != nil {
		return nil, err
	}
	return containerd.New(socket, containerd.WithDefaultNamespace(Namespace))
}

// Import reads an image archive into the runtime that serves socket, and gives
// the names of the images in it.
func Import(ctx context.Context, socket string, archive io.Reader) ([]string, error) {
	c, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return importInto(ctx, c, archive)
}

// List gives the images of the runtime that serves socket, by name.
func List(ctx context.Context, socket string) ([]Image, error) {
	c, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx = namespaces.WithNamespace(ctx, Namespace)
	stored, err := c.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]*Image{}
	for _, img := range stored {
		if err := collect(ctx, byID, img); err != nil {
			return nil, err
		}
	}
	var list []Image
	for _, img := range byID {
		slices.Sort(img.Names)
		list = append(list, *img)
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(strings.Join(a.Names, ","), strings.Join(b.Names, ",")) })
	return list, nil
}

// collect adds one stored reference to the image it points at. References of
// images for other platforms, or removed meanwhile, are passed over.
func collect(ctx context.Context, byID map[string]*Image, img containerd.Image) error {
	config, err := images.Config(ctx, img.ContentStore(), img.Target(), img.Platform())
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	id := config.Digest.String()
	entry := byID[id]
	if entry == nil {
		size, err := img.Size(ctx)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		entry = &Image{ID: id, Size: uint64(max(size, 0))}
		byID[id] = entry
	}
	// CRI also stores each image under its bare ID.
	if img.Name() != id {
		entry.Names = append(entry.Names, img.Name())
	}
	return nil
}
