package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestLogs(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(talker + `---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: ` + busybox + `
    command: [sh, -c, "if [ -e /v/x ]; then echo second life; exec sleep 86400; fi; touch /v/x; echo first life; exit 3"]
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, emptyDir: {}}]
`)
	e.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
	e.until("there are ten lines", func() bool { return strings.Contains(e.kubectl("logs", "talker", "-c", "main"), "line 9\n") })
	for _, c := range []struct{ args, want string }{
		{"logs talker -c second", `^from the second$`},
		{"logs talker -c main --limit-bytes=8", `(?s)^.{7,8}$`},
		{"logs talker -c main --tail=2", `^line (\d+)\nline (\d+)$`},
		{"logs talker -c main --tail=1 --timestamps", `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z line \d+$`},
		{"logs talker -c main --since=1h", `(?s)line 0\n.*line 9\n`},
		{"logs talker -c main --since-time=2099-01-01T00:00:00Z", `^$`},
		{"logs -l app=talker -c main --prefix --tail=1", `^\[pod/talker/main\] line \d+$`},
		{"logs talker --all-containers --max-log-requests=2", `from the second`},
	} {
		if out := e.kubectl(strings.Split(c.args, " ")...); !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("kubectl %s: does not match %q:\n%s", c.args, c.want, out)
		}
	}
	followed := e.follow(nil, "logs", "-f", "talker", "-c", "main", "--tail=0")
	var last int
	if _, err := fmt.Sscanf(e.kubectl("logs", "talker", "-c", "main", "--tail=1"), "line %d", &last); err != nil {
		t.Fatal(err)
	}
	e.prints(followed, fmt.Sprintf("line %d\n", last+5))
	e.kubectl("delete", "pod", "talker")
	if err := followed.cmd.Wait(); err != nil {
		t.Errorf("logs -f ends with its container: %v: %s", err, followed)
	}

	e.until("the other pod lives again", func() bool {
		s := e.pod("again").Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount == 1 && s[0].Ready
	})
	if got := e.kubectl("logs", "again") + e.kubectl("logs", "again", "--previous"); got != "second lifefirst life" {
		t.Errorf("the two lives: %q", got)
	}
	e.fails(`container nope is not valid for pod again`, "logs", "again", "-c", "nope")
	e.fails(`pods "nope" not found`, "logs", "nope")
}

