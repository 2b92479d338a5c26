package core_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/proa-dev/proa/scheduler/core"
)

// After any history a snapshot answers like one that is told the outcome
// alone: nothing that is kept incrementally goes astray.
func TestIncrementalEqualsFresh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := core.NewSnapshot(1)
		nodes := map[string]*corev1.Node{}
		type place struct {
			pod  *core.Pod
			node string
		}
		pods := map[string]place{}
		names := []string{"a", "b", "c", "d"}
		serial := 0
		draw := func() *core.Pod {
			serial++
			app := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app")
			options := []podOption{hasLabels("app", app), requests("cpu", rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "cpu"))}
			switch rapid.IntRange(0, 6).Draw(t, "kind") {
			case 0:
				options = append(options, apart("x", "zone"))
			case 1:
				options = append(options, near("x", "zone"))
			case 2:
				options = append(options, spread(1, "zone", "x", corev1.DoNotSchedule))
			case 3:
				options = append(options, hostPort("", "", 80))
			case 4:
				options = append(options, prefers("zone", "1"))
			}
			return pod(fmt.Sprintf("p%d", serial), options...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"node": func(t *rapid.T) {
				name := rapid.SampledFrom(names).Draw(t, "name")
				n := node(name, rapid.SampledFrom([]string{"2", "4"}).Draw(t, "size"), "8Gi")
				if zone := rapid.IntRange(0, 2).Draw(t, "zone"); zone > 0 {
					n.Labels["zone"] = fmt.Sprint(zone)
				}
				n.Spec.Unschedulable = rapid.Bool().Draw(t, "cordoned")
				nodes[name] = n
				s.SetNode(n)
			},
			"node gone": func(t *rapid.T) {
				name := rapid.SampledFrom(names).Draw(t, "name")
				delete(nodes, name)
				s.RemoveNode(name)
			},
			"pod": func(t *rapid.T) {
				p := draw()
				if name, why := s.Schedule(p); why == nil {
					s.PutPod(p, name)
					pods[p.Object.Name] = place{p, name}
				}
			},
			"pod somewhere": func(t *rapid.T) { // as events may come in any order
				p, name := draw(), rapid.SampledFrom(names).Draw(t, "name")
				s.PutPod(p, name)
				pods[p.Object.Name] = place{p, name}
			},
			"pod gone": func(t *rapid.T) {
				for name, at := range pods {
					s.RemovePod(at.pod.UID())
					delete(pods, name)
					break
				}
			},
			"preempt": func(t *rapid.T) {
				p := pod("preemptor", prio(9), requests("cpu", "2"))
				if _, why := s.Schedule(p); why != nil && s.Nodes() > 0 {
					s.Preempt(p, why, nil)
				}
			},
			"": func(t *rapid.T) {
				fresh := core.NewSnapshot(2)
				for _, n := range nodes {
					fresh.SetNode(n)
				}
				for _, at := range pods {
					fresh.PutPod(at.pod, at.node)
				}
				for range 3 {
					p := draw()
					got, why := s.Schedule(p)
					_, want := fresh.Schedule(p)
					switch {
					case (why == nil) != (want == nil):
						t.Fatalf("got %v, a fresh snapshot says %v", why, want)
					case why != nil && why.Message() != want.Message():
						t.Fatalf("got %s\nwant %s", why.Message(), want.Message())
					case why == nil && !fresh.FitsNow(p, got):
						t.Fatalf("%s does not fit", got)
					}
				}
			},
		})
	})
}

func BenchmarkDecision(b *testing.B) {
	for _, n := range []int{100, 500, 1000, 5000} {
		setup := func() *core.Snapshot {
			s := core.NewSnapshot(1)
			for i := range n {
				s.SetNode(node(fmt.Sprintf("node-%d", i), "100000", "100000Gi", offers("pods", "1000000000")))
			}
			return s
		}
		run := func(b *testing.B, make func(i int) *core.Pod) {
			s := setup()
			s.SetService("ns", "w", map[string]string{"app": "w"})
			pods := []*core.Pod{}
			for i := range 1000 {
				pods = append(pods, make(i))
			}
			i := 0
			for b.Loop() {
				p := pods[i%len(pods)]
				i++
				s.RemovePod(p.UID())
				name, why := s.Schedule(p)
				if why != nil {
					b.Fatal(why.Message())
				}
				s.PutPod(p, name)
			}
		}
		b.Run(fmt.Sprintf("class/%d", n), func(b *testing.B) {
			run(b, func(i int) *core.Pod { return pod(fmt.Sprint(i), requests("cpu", "100m")) })
		})
		b.Run(fmt.Sprintf("distinct/%d", n), func(b *testing.B) {
			run(b, func(i int) *core.Pod { return pod(fmt.Sprint(i), requests("cpu", fmt.Sprintf("%dm", 100+i))) })
		})
		b.Run(fmt.Sprintf("spread/%d", n), func(b *testing.B) {
			run(b, func(i int) *core.Pod {
				return pod(fmt.Sprint(i), hasLabels("app", "w"), spread(1, "kubernetes.io/hostname", "w", corev1.DoNotSchedule))
			})
		})
		b.Run(fmt.Sprintf("siblings/%d", n), func(b *testing.B) {
			run(b, func(i int) *core.Pod { return pod(fmt.Sprint(i), hasLabels("app", "w")) })
		})
		b.Run(fmt.Sprintf("pinned/%d", n), func(b *testing.B) {
			run(b, func(i int) *core.Pod { return pod(fmt.Sprint(i), requires(named(fmt.Sprintf("node-%d", i%n)))) })
		})
	}
}
