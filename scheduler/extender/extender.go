// Package extender asks programs outside of the scheduler which nodes they
// would give to a pod, over HTTP, as KubeSchedulerConfiguration lists them.
package extender

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"github.com/proa-dev/proa/scheduler/core"
)

const (
	defaultTimeout = 5 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 20
	// scale makes of an extender's score, which goes to 10, one of ours.
	scale = 100 / extenderv1.MaxExtenderPriority
)

// Extender is one such program.
type Extender struct {
	spec    configv1.Extender
	client  *http.Client
	managed map[corev1.ResourceName]bool
}

// New returns the extender of a checked configuration.
func New(spec configv1.Extender) (*Extender, error) {
	tls, err := rest.TLSConfigFor(restConfig(&spec))
	if err != nil {
		return nil, fmt.Errorf("extender %s: %w", spec.URLPrefix, err)
	}
	e := &Extender{
		spec: spec,
		client: &http.Client{
			Transport: utilnet.SetTransportDefaults(&http.Transport{TLSClientConfig: tls}),
			Timeout:   cmp.Or(spec.HTTPTimeout.Duration, defaultTimeout),
		},
		managed: map[corev1.ResourceName]bool{},
	}
	for _, r := range spec.ManagedResources {
		e.managed[corev1.ResourceName(r.Name)] = true
	}
	return e, nil
}

func restConfig(spec *configv1.Extender) *rest.Config {
	cfg := &rest.Config{}
	if t := spec.TLSConfig; t != nil {
		cfg.TLSClientConfig = rest.TLSClientConfig{
			Insecure: t.Insecure, ServerName: t.ServerName,
			CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile,
			CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
		}
	}
	if spec.EnableHTTPS && cfg.CAFile == "" && len(cfg.CAData) == 0 {
		cfg.Insecure = true
	}
	return cfg
}

// Name identifies the extender.
func (e *Extender) Name() string { return e.spec.URLPrefix }

// Ignorable says that pods are placed without it while it cannot be reached.
func (e *Extender) Ignorable() bool { return e.spec.Ignorable }

// Binds says that it binds the pods itself.
func (e *Extender) Binds() bool { return e.spec.BindVerb != "" }

// Preempts says that it has a say in who is driven out.
func (e *Extender) Preempts() bool { return e.spec.PreemptVerb != "" }

// Wants says whether it has to do with a pod: with all, or those that ask for
// a resource that it manages.
func (e *Extender) Wants(pod *corev1.Pod) bool {
	if len(e.managed) == 0 {
		return true
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			r := &containers[i].Resources
			for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
				for name := range list {
					if e.managed[name] {
						return true
					}
				}
			}
		}
	}
	return false
}

// Filter keeps the nodes that the extender allows.
func (e *Extender) Filter(ctx context.Context, pod *corev1.Pod, nodes []core.Feasible) (kept []core.Feasible, rejected []core.Rejected, err error) {
	if e.spec.FilterVerb == "" {
		return nodes, nil, nil
	}
	var answer extenderv1.ExtenderFilterResult
	if err := e.send(ctx, e.spec.FilterVerb, e.args(pod, nodes), &answer); err != nil {
		return nil, nil, err
	}
	if answer.Error != "" {
		return nil, nil, errors.New(answer.Error)
	}
	byName := make(map[string]core.Feasible, len(nodes))
	for _, n := range nodes {
		byName[n.Node.Name] = n
	}
	var names []string
	switch {
	case e.spec.NodeCacheCapable && answer.NodeNames != nil:
		names = *answer.NodeNames
	case answer.Nodes != nil:
		for i := range answer.Nodes.Items {
			names = append(names, answer.Nodes.Items[i].Name)
		}
	}
	for _, name := range names {
		n, ok := byName[name]
		if !ok {
			return nil, nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e.Name(), name)
		}
		kept = append(kept, n)
	}
	for name, reason := range answer.FailedAndUnresolvableNodes {
		rejected = append(rejected, core.Rejected{Node: name, Reason: reason, Hopeless: true})
	}
	for name, reason := range answer.FailedNodes {
		if _, worse := answer.FailedAndUnresolvableNodes[name]; !worse {
			rejected = append(rejected, core.Rejected{Node: name, Reason: reason})
		}
	}
	return kept, rejected, nil
}

