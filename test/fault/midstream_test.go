package fault

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A server that is killed at random in the middle of rollouts, scaling, Jobs
// and evictions breaks none of their promises: nobody who watches sees one
// broken, and what ran on the node says the same.
func TestKilledInMidstream(t *testing.T) {
	const kills = 4
	n := newNode(t)
	n.start()
	n.importBusybox()
	evidence := filepath.Join(n.Dir, "evidence")
	if err := os.Mkdir(evidence, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg, err := n.REST()
	if err != nil {
		t.Fatal(err)
	}
	stop := watchPods(t, n.client, rules())
	s := newStage(t, cfg, `
      restartPolicy: Never
      containers: [{name: c, image: `+busybox+`, command: [sh, -c, "echo $(hostname) $POD >> /evidence/log; sleep 0.3"], env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}], volumeMounts: [{name: evidence, mountPath: /evidence}]}]
      volumes: [{name: evidence, hostPath: {path: `+evidence+`}}]`)
	endEvictions := s.evict()
	for range kills {
		s.next()
		time.Sleep(rand.N(1500 * time.Millisecond)) // the moment is what the test is about
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		n.start()
	}
	endEvictions()
	var wrong error
	if err := n.Until(t.Context(), time.Minute, func() bool {
		wrong = s.settled(1)
		return wrong == nil
	}); err != nil {
		t.Fatalf("%v: %v", err, wrong)
	}
	events, relists := stop()
	t.Logf("%d events, %d lists, %d evictions", events, relists, s.evicted.Load())
	if s.evicted.Load() == 0 {
		t.Error("nothing was evicted")
	}
	log, err := os.ReadFile(filepath.Join(evidence, "log"))
	if err != nil {
		t.Fatal(err)
	}
	// A crash in the moment in which a container starts may make the kubelet
	// start it once more, as upstream's does, but in the same pod; or its exit
	// code is lost, and the pod has failed: a Job makes another one of those.
	ran := strings.Split(strings.TrimSpace(string(log)), "\n")
	slices.Sort(ran)
	failed := s.failed()
	ran = slices.DeleteFunc(ran, func(line string) bool { return failed[strings.Fields(line)[1]] })
	if ran = slices.Compact(ran); len(ran) != kills*indexes {
		t.Errorf("%d pods ran for %d indexes:\n%s", len(ran), kills*indexes, strings.Join(ran, "\n"))
	}
}
