// Package target names the release of Kubernetes whose API and behaviour Proa
// has.
package target

import "k8s.io/apimachinery/pkg/util/version"

// The release, as it is told to clients.
const (
	Major      = 1
	Minor      = 37
	GitVersion = "v1.37.2"
)

// Version is the release without its patch.
func Version() *version.Version { return version.MajorMinor(Major, Minor) }
