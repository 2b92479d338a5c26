// Package registry serves image archives, as internal/ociimage writes them,
// by the pull half of the OCI distribution protocol: a mirror of every
// registry that the archives' names are of.
package registry

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry is an http.Handler.
type Registry struct {
	names     map[string]v1.Descriptor // full name with tag → manifest
	manifests map[digest.Digest]string // digest → media type
	blobs     map[digest.Digest]section
}

// section is a part of a file.
type section struct {
	file         string
	offset, size int64
}

// Open reads the table of contents of every archive in a folder.
func Open(dir string) (*Registry, error) {
	r := &Registry{names: map[string]v1.Descriptor{}, manifests: map[digest.Digest]string{}, blobs: map[digest.Digest]section{}}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return nil, err
	}
	for _, a := range archives {
		if err := r.add(a); err != nil {
			return nil, fmt.Errorf("%s: %w", a, err)
		}
	}
	return r, nil
}

func (r *Registry) add(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			r.blobs[digest.NewDigestFromEncoded(digest.SHA256, hex)] = section{file, at, h.Size}
			continue
		}
		if h.Name != v1.ImageIndexFile {
			continue
		}
		var index v1.Index
		if err := json.NewDecoder(tr).Decode(&index); err != nil {
			return err
		}
		for _, m := range index.Manifests {
			r.names[m.Annotations["io.containerd.image.name"]] = m
			r.manifests[m.Digest] = m.MediaType
		}
	}
}

// ServeHTTP answers GET and HEAD of /v2/<name>/(manifests|blobs)/<reference>.
// A client that mirrors names the registry in the parameter ns.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is for pulling")
		return
	}
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	if path == "" {
		fmt.Fprint(w, "{}")
		return
	}
	if name, ref, ok := cutLast(path, "/manifests/"); ok {
		r.manifest(w, req, name, ref)
	} else if _, ref, ok := cutLast(path, "/blobs/"); ok {
		r.blob(w, req, digest.Digest(ref), "application/octet-stream")
	} else {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no such path")
	}
}

func (r *Registry) manifest(w http.ResponseWriter, req *http.Request, name, ref string) {
	d := digest.Digest(ref)
	if d.Validate() != nil {
		m, ok := r.names[req.URL.Query().Get("ns")+"/"+name+":"+ref]
		if !ok {
			refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no such image")
			return
		}
		d = m.Digest
	}
	mediaType, ok := r.manifests[d]
	if !ok {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no such manifest")
		return
	}
	r.blob(w, req, d, mediaType)
}

func (r *Registry) blob(w http.ResponseWriter, req *http.Request, d digest.Digest, mediaType string) {
	s, ok := r.blobs[d]
	if !ok {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "no such blob")
		return
	}
	f, err := os.Open(s.file)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", fmt.Sprint(s.size))
	if req.Method == http.MethodGet {
		// An error here is the client's going away.
		_, _ = io.Copy(w, io.NewSectionReader(f, s.offset, s.size))
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
