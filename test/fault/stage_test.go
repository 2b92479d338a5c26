package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/builtin"
)

// container is that of all pods on the stage but for those of Jobs.
const container = `{name: c, image: ` + busybox + `, command: [sh, -c, "trap 'exit 0' TERM; sleep 86397 & wait"], env: [{name: VERSION, value: "0"}]}`

// scene is one workload of each kind. Of web at most one pod may be too many
// and one too few, of guarded one is evicted whenever its budget lets it.
const scene = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 4
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [` + container + `]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: grow, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: grow}}
  template:
    metadata: {labels: {app: grow}}
    spec: {containers: [` + container + `]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: guarded, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: guarded}}
  template:
    metadata: {labels: {app: guarded}}
    spec: {containers: [` + container + `]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guarded, namespace: default}
spec: {minAvailable: 2, selector: {matchLabels: {app: guarded}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: default}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [` + container + `]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ring, namespace: default}
spec:
  serviceName: ring
  replicas: 1
  selector: {matchLabels: {app: ring}}
  template:
    metadata: {labels: {app: ring}}
    spec: {containers: [` + container + `]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: default}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      tolerations: [{operator: Exists}]
      containers: [` + container + `]
`

// size is what grow and ring are scaled to in a round.
func size(round int32) int32 { return []int32{5, 2, 6, 1, 4}[round%5] }

const (
	growMost = 6
	indexes  = 5
)

// rules are those of the scene.
func rules() map[string]rule {
	return map[string]rule{
		"web": between(3, 5), "grow": between(0, growMost), "guarded": between(2, 3),
		"db": oneAtATime(), "ring": stacked(), "agent": oneEach(), "work": once(),
	}
}

// stage is where the scene plays. What is asked for there is asked until it
// was heard, whoever dies meanwhile.
type stage struct {
	t *testing.T
	ctrl.Client
	// work is the pod of a Job.
	work    string
	round   int32
	evicted atomic.Int64
}

func newStage(t *testing.T, cfg *rest.Config, work string) *stage {
	t.Helper()
	c, err := ctrl.New(cfg, ctrl.Options{Scheme: builtin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, Client: c, work: work}
	s.create(scene)
	return s
}

// insist does something until it works.
func (s *stage) insist(what string, do func() error) {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			s.t.Fatalf("%s: %v", what, err)
		}
	}
}

// create makes what manifests describe.
func (s *stage) create(manifests string) {
	s.t.Helper()
	decoder := serializer.NewCodecFactory(s.Scheme()).UniversalDeserializer()
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(manifests)), 4096)
	for {
		var raw runtime.RawExtension
		err := docs.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.t.Fatal(err)
		}
		obj, _, err := decoder.Decode(raw.Raw, nil, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		o := obj.(ctrl.Object)
		s.insist("create "+o.GetName(), func() error {
			err := s.Create(s.t.Context(), o.DeepCopyObject().(ctrl.Object))
			if apierrors.IsAlreadyExists(err) {
				return nil // the answer was lost
			}
			return err
		})
	}
}

func (s *stage) patch(o ctrl.Object, name, body string) {
	s.t.Helper()
	o.SetNamespace("default")
	o.SetName(name)
	s.insist("patch "+name, func() error {
		return s.Patch(s.t.Context(), o, ctrl.RawPatch(types.StrategicMergePatchType, []byte(body)))
	})
}

// next rolls out and resizes everything, and begins a Job.
func (s *stage) next() {
	s.t.Helper()
	s.round++
	template := fmt.Sprintf(`"template":{"spec":{"containers":[{"name":"c","env":[{"name":"VERSION","value":"%d"}]}]}}`, s.round)
	s.patch(&appsv1.Deployment{}, "web", `{"spec":{`+template+`}}`)
	s.patch(&appsv1.Deployment{}, "grow", fmt.Sprintf(`{"spec":{"replicas":%d}}`, size(s.round)))
	s.patch(&appsv1.StatefulSet{}, "db", `{"spec":{`+template+`}}`)
	s.patch(&appsv1.StatefulSet{}, "ring", fmt.Sprintf(`{"spec":{"replicas":%d}}`, size(s.round)))
	s.patch(&appsv1.DaemonSet{}, "agent", `{"spec":{`+template+`}}`)
	s.create(fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: work-%d, namespace: default}
spec:
  completionMode: Indexed
  completions: %d
  parallelism: 3
  backoffLimit: 1000
  template:
    metadata: {labels: {app: work}}
    spec: %s
`, s.round, indexes, s.work))
}

