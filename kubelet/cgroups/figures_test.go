package cgroups

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// tree writes the files of a group as a kernel shows them.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFigures(t *testing.T) {
	unified := tree(t, map[string]string{
		"g/cpu.stat":       "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 7\nnr_throttled 2\nthrottled_usec 5",
		"g/cpu.max":        "20000 100000",
		"g/cpu.weight":     "100",
		"g/memory.current": "5000", "g/memory.peak": "6000", "g/memory.swap.current": "11", "g/memory.max": "8192", "g/memory.swap.max": "max",
		"g/memory.stat":   "anon 1000\nfile 3000\nkernel 40\nfile_mapped 50\ninactive_file 2000\nactive_file 900\npgfault 12\npgmajfault 3",
		"g/memory.events": "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2",
		"g/pids.current":  "3", "g/pids.max": "100", "g/cgroup.procs": "1\n2", "g/inner/cgroup.procs": "3",
		"g/io.stat":         "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0",
		"g/memory.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5",
	})
	legacy := tree(t, map[string]string{
		"cpuacct/g/cpuacct.usage": "3000000", "cpuacct/g/cpuacct.usage_user": "2000000", "cpuacct/g/cpuacct.usage_sys": "1000000",
		"cpu/g/cpu.stat": "nr_periods 7\nnr_throttled 2\nthrottled_time 5000", "cpu/g/cpu.shares": "2597", "cpu/g/cpu.cfs_period_us": "100000", "cpu/g/cpu.cfs_quota_us": "20000",
		"memory/g/memory.usage_in_bytes": "5000", "memory/g/memory.max_usage_in_bytes": "6000", "memory/g/memory.limit_in_bytes": "8192",
		"memory/g/memory.soft_limit_in_bytes": "9223372036854771712", "memory/g/memory.failcnt": "4", "memory/g/memory.kmem.usage_in_bytes": "40",
		"memory/g/memory.stat": "rss 1\ntotal_rss 1000\ntotal_cache 3000\ntotal_swap 11\ntotal_mapped_file 50\ntotal_inactive_file 2000\ntotal_active_file 900\n" +
			"total_pgfault 12\ntotal_pgmajfault 3",
		"memory/g/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2", "memory/g/cgroup.procs": "1\n2", "memory/g/inner/cgroup.procs": "3",
		"pids/g/pids.current": "3", "pids/g/pids.max": "100",
		"blkio/g/blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3",
		"blkio/g/blkio.throttle.io_serviced_recursive":      "8:0 Read 3\n8:0 Write 4\nTotal 7",
	})
	var hybrid []hierarchy
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
		hybrid = append(hybrid, hierarchy{mount: filepath.Join(legacy, c), controllers: []string{c}})
	}
	want := Figures{
		Usage:        Usage{CPUNanos: 3000000, Memory: 5000, WorkingSet: 3000, RSS: 1000, Swap: 11, Processes: 3, Threads: 3},
		CPUUserNanos: 2000000, CPUSystemNanos: 1000000, Periods: 7, ThrottledPeriods: 2, ThrottledNanos: 5000,
		Cache: 3000, Mapped: 50, Kernel: 40, MaxMemory: 6000, ActiveFile: 900, InactiveFile: 2000, PageFaults: 12, MajorPageFaults: 3,
		LimitHits: 4, OOMKills: 2, CPUShares: 2597, CPUPeriod: 100000, CPUQuota: 20000, MemoryLimit: 8192, ThreadsMax: 100,
	}
	for name, m := range map[string]*Manager{
		"unified": {v2: true, hierarchies: []hierarchy{{mount: unified, v2: true}}},
		// As with systemd's, the v2 tree beside v1 has no controllers.
		"hybrid": {hierarchies: append([]hierarchy{{mount: t.TempDir(), v2: true}}, hybrid...)},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := m.Figures("/g")
			if !ok {
				t.Fatal("no group")
			}
			if len(got.Disks) != 1 || got.Disks[0].ReadBytes != 1 || got.Disks[0].WriteBytes != 2 || got.Disks[0].Reads != 3 || got.Disks[0].Writes != 4 || got.Disks[0].Major != 8 {
				t.Errorf("disks %+v", got.Disks)
			}
			if m.v2 && (got.MemoryPressure == nil || got.MemoryPressure.Some != (Stall{TotalMicros: 77, Avg10: 1.5}) || got.MemoryPressure.Full.TotalMicros != 5 || got.CPUPressure != nil) {
				t.Errorf("pressure %+v, %+v", got.MemoryPressure, got.CPUPressure)
			}
			got.Disks, got.MemoryPressure = nil, nil
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v\nwant %+v", got, want)
			}
			if _, ok := m.Figures("/gone"); ok {
				t.Error("a group that is gone has figures")
			}
			if pids := m.PIDs("/g"); len(pids) != 2 {
				t.Errorf("processes %q", pids)
			}
		})
	}
}
