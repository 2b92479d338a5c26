// Package ociimage builds container images from files, without a container
// engine: an OCI image layout in one tar stream, as `proa image import`,
// `ctr image import` and `docker load` of version 25 and later read it.
//
// The same Spec always gives the same bytes.
package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Spec describes an image.
type Spec struct {
	// Names are the references it gets: "busybox", "proa.dev/pause:1". Short
	// names mean docker.io/library and :latest, as everywhere.
	Names []string
	// Layers hold the files, lowest layer first. Parent directories are made.
	Layers [][]File
	// Entrypoint, Cmd, Env (KEY=value), WorkingDir, User and StopSignal are
	// those of an image configuration.
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
	User       string
	StopSignal string
	// ExposedPorts are "80/tcp"; a bare number means TCP.
	ExposedPorts []string
	// Volumes are paths that get an anonymous volume.
	Volumes []string
	Labels  map[string]string
	// Arch is a GOARCH value; that of this process when empty.
	Arch string
}

// File is one entry of a layer. Exactly one of Content, Source and Link gives
// what it holds; none of them makes an empty file, or a directory if Mode says so.
type File struct {
	// Path is absolute in the image.
	Path string
	// Mode holds permissions, and fs.ModeDir for a directory. Zero is 0644,
	// 0755 for directories; of Source, its own.
	Mode fs.FileMode
	// Content is the file's bytes.
	Content []byte
	// Source is a file of this machine that is copied.
	Source string
	// Link makes a symbolic link to this target.
	Link string
	UID  int
	GID  int
}

// blob is one content-addressed part of the layout.
type blob struct {
	desc v1.Descriptor
	data []byte
}

// Build writes the image.
func Build(w io.Writer, spec Spec) error {
	if len(spec.Names) == 0 {
		return errors.New("ociimage: an image needs a name")
	}
	if len(spec.Layers) == 0 {
		return errors.New("ociimage: an image needs a layer")
	}
	arch := spec.Arch
	if arch == "" {
		arch = runtime.GOARCH
	}
	platform := v1.Platform{OS: "linux", Architecture: arch}

	var layers []blob
	for i, files := range spec.Layers {
		data, err := layer(files)
		if err != nil {
			return fmt.Errorf("ociimage: layer %d: %w", i, err)
		}
		layers = append(layers, newBlob(v1.MediaTypeImageLayer, data))
	}
	config, err := spec.config(platform, layers)
	if err != nil {
		return fmt.Errorf("ociimage: %w", err)
	}
	manifest := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    config.desc,
	}
	for _, l := range layers {
		manifest.Layers = append(manifest.Layers, l.desc)
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	m := newBlob(v1.MediaTypeImageManifest, data)
	m.desc.Platform = &platform

	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, name := range spec.Names {
		ref, err := reference.ParseDockerRef(name)
		if err != nil {
			return fmt.Errorf("ociimage: name %q: %w", name, err)
		}
		d := m.desc
		d.Annotations = map[string]string{"io.containerd.image.name": ref.String()}
		if tagged, ok := ref.(reference.Tagged); ok {
			d.Annotations[v1.AnnotationRefName] = tagged.Tag()
		}
		index.Manifests = append(index.Manifests, d)
	}
	return writeLayout(w, index, append(layers, config, m))
}

func (s Spec) config(platform v1.Platform, layers []blob) (blob, error) {
	image := v1.Image{
		Platform: platform,
		Config: v1.ImageConfig{
			User:       s.User,
			Env:        s.Env,
			Entrypoint: s.Entrypoint,
			Cmd:        s.Cmd,
			WorkingDir: s.WorkingDir,
			StopSignal: s.StopSignal,
			Labels:     s.Labels,
		},
		RootFS: v1.RootFS{Type: "layers"},
	}
	for _, p := range s.ExposedPorts {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		if image.Config.ExposedPorts == nil {
			image.Config.ExposedPorts = map[string]struct{}{}
		}
		image.Config.ExposedPorts[p] = struct{}{}
	}
	for _, v := range s.Volumes {
		if image.Config.Volumes == nil {
			image.Config.Volumes = map[string]struct{}{}
		}
		image.Config.Volumes[v] = struct{}{}
	}
	for _, l := range layers {
		// A layer is not compressed, so its digest is its diff ID too.
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.desc.Digest)
	}
	data, err := json.Marshal(image)
	if err != nil {
		return blob{}, err
	}
	return newBlob(v1.MediaTypeImageConfig, data), nil
}

func newBlob(mediaType string, data []byte) blob {
	sum := sha256.Sum256(data)
	return blob{
		desc: v1.Descriptor{
			MediaType: mediaType,
			Digest:    digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:])),
			Size:      int64(len(data)),
		},
		data: data,
	}
}

// layer writes files as a tar, every parent directory before its children.
func layer(files []File) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	made := map[string]bool{".": true}
	for _, f := range files {
		name := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		if name == "" {
			name = "."
		}
		if err := parents(tw, path.Dir(name), made); err != nil {
			return nil, err
		}
		if f.Mode.IsDir() && name != "." {
			made[name] = true
		}
		if err := entry(tw, name, f); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func parents(tw *tar.Writer, dir string, made map[string]bool) error {
	var missing []string
	for d := dir; !made[d]; d = path.Dir(d) {
		missing = append(missing, d)
		made[d] = true
	}
	for _, d := range slices.Backward(missing) {
		if err := entry(tw, d, File{Mode: fs.ModeDir | 0o755}); err != nil {
			return err
		}
	}
	return nil
}

func entry(tw *tar.Writer, name string, f File) error {
	h := &tar.Header{Name: name, Mode: perm(f.Mode), Uid: f.UID, Gid: f.GID, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
	content := f.Content
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if f.Mode.Perm() == 0 {
			h.Mode |= 0o755
		}
		return tw.WriteHeader(h)
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		return tw.WriteHeader(h)
	case f.Source != "":
		info, err := os.Stat(f.Source)
		if err != nil {
			return err
		}
		if content, err = os.ReadFile(f.Source); err != nil {
			return err
		}
		if f.Mode == 0 {
			h.Mode = perm(info.Mode())
		}
	case f.Mode == 0:
		h.Mode = 0o644
	}
	h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(content)
	return err
}

// perm turns the permission and set-id bits of Go into those of tar.
func perm(m fs.FileMode) int64 {
	bits := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

func writeLayout(w io.Writer, index v1.Index, blobs []blob) error {
	tw := tar.NewWriter(w)
	put := func(name string, data []byte) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0)}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(data)
		return err
	}
	head, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := put(v1.ImageLayoutFile, head); err != nil {
		return err
	}
	written := map[digest.Digest]bool{}
	for _, b := range blobs {
		if written[b.desc.Digest] {
			continue
		}
		written[b.desc.Digest] = true
		if err := put(path.Join("blobs", "sha256", b.desc.Digest.Encoded()), b.data); err != nil {
			return err
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := put(v1.ImageIndexFile, data); err != nil {
		return err
	}
	return tw.Close()
}
