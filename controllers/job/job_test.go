package job_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/job"
)

func newJob(change func(*batchv1.JobSpec)) *batchv1.Job {
	l := map[string]string{batchv1.ControllerUidLabel: "u"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "work"},
		Spec: batchv1.JobSpec{
			Completions: ptr.To[int32](1), Parallelism: ptr.To[int32](1), BackoffLimit: ptr.To[int32](6),
			CompletionMode: ptr.To(batchv1.NonIndexedCompletion), Suspend: ptr.To(false),
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c"}}},
			},
		},
	}
	if change != nil {
		change(&j.Spec)
	}
	return j
}

// machine runs pods: each ends as fate says, at once. An empty fate leaves the
// pod running. Deleted pods end, and go when nothing holds them.
type machine struct {
	mu   sync.Mutex
	fate func(*corev1.Pod) corev1.PodPhase
	ends []string // "index phase" of every pod that ended by itself
}

func (m *machine) loop(t *testing.T, c *clustertest.Cluster) loop.Loop {
	t.Helper()
	l, err := loop.New(c.Env(nil), "machine", 4, func(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
		pod := &corev1.Pod{}
		if err := c.API.Get(ctx, key, pod); err != nil {
			return 0, ctrl.IgnoreNotFound(err)
		}
		if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
			return 0, nil
		}
		phase := corev1.PodFailed
		if pod.DeletionTimestamp == nil {
			m.mu.Lock()
			phase = m.fate(pod)
			m.mu.Unlock()
		}
		if phase == "" && pod.Status.Phase == corev1.PodRunning {
			return 0, nil
		}
		ran := phase != "" && pod.DeletionTimestamp == nil
		pod.Status.Phase = phase
		if phase == "" {
			pod.Status.Phase = corev1.PodRunning
		} else {
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
				Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.Now(), ExitCode: map[corev1.PodPhase]int32{corev1.PodFailed: 1}[phase]},
			}}}
		}
		if err := c.API.Status().Update(ctx, pod); err != nil {
			return 0, ctrl.IgnoreNotFound(err)
		}
		if ran {
			m.mu.Lock()
			m.ends = append(m.ends, pod.Annotations[batchv1.JobCompletionIndexAnnotation]+" "+string(phase))
			m.mu.Unlock()
		}
		return 0, nil
	}, loop.Self(c, &corev1.Pod{}))
	c.Do(err)
	return l
}

func (m *machine) count(phase corev1.PodPhase) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.ends {
		if strings.HasSuffix(e, string(phase)) {
			n++
		}
	}
	return n
}

func succeed(*corev1.Pod) corev1.PodPhase { return corev1.PodSucceeded }
func endless(*corev1.Pod) corev1.PodPhase { return "" }

// looks counts reconciles: each begins with one read of the job.
type looks struct {
	client.Cluster
	n atomic.Int64
}

type looking struct {
	ctrl.WithWatch
	n *atomic.Int64
}

func (l *looks) Client() ctrl.WithWatch { return looking{l.Cluster.Client(), &l.n} }

func (l looking) Get(ctx context.Context, key ctrl.ObjectKey, o ctrl.Object, opts ...ctrl.GetOption) error {
	if _, ok := o.(*batchv1.Job); ok {
		l.n.Add(1)
	}
	return l.WithWatch.Get(ctx, key, o, opts...)
}

func start(t *testing.T, m *machine, objs ...ctrl.Object) (*clustertest.Cluster, *looks) {
	t.Helper()
	c := clustertest.New(t, objs...)
	env := c.Env(nil)
	counted := &looks{Cluster: c}
	env.Cluster = counted
	l, err := job.New(env)
	c.Do(err)
	c.Run(l, m.loop(t, c))
	return c, counted
}

func get(c *clustertest.Cluster) *batchv1.Job {
	j := &batchv1.Job{}
	c.Get(j, "ns", "work")
	return j
}

func podsOf(t *testing.T, c *clustertest.Cluster) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	c.Do(c.API.List(t.Context(), &list))
	return list.Items
}

// ended waits for the job's end, and returns it with its last condition.
func ended(t *testing.T, c *clustertest.Cluster) (*batchv1.Job, batchv1.JobCondition) {
	t.Helper()
	var j *batchv1.Job
	within(t, c, time.Hour, func() (bool, string) {
		j = get(c)
		for _, cond := range j.Status.Conditions {
			if cond.Status == corev1.ConditionTrue && (cond.Type == batchv1.JobComplete || cond.Type == batchv1.JobFailed) {
				return true, ""
			}
		}
		return false, fmt.Sprintf("status %+v", j.Status)
	})
	return j, j.Status.Conditions[len(j.Status.Conditions)-1]
}

