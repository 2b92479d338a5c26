package core_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/scheduler/config"
	"github.com/proa-dev/proa/scheduler/core"
)

// decision is one case of testdata; README.md there says what it means.
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
		Node    string      `json:"node"`
		Nodes   []string    `json:"nodes"`
		Message string      `json:"message"`
		Preempt *preemption `json:"preempt"`
	} `json:"want"`
}

type preemption struct {
	Node    string   `json:"node"`
	Victims []string `json:"victims"`
	Reason  string   `json:"reason"`
}

func TestDecisions(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
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
	rules := d.profile(t)
	s := d.cluster(rules)
	complete(&d.Pod)
	p := core.NewPod(&d.Pod, rules)
	got, why := s.Schedule(p)
	switch {
	case d.Want.Preempt != nil:
		if why == nil {
			t.Fatalf("it fits on %s", got)
		}
		d.preempts(t, s, p, why)
		if d.Want.Message == "" {
			return
		}
		got = why.Message()
	case why != nil:
		got = why.Message()
	}
	want := d.Want.Nodes
	if len(want) == 0 {
		want = []string{d.Want.Node + d.Want.Message}
	}
	if !slices.Contains(want, got) {
		t.Errorf("got  %s\nwant %s", got, strings.Join(want, " or "))
	}
}

func (d *decision) preempts(t *testing.T, s *core.Snapshot, p *core.Pod, why *core.Diagnosis) {
	var budgets []*policyv1.PodDisruptionBudget
	for i := range d.Budgets {
		budgets = append(budgets, &d.Budgets[i])
	}
	way, got, _ := s.Preempt(p, why, budgets)
	if way != nil {
		var names []string
		for _, v := range way.Victims {
			names = append(names, v.Object.Name)
		}
		slices.Sort(names)
		got = fmt.Sprintf("%s: %v", way.Node, names)
	}
	w := d.Want.Preempt
	want := w.Reason
	if want == "" {
		want = fmt.Sprintf("%s: %v", w.Node, w.Victims)
	}
	if got != want {
		t.Errorf("preemption\ngot  %s\nwant %s", got, want)
	}
	if _, again := s.Schedule(p); again == nil || again.Message() != why.Message() {
		t.Errorf("the trial left traces: %v", again)
	}
}

func (d *decision) profile(t *testing.T) *core.Profile {
	if d.Profile == nil {
		return core.DefaultProfile()
	}
	c, err := config.Parse(fmt.Appendf(nil, `{"apiVersion":"kubescheduler.config.k8s.io/v1","kind":"KubeSchedulerConfiguration","profiles":[%s]}`, d.Profile))
	if err != nil {
		t.Fatal(err)
	}
	return c.Profiles[0]
}

func (d *decision) cluster(rules *core.Profile) *core.Snapshot {
	s := core.NewSnapshot(1)
	for i := range d.Namespaces {
		s.SetNamespace(d.Namespaces[i].Name, d.Namespaces[i].Labels)
	}
	for i := range d.Services {
		s.SetService("default", d.Services[i].Name, d.Services[i].Spec.Selector)
	}
	for i := range d.ReplicaSets {
		s.SetController(d.ReplicaSets[i].UID, d.ReplicaSets[i].Spec.Selector)
	}
	for i := range d.Volumes {
		s.SetVolume(&d.Volumes[i])
	}
	for i := range d.Claims {
		d.Claims[i].Namespace, d.Claims[i].UID = "default", types.UID(d.Claims[i].Name)
		s.SetClaim(&d.Claims[i])
	}
	for i := range d.Classes {
		s.SetClass(&d.Classes[i])
	}
	for i := range d.Drivers {
		s.SetDriver(&d.Drivers[i])
	}
	for i := range d.StorageNodes {
		s.SetStorageNode(&d.StorageNodes[i])
	}
	for i := range d.Capacities {
		s.SetCapacity(&d.Capacities[i])
	}
	for i := range d.Attachments {
		s.SetAttachment(&d.Attachments[i])
	}
	for i := range d.Budgets {
		d.Budgets[i].Namespace = "default"
	}
	for i := range d.Nodes {
		s.SetNode(completeNode(&d.Nodes[i]))
	}
	for i := range d.Pods {
		p := complete(&d.Pods[i])
		if node := p.Status.NominatedNodeName; node != "" {
			s.Nominate(core.NewPod(p, rules), node)
		} else {
			s.PutPod(core.NewPod(p, nil), p.Spec.NodeName)
		}
	}
	return s
}

func complete(p *corev1.Pod) *corev1.Pod {
	if p.Namespace == "" {
		p.Namespace = "default"
	}
	p.UID = types.UID(p.Name)
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
