package status

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

const (
	// maxMessages bounds those of a pod: each container has its part.
	maxMessages = 12 << 10
	maxMessage  = 4096
	maxLogBytes = 2048
	maxLogLines = 80
)

// TerminationMessage reads what an ended container left for its users, from
// its message file, or from the end of its log when the policy says so.
func TerminationMessage(k *cri.Container) string {
	path := k.Annotations[cri.AnnotationMessageFile]
	text, err := end(path, maxMessage)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("Error on reading termination log %s: %v", path, err)
	}
	failed := k.ExitCode != 0 || k.Reason == "OOMKilled"
	if text == "" && failed && k.Annotations[cri.AnnotationMessagePolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) {
		text, err = logTail(k.LogPath)
		if err != nil {
			text = fmt.Sprintf("Error on reading termination message from logs: %v", err)
		}
	}
	switch {
	case k.Message == "":
		return text
	case text == "":
		return k.Message
	}
	return k.Message + ": " + text
}

// end reads the end of a file that a container has written: it may be anything,
// but never a link to elsewhere, since it was made before the container was and
// is mounted into it as a file.
func end(path string, most int64) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	return string(data), err
}

// logTail is the end of a log in the runtimes' format: time stream tag text.
func logTail(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	const window = 64 << 10
	start := max(0, info.Size()-window)
	data := make([]byte, info.Size()-start)
	if _, err := f.ReadAt(data, start); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if start > 0 && len(lines) > 0 {
		lines = lines[1:] // cut off at its beginning
	}
	var out []byte
	count := 0
	for i := len(lines) - 1; i >= 0 && count < maxLogLines && len(out) < maxLogBytes; i-- {
		parts := bytes.SplitN(lines[i], []byte(" "), 4)
		if len(parts) < 4 {
			continue
		}
		text := parts[3]
		if string(parts[2]) == "P" {
			text = bytes.TrimSuffix(text, []byte("\n"))
		}
		out = append(bytes.Clone(text), out...)
		count++
	}
	if len(out) > maxLogBytes {
		out = out[len(out)-maxLogBytes:]
	}
	return string(out), nil
}