// within waits in a bubble, whose hours are short.
func within(t *testing.T, c *clustertest.Cluster, limit time.Duration, ok func() (bool, string)) {
	t.Helper()
	var why string
	for began := time.Now(); time.Since(began) < limit; {
		good, msg := ok()
		if good {
			return
		}
		why = msg
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("never: %s\nevents %q", why, c.Events())
}

func change(t *testing.T, c *clustertest.Cluster, fn func(*batchv1.Job)) {
	t.Helper()
	within(t, c, time.Minute, func() (bool, string) {
		j := get(c)
		fn(j)
		err := c.API.Update(t.Context(), j)
		return err == nil, fmt.Sprint(err)
	})
}

func TestRunsToCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{fate: succeed}
		const n = 50
		c, looked := start(t, m, newJob(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](n), ptr.To[int32](5) }))
		j, last := ended(t, c)
		if s := j.Status; s.Succeeded != n || s.Failed != 0 || s.Active != 0 || *s.Ready != 0 || *s.Terminating != 0 || s.CompletionTime == nil ||
			s.StartTime == nil || len(s.UncountedTerminatedPods.Succeeded) != 0 {
			t.Errorf("status %+v", s)
		}
		if last.Type != batchv1.JobComplete || last.Reason != "CompletionsReached" || last.Message != "Reached expected number of succeeded pods" {
			t.Errorf("condition %+v", last)
		}
		pods := podsOf(t, c)
		if len(pods) != n {
			t.Errorf("%d pods for %d completions", len(pods), n)
		}
		for _, p := range pods {
			if ref := metav1.GetControllerOf(&p); len(p.Finalizers) != 0 || ref == nil || ref.Name != "work" {
				t.Errorf("pod %+v", p.ObjectMeta)
			}
		}
		if e := c.Events(); !slices.Contains(e, "Normal Completed Job completed") {
			t.Errorf("events %q", e)
		}
		time.Sleep(time.Minute)
		// A few for each pod's creation and end, and none once all is done.
		if got := looked.n.Load(); got > 8*n {
			t.Errorf("%d reconciles for %d pods", got, n)
		}
		before := looked.n.Load()
		time.Sleep(24 * time.Hour)
		if got := looked.n.Load(); got != before {
			t.Errorf("%d reconciles of a finished job", got-before)
		}
	})
}

func TestIndexed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := map[string]int{}
		m := &machine{fate: func(p *corev1.Pod) corev1.PodPhase {
			ix := p.Labels[batchv1.JobCompletionIndexAnnotation]
			tries[ix]++
			env := p.Spec.Containers[0].Env
			if p.Spec.Hostname != "work-"+ix || !strings.HasPrefix(p.Name, "work-"+ix+"-") || len(env) != 1 || env[0].Name != "JOB_COMPLETION_INDEX" {
				t.Errorf("pod %+v", p)
			}
			if n := p.Annotations[batchv1.JobIndexFailureCountAnnotation]; n != fmt.Sprint(tries[ix]-1) {
				t.Errorf("index %s, try %d: failures %s", ix, tries[ix], n)
			}
			if ix == "1" || ix == "2" && tries[ix] < 3 {
				return corev1.PodFailed
			}
			return corev1.PodSucceeded
		}}
		c, _ := start(t, m, newJob(func(s *batchv1.JobSpec) {
			s.Completions, s.Parallelism = ptr.To[int32](5), ptr.To[int32](5)
			s.CompletionMode = ptr.To(batchv1.IndexedCompletion)
			s.BackoffLimit, s.BackoffLimitPerIndex = ptr.To[int32](1<<30), ptr.To[int32](2)
		}))
		j, last := ended(t, c)
		if s := j.Status; s.CompletedIndexes != "0,2-4" || *s.FailedIndexes != "1" || s.Succeeded != 4 || s.Failed != 5 || last.Reason != "FailedIndexes" {
			t.Errorf("status %+v", s)
		}
	})
}

func TestFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		m := &machine{fate: func(*corev1.Pod) corev1.PodPhase {
			if first {
				first = false
				return corev1.PodFailed
			}
			return ""
		}}
		c, _ := start(t, m, newJob(func(s *batchv1.JobSpec) {
			s.Completions, s.Parallelism, s.BackoffLimit = ptr.To[int32](3), ptr.To[int32](3), ptr.To[int32](0)
		}))
		j, last := ended(t, c)
		if s := j.Status; s.Failed != 3 || s.Active != 0 || s.CompletionTime != nil || last.Type != batchv1.JobFailed ||
			last.Reason != "BackoffLimitExceeded" || last.Message != "Job has reached the specified backoff limit" {
			t.Errorf("status %+v", s)
		}
		if !slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobFailureTarget }) {
			t.Errorf("conditions %+v", j.Status.Conditions)
		}
		for _, p := range podsOf(t, c) {
			if p.Status.Phase != corev1.PodFailed {
				t.Errorf("pod %s is left", p.Name)
			}
		}
	})
}

func TestSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{fate: endless}
		c, _ := start(t, m, newJob(func(s *batchv1.JobSpec) {
			s.Completions, s.Parallelism, s.Suspend = ptr.To[int32](2), ptr.To[int32](2), ptr.To(true)
			s.ActiveDeadlineSeconds = ptr.To[int64](100)
		}))
		suspended := func(want corev1.ConditionStatus, pods int) {
			t.Helper()
			within(t, c, time.Minute, func() (bool, string) {
				s := get(c).Status
				ok := len(s.Conditions) == 1 && s.Conditions[0].Status == want && (s.StartTime == nil) == (want == corev1.ConditionTrue)
				return ok && len(podsOf(t, c)) == pods && int(s.Active) == pods, fmt.Sprintf("%d pods, %+v", len(podsOf(t, c)), s)
			})
		}
		suspended(corev1.ConditionTrue, 0)
		time.Sleep(time.Hour) // which does not count
		change(t, c, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(false) })
		suspended(corev1.ConditionFalse, 2)
		change(t, c, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) })
		suspended(corev1.ConditionTrue, 0)
		time.Sleep(time.Hour)
		change(t, c, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(false) })
		resumed := time.Now()
		j, last := ended(t, c)
		if last.Reason != "DeadlineExceeded" || time.Since(resumed) < 99*time.Second || j.Status.Failed != 2 {
			t.Errorf("after %s: %+v", time.Since(resumed), j.Status)
		}
		want := []string{"Normal Suspended Job suspended", "Normal Resumed Job resumed", "Normal Suspended Job suspended", "Normal Resumed Job resumed"}
		got := slices.DeleteFunc(c.Events(), func(e string) bool { return !slices.Contains(want, e) })
		if !slices.Equal(got, want) {
			t.Errorf("events %q", got)
		}
	})
}

func TestAdoptsReleasesAndFrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "orphan", Labels: newJob(nil).Spec.Selector.MatchLabels}}
		lost := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "lost", Finalizers: []string{batchv1.JobTrackingFinalizer}}}
		m := &machine{fate: endless}
		c, _ := start(t, m, newJob(nil), orphan, lost)
		pod := &corev1.Pod{}
		within(t, c, time.Minute, func() (bool, string) {
			c.Get(pod, "ns", "orphan")
			return metav1.GetControllerOf(pod) != nil && len(pod.Finalizers) == 1, "not adopted"
		})
		within(t, c, time.Minute, func() (bool, string) {
			c.Get(pod, "ns", "lost")
			return len(pod.Finalizers) == 0, "keeps the finalizer without a job"
		})
		synctest.Wait() // who runs the pod may be writing its status
		c.Get(pod, "ns", "orphan")
		pod.Labels = map[string]string{"app": "debug"}
		c.Do(c.API.Update(t.Context(), pod))
		within(t, c, time.Minute, func() (bool, string) {
			c.Get(pod, "ns", "orphan")
			return metav1.GetControllerOf(pod) == nil && len(pod.Finalizers) == 0 && len(podsOf(t, c)) == 3, "not released and replaced"
		})
		// The job goes: its pods, which the collector deletes, must be able to.
		c.Do(c.API.Delete(t.Context(), get(c)))
		for _, p := range podsOf(t, c) {
			if metav1.GetControllerOf(&p) != nil {
				c.Do(c.API.Delete(t.Context(), &p))
			}
		}
		within(t, c, time.Minute, func() (bool, string) { return len(podsOf(t, c)) == 2, "pods stay" })
	})
}

// A controller that dies again and again, between any two writes, counts every
// pod once and runs no index to success twice.
func TestChaos(t *testing.T) {
	for _, mode := range []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(mode, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { chaos(t, mode, rand.New(rand.NewPCG(seed, 1))) })
			})
		}
	}
}

