package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/test/cluster"
)

// workload is Deployments whose pods are to have nodes. The nodes are bare
// objects, without kubelets.
type workload struct {
	name        string
	nodes       int
	deployments int
	pods        int // of each
	least       float64
	shape       func(app string, t *corev1.PodSpec)
}

var workloads = []workload{
	{name: "3,000 pods on 500 nodes, plain", nodes: 500, deployments: 1, pods: 3000, least: 3000},
	{name: "10,000 pods on 5,000 nodes, plain", nodes: 5000, deployments: 1, pods: 10000, least: 2000},
	{name: "10,000 pods on 5,000 nodes, spread over zones", nodes: 5000, deployments: 1, pods: 10000, least: 1000, shape: overZones},
	{name: "10,000 pods on 5,000 nodes, required anti-affinity", nodes: 5000, deployments: 10, pods: 1000, least: 300, shape: oneANode},
}

// wideNetwork has a pod network for each of thousands of nodes.
const wideNetwork = "--cluster-cidr=10.128.0.0/9"

func overZones(app string, spec *corev1.PodSpec) {
	spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
	}}
}

func oneANode(app string, spec *corev1.PodSpec) {
	spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey:   corev1.LabelHostname,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		}},
	}}
}

// bareNode is a node that says it is ready; nobody runs anything on it.
func bareNode(i int) *corev1.Node {
	name := fmt.Sprintf("node-%d", i)
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%3)}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}},
		},
	}
}

func (l *load) addNodes(ctx context.Context, n int) error {
	return l.fill(ctx, n, func(i int) request {
		body, err := json.Marshal(bareNode(i))
		if err != nil {
			panic(err) // a Node always marshals
		}
		return request{method: http.MethodPost, path: "/api/v1/nodes", contentType: jsonType, accept: jsonType, body: body}
	})
}

func bareDeployment(name string, pods int, shape func(string, *corev1.PodSpec)) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "example.com/none:1",
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")}},
	}}}
	if shape != nil {
		shape(name, &spec)
	}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(pods)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}
}

// benchScheduling measures from the creation of Deployments until every pod
// has its node, beside plain creates on the same server.
func benchScheduling(w workload) func(ctx context.Context, e *cluster.Cluster) ([]figure, error) {
	return func(ctx context.Context, e *cluster.Cluster) ([]figure, error) {
		l, err := startControlPlane(ctx, e, wideNetwork)
		if err != nil {
			return nil, err
		}
		defer l.close()
		c, err := e.Client()
		if err != nil {
			return nil, err
		}
		if err := l.addNodes(ctx, w.nodes); err != nil {
			return nil, err
		}
		begin, used := time.Now(), cpuTime(e.PID())
		for i := range w.deployments {
			d := bareDeployment(fmt.Sprintf("load-%d", i), w.pods, w.shape)
			if _, err := c.AppsV1().Deployments("default").Create(ctx, d, metav1.CreateOptions{}); err != nil {
				return nil, err
			}
		}
		total := w.deployments * w.pods
		if err := e.Until(ctx, 3*time.Minute, func() bool { return allBound(ctx, c, w.deployments, total) }); err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		rate, each := float64(total)/time.Since(begin).Seconds(), (cpuTime(e.PID())-used)/time.Duration(total)
		used = cpuTime(e.PID())
		rates, err := inTurns(func(turn int) (float64, error) {
			return l.rate(ctx, func(c, n int) request {
				return request{method: http.MethodPost, path: podsPath, contentType: jsonType, accept: jsonType, body: apiPod(fmt.Sprintf("made-%d-%d-%d", turn, c, n))}
			})
		})
		if err != nil {
			return nil, err
		}
		creates := rates[0]
		return []figure{{
			w.name, fmt.Sprintf("%.0f/s (%d µs of CPU each)", rate, each.Microseconds()),
			fmt.Sprintf("plain creates %.0f/s (%.0f µs)", creates, (cpuTime(e.PID())-used).Seconds()*1e6/(creates*duration.Seconds())),
			fmt.Sprintf("%.2f", rate/creates),
			fmt.Sprintf(">= %.0f/s", w.least), rate >= w.least,
		}}, nil
	}
}

// cpuTime is what a process has used so far: unlike the rate it depends little
// on what else the machine does.
func cpuTime(pid int) time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in brackets, may hold anything; user and system time are the
	// twelfth and thirteenth field after it, in hundredths of a second.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	var sum int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0
		}
		sum += n
	}
	return time.Duration(sum) * 10 * time.Millisecond
}

// allBound asks no more often than ten times a second, since the answers cost
// the server time.
func allBound(ctx context.Context, c *kubernetes.Clientset, deployments, total int) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(100 * time.Millisecond):
	}
	var made int32
	for i := range deployments {
		d, err := c.AppsV1().Deployments("default").Get(ctx, fmt.Sprintf("load-%d", i), metav1.GetOptions{})
		if err != nil {
			return false
		}
		made += d.Status.Replicas
	}
	if int(made) < total {
		return false
	}
	left, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=", Limit: 1, ResourceVersion: "0"})
	return err == nil && len(left.Items) == 0
}

// benchPreemption fills nodes with pods of low priority and then makes pods
// that need their room.
func benchPreemption(ctx context.Context, e *cluster.Cluster) ([]figure, error) {
	const nodes, pods = 250, 1000
	l, err := startControlPlane(ctx, e, wideNetwork)
	if err != nil {
		return nil, err
	}
	defer l.close()
	c, err := e.Client()
	if err != nil {
		return nil, err
	}
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000}
	if _, err := c.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if err := l.addNodes(ctx, nodes); err != nil {
		return nil, err
	}
	fourANode := func(_ string, spec *corev1.PodSpec) {
		spec.TerminationGracePeriodSeconds = ptr.To[int64](0)
		spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("4")
	}
	// Bare pods: a controller would replace the victims.
	body := func(i int) request {
		d := bareDeployment("low", 1, fourANode)
		p := corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("low-%d", i)}, Spec: d.Spec.Template.Spec}
		raw, err := json.Marshal(p)
		if err != nil {
			panic(err) // a Pod always marshals
		}
		return request{method: http.MethodPost, path: podsPath, contentType: jsonType, accept: jsonType, body: raw}
	}
	if err := l.fill(ctx, pods, body); err != nil {
		return nil, err
	}
	if err := e.Until(ctx, time.Minute, func() bool { return allBound(ctx, c, 0, 0) }); err != nil {
		return nil, err
	}
	begin, used := time.Now(), cpuTime(e.PID())
	high := bareDeployment("load-0", pods, func(app string, spec *corev1.PodSpec) {
		fourANode(app, spec)
		spec.PriorityClassName = "high"
	})
	if _, err := c.AppsV1().Deployments("default").Create(ctx, high, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if err := e.Until(ctx, 3*time.Minute, func() bool { return allBound(ctx, c, 1, pods) }); err != nil {
		return nil, fmt.Errorf("preemption: %w", err)
	}
	rate, each := pods/time.Since(begin).Seconds(), (cpuTime(e.PID())-used)/pods
	return []figure{{"preemption of 1,000 pods on 250 nodes", fmt.Sprintf("%.0f/s (%d µs of CPU each)", rate, each.Microseconds()), "", "", "", true}}, nil
}
