package logs

import (
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Limits of one container's logs, as upstream has them.
const (
	MaxSize  = 10 << 20
	MaxFiles = 5
)

// Rotate moves a log that has grown too big out of the way; reopen then tells
// the runtime to begin a new file. Older ones are compressed, the oldest removed.
func Rotate(path string, reopen func() error) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() < MaxSize) {
		return nil
	}
	if err != nil {
		return err
	}
	old, err := rotated(path)
	if err != nil {
		return err
	}
	for len(old) > MaxFiles-2 {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		old = old[1:]
	}
	for _, name := range old {
		if !strings.HasSuffix(name, ".gz") {
			if err := compress(name); err != nil {
				return err
			}
		}
	}
	aside := path + "." + time.Now().UTC().Format("20060102-150405")
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := reopen(); err != nil {
		// The runtime writes on to the file that it has: give it its name back.
		return errors.Join(err, os.Rename(aside, path))
	}
	return nil
}

// rotated lists the rotated files of a log, oldest first.
func rotated(path string) ([]string, error) {
	found, err := filepath.Glob(path + ".*")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range found {
		if strings.HasSuffix(name, ".tmp") { // a compression that was cut short
			_ = os.Remove(name)
			continue
		}
		out = append(out, name)
	}
	sort.Strings(out)
	return out, nil
}

func compress(name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := name + ".gz.tmp"
	out, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, in)
	if err = errors.Join(err, z.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, name+".gz"); err != nil {
		return err
	}
	return os.Remove(name)
}
