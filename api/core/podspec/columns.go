package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/api"
)

// Columns are the wide columns that every kind with a pod template has; of
// returns the template, nil for none.
func Columns[P api.Object](of func(P) *corev1.PodTemplateSpec) []api.Column {
	list := func(pick func(c *corev1.Container) string) func(P) any {
		return func(o P) any {
			t := of(o)
			if t == nil {
				return ""
			}
			var out []string
			for i := range t.Spec.Containers {
				out = append(out, pick(&t.Spec.Containers[i]))
			}
			return strings.Join(out, ",")
		}
	}
	return []api.Column{
		api.WideCol("Containers", "string", "Names of each container in the template.",
			list(func(c *corev1.Container) string { return c.Name })),
		api.WideCol("Images", "string", "Images referenced by each container in the template.",
			list(func(c *corev1.Container) string { return c.Image })),
	}
}
