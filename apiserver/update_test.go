package apiserver_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestUpdateConflicts(t *testing.T) {
	f := start(t, nil)
	old := f.expect(201, "POST", deployments, deploymentNamed("d"))
	f.expect(200, "PATCH", deployments+"/d", `{"metadata":{"labels":{"x":"y"}}}`, mergePatch)
	a := f.expect(409, "PUT", deployments+"/d", old.body)
	want := `Operation cannot be fulfilled on deployments.apps "d": the object has been modified; please apply your changes to the latest version and try again`
	if a.text("message") != want || a.text("reason") != "Conflict" {
		t.Errorf("%s: %s", a.text("reason"), a.text("message"))
	}
	a = f.expect(409, "PUT", deployments+"/d", strings.Replace(deploymentNamed("d"), `"name":"d"`, `"name":"d","uid":"other"`, 1))
	if !strings.Contains(a.text("message"), "Precondition failed: UID in precondition: other, UID in object meta: "+old.text("metadata.uid")) {
		t.Error(a.text("message"))
	}
	f.expect(404, "PUT", deployments+"/none", deploymentNamed("none"))
	f.expect(400, "PUT", deployments+"/d", deploymentNamed("e"))
	a = f.expect(409, "PATCH", deployments+"/d", `{"metadata":{"resourceVersion":"1","labels":{"x":"z"}}}`, mergePatch)
	if a.text("message") != want {
		t.Error(a.text("message"))
	}
}

func TestUpdateKeepsWhatIsNotTheClients(t *testing.T) {
	f := start(t, nil)
	old := f.expect(201, "POST", deployments, deploymentNamed("d"))
	body := strings.Replace(deploymentNamed("d"), `"spec":{"replicas":2`, `"status":{"replicas":9},"spec":{"replicas":3`, 1)
	body = strings.Replace(body, `"name":"d"`, `"name":"d","creationTimestamp":"2001-01-01T00:00:00Z","generation":77`, 1)
	a := f.expect(200, "PUT", deployments+"/d", body)
	for _, path := range []string{"metadata.uid", "metadata.creationTimestamp"} {
		if a.text(path) != old.text(path) {
			t.Errorf("%s changed from %s to %s", path, old.text(path), a.text(path))
		}
	}
	if got := a.at("metadata.generation"); got != 2.0 {
		t.Errorf("generation %v", got)
	}
	if got := a.at("status.replicas"); got != nil {
		t.Errorf("status.replicas %v", got)
	}
	a = f.expect(200, "PATCH", deployments+"/d/status", `{"spec":{"replicas":8},"status":{"replicas":3}}`, mergePatch)
	if a.at("spec.replicas") != 3.0 || a.at("status.replicas") != 3.0 || a.at("metadata.generation") != 2.0 {
		t.Errorf("after a status patch: spec %v, status %v, generation %v", a.at("spec.replicas"), a.at("status.replicas"), a.at("metadata.generation"))
	}
}

// An update that changes nothing is no write: watchers and the version rest.
func TestUpdateOfNothing(t *testing.T) {
	f := start(t, nil)
	old := f.expect(201, "POST", deployments, deploymentNamed("d"))
	for _, a := range []*answer{
		f.expect(200, "PUT", deployments+"/d", old.body),
		f.expect(200, "PATCH", deployments+"/d", `{"spec":{"replicas":2}}`, mergePatch),
	} {
		if got := a.text("metadata.resourceVersion"); got != old.text("metadata.resourceVersion") {
			t.Errorf("version went from %s to %s", old.text("metadata.resourceVersion"), got)
		}
	}
}

// Patches without a version never lose to one another.
func TestConcurrentPatches(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", configMaps, `{"metadata":{"name":"c"}}`)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := f.CoreV1().ConfigMaps("default").Patch(t.Context(), "c", types.MergePatchType, fmt.Appendf(nil, `{"data":{"k%d":"v"}}`, i), metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, err := f.CoreV1().ConfigMaps("default").Get(t.Context(), "c", metav1.GetOptions{})
	if err != nil || len(c.Data) != 20 {
		t.Errorf("%d keys, %v", len(c.Data), err)
	}
}

// Of concurrent updates from one version exactly one wins.
func TestConcurrentUpdates(t *testing.T) {
	f := start(t, nil)
	c, err := f.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	won := make(chan int, 20)
	for i := range 20 {
		wg.Go(func() {
			mine := c.DeepCopy()
			mine.Data = map[string]string{"by": fmt.Sprint(i)}
			switch _, err := f.CoreV1().ConfigMaps("default").Update(t.Context(), mine, metav1.UpdateOptions{}); {
			case err == nil:
				won <- i
			case !apierrors.IsConflict(err):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d updates won", len(won))
	}
}
