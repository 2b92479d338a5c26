package extender_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/extender"
)

// serve answers each verb with what f makes of the arguments.
func serve(t *testing.T, spec configv1.Extender, f func(verb string, args json.RawMessage) any) *extender.Extender {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var args json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			t.Error(err)
		}
		answer := f(strings.TrimPrefix(r.URL.Path, "/ext/"), args)
		if answer == nil {
			http.Error(w, "no", http.StatusTeapot)
			return
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	spec.URLPrefix = server.URL + "/ext/"
	e, err := extender.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func nodes(names ...string) (out []core.Feasible) {
	for _, name := range names {
		out = append(out, core.Feasible{Node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, Score: 1})
	}
	return out
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
}

func TestFilterAndPrioritize(t *testing.T) {
	for _, names := range []bool{false, true} {
		spec := configv1.Extender{FilterVerb: "filter", PrioritizeVerb: "prioritize", Weight: 3, NodeCacheCapable: names}
		e := serve(t, spec, func(verb string, raw json.RawMessage) any {
			var args extenderv1.ExtenderArgs
			if err := json.Unmarshal(raw, &args); err != nil || args.Pod.Name != "p" || (args.NodeNames != nil) != names || (args.Nodes != nil) == names {
				t.Errorf("arguments %s", raw)
			}
			if verb == "prioritize" {
				return extenderv1.HostPriorityList{{Host: "b", Score: 10}}
			}
			answer := &extenderv1.ExtenderFilterResult{FailedNodes: map[string]string{"a": "no"}, FailedAndUnresolvableNodes: map[string]string{"c": "never"}}
			if names {
				answer.NodeNames = &[]string{"b"}
			} else {
				answer.Nodes = &corev1.NodeList{Items: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "b"}}}}
			}
			return answer
		})
		kept, rejected, err := e.Filter(t.Context(), pod("p"), nodes("a", "b", "c"))
		if err != nil || len(kept) != 1 || kept[0].Node.Name != "b" || kept[0].Score != 1 {
			t.Errorf("kept %v, %v", kept, err)
		}
		if !slices.Contains(rejected, core.Rejected{Node: "a", Reason: "no"}) || !slices.Contains(rejected, core.Rejected{Node: "c", Reason: "never", Hopeless: true}) {
			t.Errorf("rejected %v", rejected)
		}
		scores, err := e.Prioritize(t.Context(), pod("p"), nodes("a", "b"))
		if err != nil || scores["b"] != 300 {
			t.Errorf("scores %v, %v", scores, err)
		}
	}
}

func TestPreemptAndBind(t *testing.T) {
	e := serve(t, configv1.Extender{PreemptVerb: "preempt", BindVerb: "bind"}, func(verb string, raw json.RawMessage) any {
		if verb == "bind" {
			var args extenderv1.ExtenderBindingArgs
			if err := json.Unmarshal(raw, &args); err != nil || args.Node != "a" || args.PodUID != "p" {
				t.Errorf("arguments %s", raw)
			}
			return &extenderv1.ExtenderBindingResult{Error: "full"}
		}
		return &extenderv1.ExtenderPreemptionResult{NodeNameToMetaVictims: map[string]*extenderv1.MetaVictims{"b": {Pods: []*extenderv1.MetaPod{{UID: "y"}}}}}
	})
	victim := func(name string) *core.Pod { return core.NewPod(pod(name), nil) }
	ways := []*core.Preemption{{Node: "a", Victims: []*core.Pod{victim("x")}}, {Node: "b", Victims: []*core.Pod{victim("y"), victim("z")}}}
	got, err := e.Preempt(t.Context(), pod("p"), ways)
	if err != nil || len(got) != 1 || got[0].Node != "b" || len(got[0].Victims) != 1 || got[0].Victims[0].UID() != "y" {
		t.Errorf("got %v, %v", got, err)
	}
	if err := e.Bind(t.Context(), pod("p"), "a"); err == nil || err.Error() != "full" {
		t.Errorf("bind: %v", err)
	}
}

func TestErrors(t *testing.T) {
	down := serve(t, configv1.Extender{FilterVerb: "filter"}, func(string, json.RawMessage) any { return nil })
	if _, _, err := down.Filter(t.Context(), pod("p"), nodes("a")); err == nil || !strings.Contains(err.Error(), "code 418") {
		t.Errorf("got %v", err)
	}
	strange := serve(t, configv1.Extender{FilterVerb: "filter", NodeCacheCapable: true}, func(string, json.RawMessage) any {
		return &extenderv1.ExtenderFilterResult{NodeNames: &[]string{"z"}}
	})
	if _, _, err := strange.Filter(t.Context(), pod("p"), nodes("a")); err == nil || !strings.Contains(err.Error(), `claims a filtered node "z" which is not found`) {
		t.Errorf("got %v", err)
	}
}

func TestManagedResources(t *testing.T) {
	e, err := extender.New(configv1.Extender{URLPrefix: "http://127.0.0.1:1", ManagedResources: []configv1.ExtenderManagedResource{{Name: "example.com/gpu"}}})
	if err != nil {
		t.Fatal(err)
	}
	p := pod("p")
	p.Spec.Containers = []corev1.Container{{}}
	if e.Wants(p) {
		t.Error("it wants a pod that it has nothing to do with")
	}
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	if !e.Wants(p) {
		t.Error("it does not want its pod")
	}
}
