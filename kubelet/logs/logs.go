// Package logs reads the log files that container runtimes write: lines of
//
//	2026-11-21T00:00:00.000000000Z stdout F text
//
// where the third word is P for a part of a line that goes on in the next.
package logs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxLine bounds one line of a log file: runtimes cut at 16 KiB of text.
const maxLine = 1 << 20

// settle is how long a runtime may take to write what it has read of a
// container to the file that it is about to leave.
const settle = 100 * time.Millisecond

// stampFormat is how times are shown: all of one width.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

// Options say what of a log is wanted.
type Options struct {
	// Tail is how many lines from the end; negative means all.
	Tail int64
	// Since leaves out older lines; zero means all.
	Since time.Time
	// Bytes bounds the output; negative means no bound.
	Bytes      int64
	Timestamps bool
	// Ended is closed when the container has ended. Nil reads what is there;
	// else the log is followed.
	Ended <-chan struct{}
	// Stdout and Stderr take the streams; either may be nil, or both the same.
	Stdout, Stderr io.Writer
	// Flush is called when there is nothing more to read for now.
	Flush func()
}

// errLimit ends reading when enough was written.
var errLimit = errors.New("byte limit reached")

// Read copies a container's log. It returns when all is copied, when the
// container has ended, or when ctx does.
func Read(ctx context.Context, path string, o Options) error {
	r := &reader{o: o, path: path, left: o.Bytes}
	if o.Flush == nil {
		r.o.Flush = func() {}
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	r.file = f
	defer func() { r.file.Close() }()
	if o.Tail >= 0 {
		start, err := tail(f, o.Tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	err = r.run(ctx)
	if errors.Is(err, errLimit) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

type reader struct {
	o    Options
	path string
	file *os.File
	rest []byte // a line that is not complete yet
	left int64  // bytes that may be written
	part bool   // the last line goes on in the next
}

func (r *reader) run(ctx context.Context) error {
	var watcher *fsnotify.Watcher
	if r.o.Ended != nil {
		var err error
		if watcher, err = fsnotify.NewWatcher(); err != nil {
			return err
		}
		defer watcher.Close()
		if err := watcher.Add(filepath.Dir(r.path)); err != nil {
			return err
		}
	}
	for {
		if err := r.drain(ctx); err != nil {
			return err
		}
		r.o.Flush()
		if watcher == nil {
			return nil
		}
		if more, err := r.next(ctx, false); err != nil {
			return err
		} else if more {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-watcher.Events:
			if !ok {
				return nil
			}
		case err := <-watcher.Errors:
			return err
		case <-r.o.Ended:
			// The runtime closes the log after the last word, then says that
			// the container ended: one more look finds all.
			if err := r.drain(ctx); err != nil {
				return err
			}
			for {
				more, err := r.next(ctx, true)
				if err != nil || !more {
					r.o.Flush()
					return err
				}
				if err := r.drain(ctx); err != nil {
					return err
				}
			}
		}
	}
}

// next opens the file that took the place of a rotated one. The runtime makes it
// before it lets go of the one before: until something is in it, or the
// container has ended, the other may grow.
func (r *reader) next(ctx context.Context, ended bool) (bool, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	old, err := r.file.Stat()
	if err != nil {
		return false, err
	}
	if os.SameFile(now, old) || (now.Size() == 0 && !ended) {
		return false, nil
	}
	if !ended { // what the runtime had taken, but not written
		timer := time.NewTimer(settle)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	if err := r.drain(ctx); err != nil {
		return false, err
	}
	f, err := os.Open(r.path)
	if err != nil {
		return false, err
	}
	r.file.Close()
	r.file, r.rest = f, nil
	return true, nil
}

// drain copies all complete lines up to the present end of the file.
func (r *reader) drain(ctx context.Context) error {
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		n, err := r.file.Read(buf)
		data := buf[:n]
		for len(data) > 0 {
			i := bytes.IndexByte(data, '\n')
			if i < 0 {
				if len(r.rest)+len(data) <= maxLine {
					r.rest = append(r.rest, data...)
				}
				break
			}
			line := data[:i+1]
			data = data[i+1:]
			if len(r.rest) > 0 {
				line = append(r.rest, line...)
			}
			if err := r.line(line); err != nil {
				return err
			}
			r.rest = r.rest[:0]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// line writes one line of the file. What is no line of a log is passed over.
func (r *reader) line(line []byte) error {
	stamp, rest, ok := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || !ok3 {
		return nil
	}
	var at time.Time
	if !r.o.Since.IsZero() || r.o.Timestamps {
		at, _ = time.Parse(time.RFC3339Nano, string(stamp)) // zero: what has no time is passed over
		if at.IsZero() || at.Before(r.o.Since) {
			return nil
		}
	}
	if len(tag) > 0 && tag[0] == 'P' {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	w := r.o.Stdout
	if string(stream) == "stderr" {
		w = r.o.Stderr
	}
	if w == nil {
		return nil
	}
	if r.o.Timestamps && !r.part {
		text = append(append(at.AppendFormat(nil, stampFormat), ' '), text...)
	}
	r.part = !bytes.HasSuffix(text, []byte("\n"))
	if r.o.Bytes >= 0 && int64(len(text)) > r.left {
		text = text[:r.left]
	}
	n, err := w.Write(text)
	r.left -= int64(n)
	if err == nil && r.o.Bytes >= 0 && r.left <= 0 {
		err = errLimit
	}
	return err
}

// tail finds where the last n lines of a file begin. Parts of one line count
// as lines, as they do upstream.
func tail(f *os.File, n int64) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return size, err
	}
	const block = 64 << 10
	buf := make([]byte, block)
	end := size
	var seen int64
	for end > 0 {
		start := max(0, end-block)
		chunk := buf[:end-start]
		if _, err := f.ReadAt(chunk, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := len(chunk) - 1; i >= 0; i-- {
			if chunk[i] != '\n' || start+int64(i) == size-1 {
				continue
			}
			if seen++; seen == n {
				return start + int64(i) + 1, nil
			}
		}
		end = start
	}
	return 0, nil
}
