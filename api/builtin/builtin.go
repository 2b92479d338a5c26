// Package builtin lists every kind that Proa serves by itself, and the scheme
// of their Go types.
package builtin

import (
	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/admissionregistration"
	"github.com/proa-dev/proa/api/apiextensions"
	"github.com/proa-dev/proa/api/apiregistration"
	"github.com/proa-dev/proa/api/apps"
	"github.com/proa-dev/proa/api/auth"
	"github.com/proa-dev/proa/api/autoscaling"
	"github.com/proa-dev/proa/api/batch"
	"github.com/proa-dev/proa/api/certificates"
	"github.com/proa-dev/proa/api/coordination"
	"github.com/proa-dev/proa/api/core"
	"github.com/proa-dev/proa/api/discovery"
	"github.com/proa-dev/proa/api/events"
	"github.com/proa-dev/proa/api/flowcontrol"
	"github.com/proa-dev/proa/api/metrics"
	"github.com/proa-dev/proa/api/networking"
	"github.com/proa-dev/proa/api/node"
	"github.com/proa-dev/proa/api/policy"
	"github.com/proa-dev/proa/api/rbac"
	"github.com/proa-dev/proa/api/resource"
	"github.com/proa-dev/proa/api/scheduling"
	"github.com/proa-dev/proa/api/storage"
	"github.com/proa-dev/proa/api/storagemigration"
)

// Kinds returns the rows of the table of kinds, made anew at each call: a
// caller may change its own.
func Kinds() []*api.Kind {
	var kinds []*api.Kind
	for _, group := range [][]*api.Kind{
		core.Kinds(),
		admissionregistration.Kinds(),
		apiextensions.Kinds(),
		apiregistration.Kinds(),
		apps.Kinds(),
		auth.Kinds(),
		autoscaling.Kinds(),
		batch.Kinds(),
		certificates.Kinds(),
		coordination.Kinds(),
		discovery.Kinds(),
		events.Kinds(),
		flowcontrol.Kinds(),
		networking.Kinds(),
		node.Kinds(),
		policy.Kinds(),
		rbac.Kinds(),
		resource.Kinds(),
		scheduling.Kinds(),
		storagemigration.Kinds(),
		metrics.Kinds(), // last: its pods and nodes are not what a bare name means
		storage.Kinds(),
	} {
		kinds = append(kinds, group...)
	}
	return kinds
}
