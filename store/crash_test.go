package store_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/proa-dev/proa/store"
)

// crashDir names the directory that a child process of TestCrash writes to.
const crashDir = "PROA_STORE_CRASH_DIR"

// TestCrash kills a writing process: every write that it saw acknowledged is
// there afterwards.
func TestCrash(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeForEver(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]int64{}
	lines := bufio.NewScanner(out)
	for lines.Scan() && len(acknowledged) < 300 {
		var name string
		var rev int64
		if n, _ := fmt.Sscanf(lines.Text(), "wrote %s %d", &name, &rev); n == 2 {
			acknowledged[name] = rev
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // until the pipe is closed: the process is gone
	}
	_ = cmd.Wait() // "signal: killed"
	if len(acknowledged) < 300 {
		t.Fatalf("the child wrote %d objects only", len(acknowledged))
	}
	s := open(t, dir)
	defer s.Close()
	r := s.Resource(configMaps())
	for name, rev := range acknowledged {
		if e, err := r.Latest(t.Context(), "ns/"+name); err != nil || e == nil || e.Revision != rev {
			t.Fatalf("%s was acknowledged at %d and is now %v, %v", name, rev, e, err)
		}
	}
}

func writeForEver(t *testing.T, dir string) {
	s, err := store.Open(t.Context(), store.Config{DataDir: dir, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	r := s.Resource(configMaps())
	for i := 0; ; i++ {
		e := create(t, r, fmt.Sprintf("cm-%d", i), "1")
		fmt.Printf("wrote cm-%d %d\n", i, e.Revision)
	}
}