func TestExec(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(talker)
	e.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
	exec := func(stdin io.Reader, args ...string) (stdout, stderr string, code int) {
		var out, complaint strings.Builder
		cmd := e.command(append([]string{"exec"}, args...)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &complaint
		_ = cmd.Run() // the code is judged
		return out.String(), complaint.String(), cmd.ProcessState.ExitCode()
	}
	for _, protocol := range []string{"true", "false"} {
		e.environ = []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + protocol} // else SPDY
		out, complaint, code := exec(nil, "talker", "-c", "main", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
		if out != "out\n" || complaint != "err\ncommand terminated with exit code 3\n" || code != 3 {
			t.Errorf("exec: %q, %q, %d", out, complaint, code)
		}
		big := strings.Repeat("0123456789abcdef", 1<<16)
		if out, complaint, code = exec(strings.NewReader(big), "-i", "talker", "-c", "second", "--", "cat"); out != big || code != 0 {
			t.Errorf("exec -i of a megabyte: %d bytes, %q, %d", len(out), complaint, code)
		}
		// The size comes on a stream of its own, so perhaps after the shell;
		// until then busybox's stty prints nothing, and succeeds.
		if screen, code := e.terminal("until stty size 2>/dev/null | grep .; do usleep 1000; done\nexit 7\n", "exec", "-it", "talker", "-c", "second", "--", "sh"); code != 7 || !strings.Contains(screen, "24 81") {
			t.Errorf("exec -it: %q, %d", screen, code)
		}
	}
	_, complaint, code := exec(nil, "talker", "-c", "main", "--", "nope")
	if code == 0 || !strings.Contains(complaint, `exec: "nope": executable file not found in $PATH`) {
		t.Errorf("exec of what is not there: %q, %d", complaint, code)
	}
	e.fails(`container nope is not valid for pod talker`, "exec", "talker", "-c", "nope", "--", "true")
}

func TestAttachRunDebugCopy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(talker)
	once := e.command("run", "once", "--image="+busybox, "--restart=Never", "--rm", "-i", "--quiet", "--", "cat")
	once.Stdin = strings.NewReader("hello\n")
	if out, err := once.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "hello\n") {
		t.Errorf("run --rm -i: %v: %q", err, out)
	}
	e.fails("(NotFound)", "get", "pod", "once")

	typing, typed := io.Pipe()
	cat := e.follow(typing, "run", "cat", "--image="+busybox, "--restart=Never", "-i", "--", "cat")
	e.prints(cat, "If you don't see a command prompt")
	if _, err := io.WriteString(typed, "echoed\n"); err != nil {
		t.Fatal(err)
	}
	e.prints(cat, "echoed\n")
	typed.Close()
	e.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/cat", "--timeout=60s")
	attached := e.follow(nil, "attach", "talker", "-c", "main")
	e.prints(attached, "line ")

	e.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
	e.kubectl("debug", "talker", "--image="+busybox, "--target=main", "--profile=general", "-c", "probe", "--", "sh", "-c", "ps; sleep 86400")
	e.until("the ephemeral container sees its target", func() bool {
		out, err := e.try("logs", "talker", "-c", "probe")
		return err == nil && strings.Contains(out, "1 root     sh -c trap")
	})
	screen, code := e.terminal("tty\nexit\n", "debug", "-it", "talker", "--image="+busybox, "--profile=general", "-c", "typed", "--", "sh")
	if code != 0 || !strings.Contains(screen, "/dev/pts/") {
		t.Errorf("debug -it: %q, %d", screen, code)
	}

	dir := t.TempDir()
	tree := filepath.Join(dir, "tree", "deep")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("copied\n", 1<<16)
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	e.kubectl("cp", filepath.Join(dir, "tree"), "talker:/tmp/tree", "-c", "main")
	e.kubectl("cp", "talker:/tmp/tree", filepath.Join(dir, "back"), "-c", "main")
	if b, err := os.ReadFile(filepath.Join(dir, "back", "deep", "file")); err != nil || string(b) != content {
		t.Errorf("cp there and back: %d bytes, %v", len(b), err)
	}
}

func TestPortForwardAndProxy(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(web)
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
	pod := strings.TrimPrefix(strings.Fields(e.kubectl("get", "pods", "-l", "app=web", "-o", "name"))[0], "pod/")
	local := regexp.MustCompile(`127\.0\.0\.1:(\d+)`)
	for _, c := range []struct {
		args       []string
		path, want string
	}{
		{[]string{"port-forward", "pod/" + pod, ":8080"}, "/", pod},
		{[]string{"port-forward", "svc/web", ":80"}, "/", "web-"},
		{[]string{"port-forward", "deploy/web", ":http"}, "/", "web-"},
		{[]string{"proxy", "--port=0"}, "/api/v1/namespaces/" + e.namespace + "/services/web:80/proxy/", "web-"},
		{[]string{"proxy", "--port=0"}, "/api/v1/namespaces/" + e.namespace + "/pods/" + pod + ":8080/proxy/index.html", pod},
		{[]string{"proxy", "--port=0"}, "/version", "v1.37"},
	} {
		f := e.follow(nil, c.args...)
		e.until(fmt.Sprintf("%v listens", c.args), func() bool { return local.MatchString(f.String()) })
		for range 3 { // many connections over one tunnel
			got, err := ask(t.Context(), "http://"+local.FindString(f.String())+c.path)
			if err != nil || !strings.Contains(got, c.want) {
				t.Errorf("%v: GET %s: %q, %v, want %q", c.args, c.path, got, err, c.want)
			}
		}
	}
}