func chaos(t *testing.T, mode batchv1.CompletionMode, r *rand.Rand) {
	const n = 40
	m := &machine{fate: func(*corev1.Pod) corev1.PodPhase {
		if r.IntN(5) == 0 {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	}}
	c := clustertest.New(t, newJob(func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.BackoffLimit = ptr.To[int32](n), ptr.To[int32](8), ptr.To[int32](1000)
		s.CompletionMode = ptr.To(mode)
	}))
	c.Run(m.loop(t, c))
	dying := rand.New(rand.NewPCG(r.Uint64(), 2))
	var old snapshot
	for !slices.ContainsFunc(get(c).Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobComplete }) {
		ctx, cancel := context.WithCancel(t.Context())
		env := c.Env(nil)
		env.Cluster = &mortal{Cluster: c, left: 1 + dying.Int64N(30), die: cancel, old: old, until: time.Now().Add(200 * time.Millisecond)}
		old = snapshotOf(t, c)
		l, err := job.New(env)
		c.Do(err)
		stop := time.AfterFunc(10*time.Minute, cancel)
		c.Do(l.Run(ctx))
		stop.Stop()
		cancel()
	}
	s := get(c).Status
	if int(s.Succeeded) != n || int(s.Failed) != m.count(corev1.PodFailed) {
		t.Errorf("status %+v; %d failed", s, m.count(corev1.PodFailed))
	}
	if got := m.count(corev1.PodSucceeded); got != n {
		t.Errorf("%d pods succeeded for %d completions", got, n)
	}
	if mode == batchv1.IndexedCompletion {
		seen := map[string]bool{}
		for _, e := range m.ends {
			if strings.HasSuffix(e, "Succeeded") && seen[e] {
				t.Errorf("index %s twice", e)
			}
			seen[e] = true
		}
	}
}

// snapshot is what was there when the controller lived last.
type snapshot struct {
	job  *batchv1.Job
	pods []corev1.Pod
}

func snapshotOf(t *testing.T, c *clustertest.Cluster) snapshot {
	t.Helper()
	return snapshot{get(c), podsOf(t, c)}
}

// mortal is a cluster whose controller dies after a number of writes, and whose
// cache shows the past at first.
type mortal struct {
	client.Cluster
	left  int64
	die   func()
	old   snapshot
	until time.Time
}

func (m *mortal) behind() bool { return m.old.job != nil && time.Now().Before(m.until) }

func (d dying) Get(ctx context.Context, key ctrl.ObjectKey, o ctrl.Object, opts ...ctrl.GetOption) error {
	if j, ok := o.(*batchv1.Job); ok && d.m.behind() {
		d.m.old.job.DeepCopyInto(j)
		return nil
	}
	return d.WithWatch.Get(ctx, key, o, opts...)
}

func (d dying) List(ctx context.Context, l ctrl.ObjectList, opts ...ctrl.ListOption) error {
	pods, ok := l.(*corev1.PodList)
	if !ok || !d.m.behind() {
		return d.WithWatch.List(ctx, l, opts...)
	}
	o := (&ctrl.ListOptions{}).ApplyOptions(opts)
	for _, p := range d.m.old.pods {
		if ref := metav1.GetControllerOf(&p); ref != nil && o.FieldSelector.Matches(fields.Set{index.Controller: string(ref.UID)}) {
			pods.Items = append(pods.Items, p)
		}
	}
	return nil
}

type dying struct {
	ctrl.WithWatch
	m *mortal
}

type dyingStatus struct {
	ctrl.SubResourceWriter
	m *mortal
}

func (m *mortal) Client() ctrl.WithWatch { return dying{m.Cluster.Client(), m} }

// alive counts a write. The last one is done, but its answer is lost.
func (m *mortal) alive() error {
	if left := atomic.AddInt64(&m.left, -1); left <= 0 {
		m.die()
		if left < 0 {
			return context.Canceled
		}
	}
	return nil
}

func (d dying) Create(ctx context.Context, o ctrl.Object, opts ...ctrl.CreateOption) error {
	if err := d.m.alive(); err != nil {
		return err
	}
	return d.WithWatch.Create(context.WithoutCancel(ctx), o, opts...)
}

func (d dying) Delete(ctx context.Context, o ctrl.Object, opts ...ctrl.DeleteOption) error {
	if err := d.m.alive(); err != nil {
		return err
	}
	return d.WithWatch.Delete(context.WithoutCancel(ctx), o, opts...)
}

