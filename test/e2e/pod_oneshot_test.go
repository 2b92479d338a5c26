package e2e

import (
	"context"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/internal/ociimage"
)

// oneShot is a pod that prints what it sees and ends.
type oneShot struct {
	name string
	// objects are applied before.
	objects string
	// spec is the pod's; what it leaves out is filled in by podOf.
	spec string
	// want is the log of the first container, each line a regular expression.
	want string
	// phase is how the pod ends: Succeeded when empty.
	phase corev1.PodPhase
}

// runOneShots runs every case in a namespace of its own, all at the same time.
func runOneShots(t *testing.T, cases []oneShot) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			if c.objects != "" {
				e.apply(c.objects)
			}
			e.create(podOf(t, "p", c.spec))
			got := e.ended("p")
			want := c.phase
			if want == "" {
				want = corev1.PodSucceeded
			}
			log := e.logs("p", got.Spec.Containers[0].Name)
			if got.Status.Phase != want {
				t.Errorf("phase %s, want %s: %s", got.Status.Phase, want, got.Status.Message)
			}
			matchLines(t, log, c.want)
		})
	}
}

// matchLines compares a text with regular expressions, line by line.
func matchLines(t *testing.T, text, want string) {
	t.Helper()
	var lines []string
	for l := range strings.Lines(strings.TrimSpace(want)) {
		lines = append(lines, "^"+strings.TrimSpace(l)+"$")
	}
	got := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, l := range lines {
		re, err := regexp.Compile(l)
		if err != nil {
			t.Fatal(err)
		}
		if i >= len(got) || !re.MatchString(got[i]) {
			t.Errorf("line %d is not %s in:\n%s", i+1, l, text)
			return
		}
	}
	if len(got) > len(lines) {
		t.Errorf("more than %d lines:\n%s", len(lines), text)
	}
}

// podOf reads a pod's specification. Containers without an image run busybox,
// without a name are c0, c1, ...; pods without a policy run once.
func podOf(t *testing.T, name, spec string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}}
	if err := yaml.UnmarshalStrict([]byte(spec), &pod.Spec); err != nil {
		t.Fatal(err)
	}
	for kind, list := range map[string][]corev1.Container{"c": pod.Spec.Containers, "i": pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Image == "" {
				list[i].Image = busybox
			}
			if list[i].Name == "" {
				list[i].Name = kind + string(rune('0'+i))
			}
		}
	}
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	if pod.Spec.TerminationGracePeriodSeconds == nil {
		pod.Spec.TerminationGracePeriodSeconds = new(int64(1))
	}
	return pod
}

func (e *env) create(pod *corev1.Pod) *corev1.Pod {
	e.t.Helper()
	made, err := e.client.CoreV1().Pods(e.namespace).Create(e.t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return made
}

// untilPod waits for a pod's state and gives it.
func (e *env) untilPod(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	e.t.Helper()
	var p *corev1.Pod
	e.until("pod "+name+": "+what, func() bool {
		p = e.pod(name)
		return ok(p)
	})
	return p
}

// ended waits until a pod's containers have all ended for good.
func (e *env) ended(name string) *corev1.Pod {
	e.t.Helper()
	return e.untilPod(name, "has ended", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

func (e *env) ready(name string) *corev1.Pod {
	e.t.Helper()
	return e.untilPod(name, "is Ready", isReady)
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// logs reads what a container printed.
func (e *env) logs(pod, container string) string {
	e.t.Helper()
	log, err := e.tryLogs(pod, container)
	if err != nil {
		e.t.Fatal(err)
	}
	return log
}

func (e *env) tryLogs(pod, container string) (string, error) {
	b, err := e.client.CoreV1().Pods(e.namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(e.t.Context())
	return string(b), err
}

// untilLog waits until a container has printed a text.
func (e *env) untilLog(pod, container, text string) {
	e.t.Helper()
	e.until("the log of "+pod+" has "+text, func() bool {
		log, err := e.tryLogs(pod, container)
		return err == nil && strings.Contains(log, text)
	})
}

// remove deletes a pod with its own grace and waits until it is gone.
func (e *env) remove(name string) {
	e.t.Helper()
	if err := e.client.CoreV1().Pods(e.namespace).Delete(e.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		e.t.Fatal(err)
	}
	e.gone(name)
}

func (e *env) gone(name string) {
	e.t.Helper()
	e.until("pod "+name+" is gone", func() bool {
		_, err := e.client.CoreV1().Pods(e.namespace).Get(e.t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// event waits for an event about an object and gives its message.
func (e *env) event(object, reason string) string {
	e.t.Helper()
	return e.eventMatching(object, reason, "")
}

// eventMatching waits for an event whose message matches.
func (e *env) eventMatching(object, reason, pattern string) string {
	e.t.Helper()
	re := regexp.MustCompile(pattern)
	var message string
	e.until("event "+reason+" of "+object+" like "+pattern, func() bool {
		list, err := e.client.CoreV1().Events(e.namespace).List(context.WithoutCancel(e.t.Context()), metav1.ListOptions{})
		if err != nil {
			e.t.Fatal(err)
		}
		for _, ev := range list.Items {
			if ev.InvolvedObject.Name == object && ev.Reason == reason && re.MatchString(ev.Message) {
				message = ev.Message
				return true
			}
		}
		return false
	})
	return message
}

// busyboxFiles are the files of the image that most tests run.
func busyboxFiles(t *testing.T) []ociimage.File {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	files, err := ociimage.Busybox(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
