package quotas_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/admissiontest"
	"github.com/proa-dev/proa/apiserver/admission/quotas"
)

var quotaResource = corev1.Resource("resourcequotas")

func list(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for part := range strings.FieldsSeq(text) {
		name, amount, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	return out
}

func quota(name, hard, used string, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: "1"},
		Spec:       corev1.ResourceQuotaSpec{Hard: list(hard), Scopes: scopes},
		Status:     corev1.ResourceQuotaStatus{Hard: list(hard), Used: list(used)},
	}
}

// keeper is a store of quotas; it fails some writes as a busy one does.
type keeper struct {
	mu     sync.Mutex
	source *admissiontest.Source
	fail   func() bool
	writes int
}

func (k *keeper) replace(_ context.Context, q *corev1.ResourceQuota) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.writes++
	obj, ok := k.source.Get(quotaResource, q.Namespace, q.Name)
	if !ok {
		return apierrors.NewNotFound(quotaResource, q.Name)
	}
	if obj.GetResourceVersion() != q.ResourceVersion || k.fail != nil && k.fail() {
		return apierrors.NewConflict(quotaResource, q.Name, fmt.Errorf("the object has been modified"))
	}
	n, _ := strconv.Atoi(q.ResourceVersion)
	q.ResourceVersion = strconv.Itoa(n + 1)
	k.source.Put(quotaResource, q)
	return nil
}

func (k *keeper) used(name string, resource corev1.ResourceName) string {
	obj, _ := k.source.Get(quotaResource, "ns", name)
	q := obj.(*corev1.ResourceQuota).Status.Used[resource]
	return q.String()
}

func start(list ...*corev1.ResourceQuota) (*quotas.Plugin, *keeper) {
	k := &keeper{source: admissiontest.New()}
	for _, q := range list {
		k.source.Put(quotaResource, q)
	}
	return quotas.New(quotas.Config{Lookup: admission.Lookup{Source: k.source}, Replace: k.replace}), k
}

func create(resource string, obj runtime.Object) *admission.Attributes {
	gr := schema.ParseGroupResource(resource)
	return &admission.Attributes{Operation: admission.Create, GVR: gr.WithVersion("v1"), Namespace: "ns", Name: "x", Object: obj}
}

func pod(requests string) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(requests)}}}}}
}

func TestRefusals(t *testing.T) {
	resized := create("pods", pod("cpu=2"))
	resized.Operation, resized.Subresource, resized.OldObject = admission.Update, "resize", pod("cpu=1")
	bound := create("pods", &corev1.Binding{})
	bound.Subresource = "binding"
	ended := pod("")
	ended.Spec.ActiveDeadlineSeconds = ptr.To[int64](1)
	for _, c := range []struct {
		name  string
		quota *corev1.ResourceQuota
		write *admission.Attributes
		want  string // without what every refusal begins with
	}{
		{"room", quota("q", "pods=2", "pods=1"), create("pods", pod("")), ""},
		{"none", quota("q", "pods=2", "pods=2"), create("pods", pod("")), "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"},
		{"several", quota("q", "cpu=1 memory=1Gi pods=9", "cpu=500m memory=1Gi pods=0"), create("pods", pod("cpu=600m memory=1Mi")),
			"exceeded quota: q, requested: cpu=600m,memory=1Mi, used: cpu=500m,memory=1Gi, limited: cpu=1,memory=1Gi"},
		{"unnamed", quota("q", "cpu=1 limits.memory=1", "cpu=0 limits.memory=0"), create("pods", pod("")), "failed quota: q: must specify cpu for: c; limits.memory for: c"},
		{"uncounted", quota("q", "pods=2 cpu=1", "cpu=0"), create("pods", pod("cpu=1")), "status unknown for quota: q, resources: cpu,pods"},
		{"not tracked", quota("q", "services=0", "services=0"), create("pods", pod("")), ""},
		{"other scope", quota("q", "pods=0", "pods=0", corev1.ResourceQuotaScopeTerminating), create("pods", pod("")), ""},
		{"own scope", quota("q", "pods=0", "pods=0", corev1.ResourceQuotaScopeTerminating), create("pods", ended), "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"},
		{"negative", quota("q", "cpu=1", "cpu=0"), create("pods", pod("cpu=-1")), "quota usage is negative for resource(s): cpu,requests.cpu"},
		{"resize", quota("q", "cpu=2", "cpu=1500m"), resized, "exceeded quota: q, requested: cpu=1, used: cpu=1500m, limited: cpu=2"},
		{"binding", quota("q", "pods=0", "pods=0"), bound, ""},
		{"counted", quota("q", "count/deployments.apps=1", "count/deployments.apps=1"), create("deployments.apps", &corev1.ConfigMap{}),
			"exceeded quota: q, requested: count/deployments.apps=1, used: count/deployments.apps=1, limited: count/deployments.apps=1"},
		{"alias", quota("q", "secrets=1", "secrets=1"), create("secrets", &corev1.Secret{}), "exceeded quota: q, requested: secrets=1, used: secrets=1, limited: secrets=1"},
		{"events", quota("q", "count/events=0", "count/events=0"), create("events", &corev1.Event{}), ""},
	} {
		p, _ := start(c.quota)
		got := ""
		if err := p.Validate(t.Context(), c.write); err != nil {
			_, got, _ = strings.Cut(err.Error(), " is forbidden: ")
			if !apierrors.IsForbidden(err) {
				got = err.Error()
			}
		}
		if got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

// No room is given away twice, whoever writes the quota meanwhile.
func TestConcurrentWrites(t *testing.T) {
	const writers, room = 200, 60
	p, k := start(quota("a", "pods="+strconv.Itoa(room), "pods=0"), quota("b", "count/pods=1000", "count/pods=0"), quota("c", "services=1", "services=0"))
	k.fail = func() bool { return rand.IntN(10) == 0 }
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			err := p.Validate(t.Context(), create("pods", pod("")))
			switch {
			case err == nil:
				admitted.Add(1)
			case !apierrors.IsForbidden(err):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := admitted.Load(); n != room {
		t.Errorf("%d admitted where there was room for %d", n, room)
	}
	if used := k.used("a", "pods"); used != strconv.Itoa(room) {
		t.Errorf("used: %s", used)
	}
	if used := k.used("b", "count/pods"); used != strconv.Itoa(room) {
		t.Errorf("used of the other quota: %s", used)
	}
}

func TestWhatIsNotCharged(t *testing.T) {
	p, k := start(quota("q", "pods=2", "pods=1"))
	dry := create("pods", pod(""))
	dry.DryRun = true
	if err := p.Validate(t.Context(), dry); err != nil || k.writes > 0 {
		t.Errorf("dry run: %v, %d writes", err, k.writes)
	}
	k.fail = func() bool { return true }
	if err := p.Validate(t.Context(), create("pods", pod(""))); !apierrors.IsConflict(err) {
		t.Errorf("a quota that is never left alone: %v", err)
	}
	// A client that leaves does not wait for the others.
	entered, blocked := make(chan struct{}), make(chan struct{})
	k.fail = func() bool { close(entered); <-blocked; return false }
	first := make(chan error)
	go func() { first <- p.Validate(t.Context(), create("pods", pod(""))) }()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := p.Validate(ctx, create("pods", pod(""))); err == nil {
		t.Error("admitted without a charge")
	}
	close(blocked)
	if err := <-first; err != nil {
		t.Error(err)
	}
}