func (d dying) Patch(ctx context.Context, o ctrl.Object, p ctrl.Patch, opts ...ctrl.PatchOption) error {
	if err := d.m.alive(); err != nil {
		return err
	}
	return d.WithWatch.Patch(context.WithoutCancel(ctx), o, p, opts...)
}

func (d dying) Status() ctrl.SubResourceWriter { return dyingStatus{d.WithWatch.Status(), d.m} }

func (d dyingStatus) Update(ctx context.Context, o ctrl.Object, opts ...ctrl.SubResourceUpdateOption) error {
	if err := d.m.alive(); err != nil {
		return err
	}
	return d.SubResourceWriter.Update(context.WithoutCancel(ctx), o, opts...)
}

// faulty loses or refuses some writes.
type faulty struct {
	client.Cluster
	lose   atomic.Int32 // creates of pods that are to come to nothing
	broken atomic.Bool  // patches of pods fail
	full   atomic.Bool  // creates of pods fail
	tries  atomic.Int32 // of creates that failed
}

type faultyClient struct {
	ctrl.WithWatch
	*faulty
}

func (f *faulty) Client() ctrl.WithWatch { return faultyClient{f.Cluster.Client(), f} }

func (f faultyClient) Create(ctx context.Context, o ctrl.Object, opts ...ctrl.CreateOption) error {
	_, pod := o.(*corev1.Pod)
	switch {
	case pod && f.full.Load():
		f.tries.Add(1)
		return errors.New("exceeded quota")
	case pod && f.lose.Add(-1) >= 0:
		return nil
	}
	return f.WithWatch.Create(ctx, o, opts...)
}

func (f faultyClient) Patch(ctx context.Context, o ctrl.Object, p ctrl.Patch, opts ...ctrl.PatchOption) error {
	if _, ok := o.(*corev1.Pod); ok && f.broken.Load() {
		return errors.New("try again")
	}
	return f.WithWatch.Patch(ctx, o, p, opts...)
}

// A pod that comes and goes unseen holds its job back for a while, not for ever.
func TestPodThatIsNeverSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, newJob(nil))
		env := c.Env(nil)
		f := &faulty{Cluster: c}
		f.lose.Store(1)
		env.Cluster = f
		l, err := job.New(env)
		c.Do(err)
		m := &machine{fate: succeed}
		c.Run(l, m.loop(t, c))
		if _, end := ended(t, c); end.Type != batchv1.JobComplete {
			t.Errorf("ended with %v", end)
		}
	})
}

// A quota that is full for hours is neither hammered nor given up: no watch
// tells that it has room again.
func TestFullQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, newJob(nil))
		env := c.Env(nil)
		f := &faulty{Cluster: c}
		env.Cluster = f
		f.full.Store(true)
		l, err := job.New(env)
		c.Do(err)
		m := &machine{fate: succeed}
		c.Run(l, m.loop(t, c))
		time.Sleep(time.Second)
		if n := f.tries.Load(); n > 2 {
			t.Errorf("%d creates in a second", n)
		}
		time.Sleep(5 * time.Hour)
		f.full.Store(false)
		within(t, c, time.Minute+time.Second, func() (bool, string) { return get(c).Status.Succeeded == 1, "no pod a minute after there is room" })
	})
}

// That a job was suspended is told although its finished pods cannot be let go.
func TestTellsOfSuspensionOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, newJob(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](2), ptr.To[int32](2) }))
		env := c.Env(nil)
		f := &faulty{Cluster: c}
		env.Cluster = f
		l, err := job.New(env)
		c.Do(err)
		m := &machine{fate: endless}
		c.Run(l, m.loop(t, c))
		within(t, c, time.Minute, func() (bool, string) { return get(c).Status.Active == 2, "not both run" })
		f.broken.Store(true)
		pod := podsOf(t, c)[0]
		pod.Status.Phase = corev1.PodSucceeded
		c.Do(c.API.Status().Update(t.Context(), &pod))
		change(t, c, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) })
		time.Sleep(time.Minute)
		f.broken.Store(false)
		time.Sleep(10 * time.Minute)
		var told int
		for _, e := range c.Events() {
			if strings.Contains(e, "Suspended Job suspended") {
				told++
			}
		}
		if told != 1 {
			t.Errorf("told %d times: %q", told, c.Events())
		}
	})
}
