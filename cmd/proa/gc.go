package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"
)

const (
	gcLook = 500 * time.Millisecond
	// busyGC is how far the heap may grow in busy times, in percent of what
	// lives, before it is collected; a share of the machine's memory bounds that.
	usualGC, busyGC       = 100, 400
	extraShare            = 64
	leastExtra, mostExtra = 64 << 20, 512 << 20
	// Busy is a server whose heap is collected so often in one look, until it
	// is not at all for so many.
	busyCycles, calmLooks = 2, 10
)

// spareProcessor lets Go run on one processor more than there are: etcd's log
// waits in fdatasync all the time when there are writes, and of the two
// processors of a small machine one would be idle until the runtime notices,
// which was a twentieth of its creates.
func spareProcessor() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
}

// watchGC lets the heap grow further in busy times: a small one would be
// collected several times a second, which is a sixth of the work of a write. A
// server that is idle keeps to what Go does by itself, and gives the memory back.
func watchGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return // somebody knows better
	}
	read := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	percent, calm, seen := usualGC, calmLooks, uint64(0)
	extra := extraHeap()
	tick := time.NewTicker(gcLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(read)
		cycles, live := read[0].Value.Uint64(), read[1].Value.Uint64()
		switch {
		case cycles-seen >= busyCycles || cycles > seen && calm < calmLooks:
			calm = 0
		case cycles == seen:
			calm++
		}
		seen = cycles
		want := usualGC
		if calm < calmLooks {
			want = max(usualGC, min(busyGC, int(extra*100/max(live, 1))))
		}
		if want != percent {
			percent = want
			debug.SetGCPercent(percent)
		}
	}
}

// extraHeap is how many bytes the heap may grow beyond what lives.
func extraHeap() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return leastExtra
	}
	return min(max(info.Totalram*uint64(info.Unit)/extraShare, leastExtra), mostExtra)
}
