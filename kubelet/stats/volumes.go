package stats

import (
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Volumes collects the figures of volumes that claims are bound to.
func (r *Reader) Volumes() prometheus.Collector { return &claims{r} }

type claims struct{ r *Reader }

var _ prometheus.Collector = (*claims)(nil)

// Describe implements prometheus.Collector: what it collects is not checked.
func (*claims) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector. A claim that several pods use is
// told of once.
func (c *claims) Collect(out chan<- prometheus.Metric) {
	figures := []struct {
		desc *prometheus.Desc
		of   func(s *statsapi.FsStats) *uint64
	}{
		{claimDesc("capacity_bytes", "Capacity in bytes of the volume"), func(s *statsapi.FsStats) *uint64 { return s.CapacityBytes }},
		{claimDesc("available_bytes", "Number of available bytes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.AvailableBytes }},
		{claimDesc("used_bytes", "Number of used bytes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.UsedBytes }},
		{claimDesc("inodes", "Maximum number of inodes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.Inodes }},
		{claimDesc("inodes_free", "Number of free inodes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.InodesFree }},
		{claimDesc("inodes_used", "Number of used inodes in the volume"), func(s *statsapi.FsStats) *uint64 { return s.InodesUsed }},
	}
	seen := map[statsapi.PVCReference]bool{}
	for _, pod := range c.r.live() {
		ready := c.r.cfg.Volumes.Ready(pod.UID)
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			at, ok := ready[v.Name]
			if !ok || at.Path == "" || at.Device {
				continue
			}
			ref := claimOf(pod, v)
			if ref == nil || seen[*ref] {
				continue
			}
			seen[*ref] = true
			st := statFS(at.Path).stats(metav1.NewTime(c.r.cfg.Clock.Now()))
			for _, f := range figures {
				if n := f.of(st); n != nil {
					out <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, float64(*n), ref.Namespace, ref.Name)
				}
			}
		}
	}
}

func claimDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil)
}
