package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/proa-dev/proa/store"
)

// BenchmarkCreate has 32 writers, as a busy API server does.
func BenchmarkCreate(b *testing.B) {
	r := opened(b).Resource(configMaps())
	var n atomic.Int64
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			name := fmt.Sprintf("cm-%d", n.Add(1))
			if _, err := r.Create(b.Context(), "ns/"+name, configMap(name, "1"), 0); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkBurst has 500 writers at a time, as a ReplicaSet that grows: etcd's
// watch must not fall behind, which would show as 100 ms and more.
func BenchmarkBurst(b *testing.B) {
	r := opened(b).Resource(configMaps())
	for n := range b.N {
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				name := fmt.Sprintf("cm-%d-%d", n, i)
				if _, err := r.Create(b.Context(), "ns/"+name, configMap(name, "1"), 0); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// BenchmarkLatest reads one object consistently.
func BenchmarkLatest(b *testing.B) {
	r := opened(b).Resource(configMaps())
	create(b, r, "a", "1")
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if e, err := r.Latest(b.Context(), "ns/a"); err != nil || e == nil {
				b.Error(e, err)
				return
			}
		}
	})
}

// BenchmarkWatch counts events delivered to 200 watchers of one object.
func BenchmarkWatch(b *testing.B) {
	r := opened(b).Resource(configMaps())
	e := create(b, r, "a", "0")
	const watchers = 200
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var wg sync.WaitGroup
	b.ResetTimer()
	for range watchers {
		w, err := r.Watch(store.WatchOptions{Since: e.Revision, Key: "ns/a"})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			var buf []store.Event
			for seen := 0; seen < b.N; seen += len(buf) {
				if buf, err = w.Next(ctx, buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	for i := range b.N {
		e = update(b, r, e, fmt.Sprint(i+1))
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)*watchers/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkSnapshot lists 5,000 objects between writes.
func BenchmarkSnapshot(b *testing.B) {
	r := opened(b).Resource(configMaps())
	var e *store.Entry
	for i := range 5000 {
		e = create(b, r, fmt.Sprintf("cm-%04d", i), "0")
	}
	b.ResetTimer()
	for i := range b.N {
		if i%100 == 0 {
			e = update(b, r, e, fmt.Sprint(i+1))
		}
		snap, err := r.Snapshot(b.Context(), store.MatchLatest, 0)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		snap.Ascend("ns/", "", func(*store.Entry) bool { n++; return true })
		if n != 5000 {
			b.Fatal(n)
		}
	}
}