// Prioritize returns what the extender adds to the scores of nodes, by name.
func (e *Extender) Prioritize(ctx context.Context, pod *corev1.Pod, nodes []core.Feasible) (map[string]int64, error) {
	if e.spec.PrioritizeVerb == "" {
		return nil, nil
	}
	var answer extenderv1.HostPriorityList
	if err := e.send(ctx, e.spec.PrioritizeVerb, e.args(pod, nodes), &answer); err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(answer))
	for _, p := range answer {
		out[p.Host] += p.Score * e.spec.Weight * scale
	}
	return out, nil
}

func (e *Extender) args(pod *corev1.Pod, nodes []core.Feasible) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: pod}
	if e.spec.NodeCacheCapable {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Node.Name
		}
		args.NodeNames = &names
		return args
	}
	args.Nodes = &corev1.NodeList{Items: make([]corev1.Node, len(nodes))}
	for i, n := range nodes {
		args.Nodes.Items[i] = *n.Node
	}
	return args
}

// Bind gives the pod its node.
func (e *Extender) Bind(ctx context.Context, pod *corev1.Pod, node string) error {
	var answer extenderv1.ExtenderBindingResult
	err := e.send(ctx, e.spec.BindVerb, &extenderv1.ExtenderBindingArgs{
		PodName: pod.Name, PodNamespace: pod.Namespace, PodUID: pod.UID, Node: node,
	}, &answer)
	if err == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	return err
}

// Preempt keeps the ways to make room that the extender allows, perhaps with
// other victims.
func (e *Extender) Preempt(ctx context.Context, pod *corev1.Pod, ways []*core.Preemption) ([]*core.Preemption, error) {
	args := &extenderv1.ExtenderPreemptionArgs{Pod: pod}
	if e.spec.NodeCacheCapable {
		args.NodeNameToMetaVictims = map[string]*extenderv1.MetaVictims{}
	} else {
		args.NodeNameToVictims = map[string]*extenderv1.Victims{}
	}
	known := map[string]map[string]*core.Pod{}
	for _, way := range ways {
		pods := map[string]*core.Pod{}
		meta := &extenderv1.MetaVictims{NumPDBViolations: int64(way.Violations)}
		full := &extenderv1.Victims{NumPDBViolations: int64(way.Violations)}
		for _, v := range way.Victims {
			pods[string(v.UID())] = v
			meta.Pods = append(meta.Pods, &extenderv1.MetaPod{UID: string(v.UID())})
			full.Pods = append(full.Pods, v.Object)
		}
		known[way.Node] = pods
		if e.spec.NodeCacheCapable {
			args.NodeNameToMetaVictims[way.Node] = meta
		} else {
			args.NodeNameToVictims[way.Node] = full
		}
	}
	var answer extenderv1.ExtenderPreemptionResult
	if err := e.send(ctx, e.spec.PreemptVerb, args, &answer); err != nil {
		return nil, err
	}
	return e.waysOf(&answer, known)
}

func (e *Extender) waysOf(answer *extenderv1.ExtenderPreemptionResult, known map[string]map[string]*core.Pod) (out []*core.Preemption, err error) {
	for node, victims := range answer.NodeNameToMetaVictims {
		if victims == nil || len(victims.Pods) == 0 {
			if e.Ignorable() {
				continue
			}
			return nil, fmt.Errorf("expected at least one victim pod on node %q", node)
		}
		way := &core.Preemption{Node: node, Violations: int(victims.NumPDBViolations)}
		for _, meta := range victims.Pods {
			pod, ok := known[node][meta.UID]
			if !ok {
				return nil, fmt.Errorf("extender: %v claims to preempt pod (UID: %v) on node: %v, but the pod is not found on that node", e.Name(), meta.UID, node)
			}
			way.Victims = append(way.Victims, pod)
		}
		out = append(out, way)
	}
	return out, nil
}

func (e *Extender) send(ctx context.Context, verb string, args, answer any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("encode for extender: %w", err)
	}
	url := strings.TrimRight(e.spec.URLPrefix, "/") + "/" + verb
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("failed %v with extender at URL %v, code %v", verb, url, resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("answer of extender %s: %w", url, err)
	}
	return nil
}
