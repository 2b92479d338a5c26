package ociimage_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/proa-dev/proa/internal/ociimage"
)

func spec() ociimage.Spec {
	return ociimage.Spec{
		Names: []string{"app", "registry.test:5000/team/app:2"},
		Layers: [][]ociimage.File{{
			{Path: "/usr/bin/app", Mode: 0o755, Content: []byte("binary")},
			{Path: "/usr/bin/link", Link: "app"},
			{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		}},
		Entrypoint:   []string{"/usr/bin/app"},
		User:         "1000",
		ExposedPorts: []string{"80", "53/udp"},
		Arch:         "arm64",
	}
}

func build(t *testing.T, s ociimage.Spec) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := ociimage.Build(&buf, s); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// read gives the files of a tar.
func read(t *testing.T, data []byte) (files map[string][]byte, headers []*tar.Header) {
	t.Helper()
	files = map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = content
		headers = append(headers, h)
	}
}

func TestBuild(t *testing.T) {
	archive := build(t, spec())
	if !bytes.Equal(archive, build(t, spec())) {
		t.Error("the same image has other bytes the second time")
	}
	files, _ := read(t, archive)
	blob := func(d v1.Descriptor, into any) {
		t.Helper()
		data := files["blobs/sha256/"+d.Digest.Encoded()]
		if int64(len(data)) != d.Size {
			t.Fatalf("blob %s: %d bytes, want %d", d.Digest, len(data), d.Size)
		}
		if into != nil {
			if err := json.Unmarshal(data, into); err != nil {
				t.Fatal(err)
			}
		}
	}
	var index v1.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations["io.containerd.image.name"])
	}
	if d := cmp.Diff([]string{"docker.io/library/app:latest", "registry.test:5000/team/app:2"}, names); d != "" {
		t.Error(d)
	}
	var manifest v1.Manifest
	blob(index.Manifests[0], &manifest)
	var image v1.Image
	blob(manifest.Config, &image)
	if image.Architecture != "arm64" || image.Config.User != "1000" || len(image.RootFS.DiffIDs) != 1 {
		t.Errorf("configuration %+v", image)
	}
	if d := cmp.Diff(map[string]struct{}{"80/tcp": {}, "53/udp": {}}, image.Config.ExposedPorts); d != "" {
		t.Error(d)
	}
	blob(manifest.Layers[0], nil)
	_, headers := read(t, files["blobs/sha256/"+manifest.Layers[0].Digest.Encoded()])
	var got []string
	for _, h := range headers {
		got = append(got, fs.FileMode(h.Mode).String()+" "+h.Name+" "+h.Linkname)
	}
	want := []string{"-rwxr-xr-x usr/ ", "-rwxr-xr-x usr/bin/ ", "-rwxr-xr-x usr/bin/app ", "-rwxrwxrwx usr/bin/link app", "-rwxrwxrwx tmp/ "}
	if headers[4].Mode != 0o1777 {
		t.Errorf("sticky bit: %o", headers[4].Mode)
	}
	headers[4].Mode = 0o777
	got[4] = "-rwxrwxrwx tmp/ "
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestBuildRejects(t *testing.T) {
	for what, change := range map[string]func(*ociimage.Spec){
		"no name":          func(s *ociimage.Spec) { s.Names = nil },
		"no layer":         func(s *ociimage.Spec) { s.Layers = nil },
		"bad name":         func(s *ociimage.Spec) { s.Names = []string{"UPPER CASE"} },
		"source not there": func(s *ociimage.Spec) { s.Layers[0][0] = ociimage.File{Path: "/x", Source: "/does/not/exist"} },
	} {
		s := spec()
		change(&s)
		if err := ociimage.Build(io.Discard, s); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}
