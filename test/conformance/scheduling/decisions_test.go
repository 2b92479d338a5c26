// Package scheduling runs the cases by which Proa's scheduler is tested
// through upstream's scheduler: both must decide alike.
package scheduling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"
	configscheme "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	internalcache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/profile"
	"sigs.k8s.io/yaml"
)

// decision is one case; the README.md beside the cases says what it means.
type decision struct {
	Name         string                         `json:"name"`
	Profile      json.RawMessage                `json:"profile"`
	Nodes        []corev1.Node                  `json:"nodes"`
	Namespaces   []corev1.Namespace             `json:"namespaces"`
	Services     []corev1.Service               `json:"services"`
	ReplicaSets  []appsv1.ReplicaSet            `json:"replicasets"`
	Pods         []corev1.Pod                   `json:"pods"`
	Volumes      []corev1.PersistentVolume      `json:"volumes"`
	Claims       []corev1.PersistentVolumeClaim `json:"claims"`
	Classes      []storagev1.StorageClass       `json:"classes"`
	Drivers      []storagev1.CSIDriver          `json:"drivers"`
	StorageNodes []storagev1.CSINode            `json:"storagenodes"`
	Capacities   []storagev1.CSIStorageCapacity `json:"capacities"`
	Attachments  []storagev1.VolumeAttachment   `json:"attachments"`
	Budgets      []policyv1.PodDisruptionBudget `json:"budgets"`
	Pod          corev1.Pod                     `json:"pod"`
	Want         struct {
		Node    string   `json:"node"`
		Nodes   []string `json:"nodes"`
		Message string   `json:"message"`
		Preempt *struct {
			Node    string   `json:"node"`
			Victims []string `json:"victims"`
			Reason  string   `json:"reason"`
		} `json:"preempt"`
	} `json:"want"`
}

func TestDecisions(t *testing.T) {
	klog.SetLogger(klog.Background().V(100)) // it tells of every failure
	files, err := filepath.Glob("../../../scheduler/core/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []decision
		if err := yaml.UnmarshalStrict(raw, &cases); err != nil {
			t.Fatal(file, err)
		}
		for i := range cases {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml")+"/"+cases[i].Name, func(t *testing.T) { cases[i].run(t) })
		}
	}
}

func (d *decision) run(t *testing.T) {
	ctx := klog.NewContext(t.Context(), klog.Logger{})
	client := fake.NewClientset(d.objects()...)
	factory := informers.NewSharedInformerFactory(client, 0)
	snapshot := internalcache.NewEmptySnapshot()
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	options := []scheduler.Option{scheduler.WithNodeInfoSnapshot(snapshot)}
	if p := d.profile(t); p != nil {
		options = append(options, scheduler.WithProfiles(*p))
	}
	s, err := scheduler.New(ctx, client, factory, nil, profile.NewRecorderFactory(broadcaster), options...)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := s.WaitForHandlersSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Cache.UpdateSnapshot(klog.FromContext(ctx), snapshot); err != nil {
		t.Fatal(err)
	}
	rules := s.Profiles[corev1.DefaultSchedulerName]
	info, err := framework.NewPodInfo(&d.Pod)
	if err != nil {
		t.Fatal(err)
	}
	want := d.Want.Nodes
	if len(want) == 0 {
		want = []string{d.Want.Node + d.Want.Message}
	}
	for range 5 { // a tie would show
		state := framework.NewCycleState()
		result, err := s.SchedulePod(ctx, rules, state, &framework.QueuedPodInfo{PodInfo: info})
		got := result.SuggestedHost
		if err != nil {
			got = err.Error()
		}
		if w := d.Want.Preempt; w != nil {
			var fit *framework.FitError
			if !errors.As(err, &fit) {
				t.Fatalf("it fits on %s: %v", got, err)
			}
			_, status := rules.RunPostFilterPlugins(ctx, state, &d.Pod, fit.Diagnosis.NodeToStatus)
			reason := strings.TrimPrefix(status.Message(), "preemption: ")
			wanted := w.Reason
			if wanted == "" {
				wanted = fmt.Sprintf("%s: %v", w.Node, w.Victims)
				reason = evicted(ctx, t, client, reason)
			}
			if reason != wanted {
				t.Errorf("preemption\ngot  %s\nwant %s", reason, wanted)
			}
		}
		if (d.Want.Preempt == nil || d.Want.Message != "") && !slices.Contains(want, got) {
			t.Errorf("got  %s\nwant %s", got, strings.Join(want, " or "))
		}
		if d.Want.Preempt != nil {
			return
		}
	}
}

