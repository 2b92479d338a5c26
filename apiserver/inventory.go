package apiserver

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// inventory tells of what is stored and under way, when somebody asks.
type inventory struct {
	s *Server

	objects, legacy, size, inflight *prometheus.Desc
}

var _ prometheus.Collector = (*inventory)(nil)

func newInventory(s *Server) *inventory {
	return &inventory{s: s,
		objects: prometheus.NewDesc("apiserver_resource_objects",
			"Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.", []string{"group", "resource"}, nil),
		legacy: prometheus.NewDesc("apiserver_storage_objects",
			"[DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
			[]string{"resource"}, nil),
		size: prometheus.NewDesc("apiserver_storage_size_bytes", "Size of the storage database file physically allocated in bytes.", []string{"storage_cluster_id"}, nil),
		inflight: prometheus.NewDesc("apiserver_current_inflight_requests",
			"Maximal number of currently used inflight request limit of this apiserver per request kind in last second.", []string{"request_kind"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (i *inventory) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{i.objects, i.legacy, i.size, i.inflight} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (i *inventory) Collect(out chan<- prometheus.Metric) {
	tell := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, k := range i.s.kinds.Set().All {
		if k.Virtual || k.Storage != nil {
			continue
		}
		n := -1 // it is still being read
		if snapshot := i.s.cfg.Store.Current(k.GR()); snapshot != nil {
			n = snapshot.Len()
		}
		tell(i.objects, float64(n), k.GR().Group, k.GR().Resource)
		tell(i.legacy, float64(n), k.GR().String())
	}
	if id, size, ok := i.s.cfg.Store.Size(); ok {
		tell(i.size, float64(size), strconv.FormatUint(id, 10))
	}
	tell(i.inflight, float64(i.s.reads.peak()), "readOnly")
	tell(i.inflight, float64(i.s.writes.peak()), "mutating")
}
