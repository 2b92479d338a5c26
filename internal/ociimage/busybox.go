package ociimage

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
)

// Busybox gives the files of a small Linux userland: a statically linked
// busybox of this machine at /bin/busybox, a link for each of its applets,
// and the directories and files that programs expect.
func Busybox(ctx context.Context, binary string) ([]File, error) {
	list, err := exec.CommandContext(ctx, binary, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", binary, err)
	}
	files := []File{
		{Path: "/bin/busybox", Source: binary, Mode: 0o755},
		{Path: "/etc/passwd", Content: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")},
		{Path: "/etc/group", Content: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{Path: "/root", Mode: fs.ModeDir | 0o700},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/var/run", Mode: fs.ModeDir | 0o755},
	}
	sc := bufio.NewScanner(bytes.NewReader(list))
	for sc.Scan() {
		if applet := strings.TrimSpace(sc.Text()); applet != "" && applet != "busybox" && !strings.Contains(applet, "/") {
			files = append(files, File{Path: "/bin/" + applet, Link: "busybox"})
		}
	}
	return files, sc.Err()
}
