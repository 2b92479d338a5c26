package fault

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A server that is killed in the middle of a thousand creates, ten times
// over, has every object that it acknowledged.
func TestKillLosesNoAcknowledgedWrite(t *testing.T) {
	const objects, rounds, writers = 1000, 10, 8
	n := newNode(t)
	var known []string // over all rounds
	for round := range rounds {
		if err := n.Start(t.Context(), "--disable-agent"); err != nil {
			t.Fatal(err)
		}
		client, err := n.Client()
		if err != nil {
			t.Fatal(err)
		}
		checkAll(t, n, known)
		killAt := int64((2*round + 1) * objects / (2 * rounds))
		var next, acknowledged atomic.Int64
		var mu sync.Mutex
		var wg sync.WaitGroup
		now := make(chan struct{})
		for range writers {
			wg.Go(func() {
				for {
					i := next.Add(1)
					if i > objects {
						return
					}
					name := fmt.Sprintf("round-%d-%d", round, i)
					_, err := client.CoreV1().ConfigMaps("default").Create(t.Context(),
						&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"round": fmt.Sprint(round)}}, metav1.CreateOptions{})
					if err != nil {
						return // the server is dead
					}
					mu.Lock()
					known = append(known, name)
					mu.Unlock()
					if acknowledged.Add(1) == killAt {
						close(now)
					}
				}
			})
		}
		select {
		case <-now:
		case <-t.Context().Done():
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		t.Logf("round %d: killed at %d, %d acknowledged", round, killAt, acknowledged.Load())
	}
	if err := n.Start(t.Context(), "--disable-agent"); err != nil {
		t.Fatal(err)
	}
	checkAll(t, n, known)
}

// checkAll looks for each object that a server acknowledged.
func checkAll(t *testing.T, n *node, known []string) {
	t.Helper()
	client, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, c := range list.Items {
		there[c.Name] = true
	}
	lost := 0
	for _, name := range known {
		if !there[name] {
			lost++
		}
	}
	if lost > 0 {
		t.Fatalf("%d of %d acknowledged objects are lost", lost, len(known))
	}
}
