package ttlafterfinished_test

import (
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/ttlafterfinished"
)

func job(name string, ttl *int32, end batchv1.JobConditionType) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl}}
	if end != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	}
	return j
}

func TestDeletesWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t,
			job("now", ptr.To[int32](0), batchv1.JobFailed), job("soon", ptr.To[int32](100), batchv1.JobComplete), job("extended", ptr.To[int32](100), batchv1.JobComplete),
			job("never", nil, batchv1.JobComplete), job("runs", ptr.To[int32](0), ""))
		l, err := ttlafterfinished.New(c.Env(nil))
		c.Do(err)
		c.Run(l)
		time.Sleep(time.Second) // its cache is polled for being ready
		left := func() (out []string) {
			synctest.Wait()
			var list batchv1.JobList
			c.Do(c.API.List(t.Context(), &list))
			for _, j := range list.Items {
				out = append(out, j.Name)
			}
			return out
		}
		if got := left(); len(got) != 4 {
			t.Errorf("left are %v", got)
		}
		time.Sleep(98 * time.Second)
		if got := left(); len(got) != 4 {
			t.Errorf("left are %v", got)
		}
		j := &batchv1.Job{}
		c.Get(j, "ns", "extended")
		j.Spec.TTLSecondsAfterFinished = ptr.To[int32](200)
		c.Do(c.API.Update(t.Context(), j))
		time.Sleep(2 * time.Second)
		if got := left(); len(got) != 3 {
			t.Errorf("left are %v", got)
		}
		time.Sleep(100 * time.Second)
		if got := left(); len(got) != 2 {
			t.Errorf("left are %v", got)
		}
	})
}