// evicted waits for the victims of a message to be deleted.
func evicted(ctx context.Context, t *testing.T, client *fake.Clientset, message string) string {
	var node string
	var n int
	rest := strings.TrimPrefix(message, "found a potential placement for pod on node ")
	node, rest, ok := strings.Cut(rest, ", preempting ")
	if _, err := fmt.Sscanf(rest, "%d victims", &n); err != nil || !ok {
		return message
	}
	for {
		var names []string
		for _, a := range client.Actions() {
			if d, ok := a.(clienttesting.DeleteAction); ok && a.GetResource().Resource == "pods" {
				names = append(names, d.GetName())
			}
		}
		if len(names) >= n {
			slices.Sort(names)
			return fmt.Sprintf("%s: %v", node, names)
		}
		select {
		case <-ctx.Done():
			t.Fatal("never evicted")
		case <-time.After(time.Millisecond):
		}
	}
}

func (d *decision) profile(t *testing.T) *schedulerapi.KubeSchedulerProfile {
	if d.Profile == nil {
		return nil
	}
	raw := fmt.Appendf(nil, `{"apiVersion":"kubescheduler.config.k8s.io/v1","kind":"KubeSchedulerConfiguration","profiles":[%s]}`, d.Profile)
	obj, _, err := configscheme.Codecs.UniversalDecoder().Decode(raw, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &obj.(*schedulerapi.KubeSchedulerConfiguration).Profiles[0]
}

func (d *decision) objects() (out []runtime.Object) {
	inNamespace := func(o metav1.Object) {
		if o.GetNamespace() == "" {
			o.SetNamespace("default")
		}
		if o.GetUID() == "" {
			o.SetUID(types.UID(o.GetName()))
		}
	}
	for i := range d.Namespaces {
		out = append(out, &d.Namespaces[i])
	}
	for i := range d.Services {
		inNamespace(&d.Services[i])
		out = append(out, &d.Services[i])
	}
	for i := range d.ReplicaSets {
		inNamespace(&d.ReplicaSets[i])
		out = append(out, &d.ReplicaSets[i])
	}
	for i := range d.Volumes {
		out = append(out, &d.Volumes[i])
	}
	for i := range d.Claims {
		inNamespace(&d.Claims[i])
		out = append(out, &d.Claims[i])
	}
	for i := range d.Classes {
		out = append(out, &d.Classes[i])
	}
	for i := range d.Drivers {
		out = append(out, &d.Drivers[i])
	}
	for i := range d.StorageNodes {
		out = append(out, &d.StorageNodes[i])
	}
	for i := range d.Capacities {
		inNamespace(&d.Capacities[i])
		out = append(out, &d.Capacities[i])
	}
	for i := range d.Attachments {
		out = append(out, &d.Attachments[i])
	}
	for i := range d.Budgets {
		inNamespace(&d.Budgets[i])
		out = append(out, &d.Budgets[i])
	}
	for i := range d.Nodes {
		out = append(out, completeNode(&d.Nodes[i]))
	}
	for i := range d.Pods {
		out = append(out, complete(&d.Pods[i]))
	}
	return append(out, complete(&d.Pod))
}

func complete(p *corev1.Pod) *corev1.Pod {
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	p.UID = types.UID(p.Name)
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	if len(p.Spec.Containers) == 0 {
		p.Spec.Containers = []corev1.Container{{Name: "c", Image: "app"}}
	}
	return p
}

func completeNode(n *corev1.Node) *corev1.Node {
	metav1.SetMetaDataLabel(&n.ObjectMeta, corev1.LabelHostname, n.Name)
	if n.Status.Allocatable == nil {
		n.Status.Allocatable = corev1.ResourceList{
			"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "ephemeral-storage": resource.MustParse("10Gi"), "pods": resource.MustParse("10"),
		}
	}
	return n
}
