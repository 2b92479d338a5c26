package loop

import "github.com/prometheus/client_golang/prometheus"

// Register registers metrics of a controller; without a registry nobody asks
// for them.
func (e Env) Register(metrics ...prometheus.Collector) error {
	if e.Metrics == nil {
		return nil
	}
	for _, m := range metrics {
		if err := e.Metrics.Register(m); err != nil {
			return err
		}
	}
	return nil
}