// evictions evicts guarded pods, one after the other, as the budget lets it.
func (s *stage) evictions(ctx context.Context) {
	for ctx.Err() == nil {
		var list corev1.PodList
		if err := s.List(ctx, &list, ctrl.InNamespace("default"), ctrl.MatchingLabels{"app": "guarded"}); err == nil && len(list.Items) > 0 {
			victim := &list.Items[rand.IntN(len(list.Items))]
			if victim.DeletionTimestamp == nil && s.SubResource("eviction").Create(ctx, victim, &policyv1.Eviction{}) == nil {
				s.evicted.Add(1)
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// evict begins that; the function that it returns ends it.
func (s *stage) evict() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.evictions(ctx) })
	stop = func() { cancel(); wg.Wait() }
	s.t.Cleanup(stop)
	return stop
}

// settled says what is not as it was asked for at last.
func (s *stage) settled(agents int32) error {
	read := func(o ctrl.Object, name string) error {
		return s.Get(s.t.Context(), types.NamespacedName{Namespace: "default", Name: name}, o)
	}
	for name, n := range map[string]int32{"web": 4, "guarded": 3, "grow": size(s.round)} {
		var d appsv1.Deployment
		if err := read(&d, name); err != nil {
			return err
		}
		if st := d.Status; st.ObservedGeneration != d.Generation || st.Replicas != n || st.UpdatedReplicas != n || st.AvailableReplicas != n {
			return fmt.Errorf("%s wants %d: %+v", name, n, st)
		}
	}
	for name, n := range map[string]int32{"db": 3, "ring": size(s.round)} {
		var set appsv1.StatefulSet
		if err := read(&set, name); err != nil {
			return err
		}
		if st := set.Status; st.ObservedGeneration != set.Generation || st.Replicas != n || st.UpdatedReplicas != n || st.AvailableReplicas != n {
			return fmt.Errorf("%s wants %d: %+v", name, n, st)
		}
	}
	var daemons appsv1.DaemonSet
	if err := read(&daemons, "agent"); err != nil {
		return err
	}
	if st := daemons.Status; st.ObservedGeneration != daemons.Generation || st.CurrentNumberScheduled != agents || st.UpdatedNumberScheduled != agents || st.NumberAvailable != agents || st.NumberMisscheduled != 0 {
		return fmt.Errorf("agent wants %d: %+v", agents, st)
	}
	for i := range s.round {
		var j batchv1.Job
		if err := read(&j, fmt.Sprintf("work-%d", i+1)); err != nil {
			return err
		}
		if st := j.Status; st.Succeeded != indexes || st.Active != 0 || ptr.Deref(st.Terminating, 0) != 0 || st.CompletedIndexes != fmt.Sprintf("0-%d", indexes-1) || st.CompletionTime == nil || st.UncountedTerminatedPods != nil && len(st.UncountedTerminatedPods.Succeeded)+len(st.UncountedTerminatedPods.Failed) > 0 {
			return fmt.Errorf("%s: %+v", j.Name, st)
		}
	}
	return s.pods()
}

// failed are the names of the pods that have failed.
func (s *stage) failed() map[string]bool {
	var list corev1.PodList
	if err := s.List(s.t.Context(), &list, ctrl.InNamespace("default")); err != nil {
		s.t.Fatal(err)
	}
	names := map[string]bool{}
	for _, p := range list.Items {
		names[p.Name] = p.Status.Phase == corev1.PodFailed
	}
	return names
}

// pods wants no pods but those that should be there, of the last version.
func (s *stage) pods() error {
	var list corev1.PodList
	if err := s.List(s.t.Context(), &list, ctrl.InNamespace("default")); err != nil {
		return err
	}
	for _, p := range list.Items {
		app := p.Labels["app"]
		if app == "work" {
			if len(p.Finalizers) > 0 || p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				return fmt.Errorf("pod %s: %s, finalizers %q", p.Name, p.Status.Phase, p.Finalizers)
			}
			continue
		}
		version := fmt.Sprint(s.round)
		if app == "guarded" || app == "grow" || app == "ring" {
			version = "0"
		}
		if got := p.Spec.Containers[0].Env[0].Value; !serves(&p) || metav1.GetControllerOf(&p) == nil || got != version {
			return fmt.Errorf("pod %s: %s of version %s, want %s, deleted %v", p.Name, p.Status.Phase, got, version, p.DeletionTimestamp)
		}
	}
	return nil
}
