package config_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/scheduler/config"
	"github.com/proa-dev/proa/scheduler/core"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func TestDefaults(t *testing.T) {
	c, err := config.Parse([]byte(head))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Profiles) != 1 || c.Profiles[0].Name != "default-scheduler" || c.InitialBackoff != time.Second || c.MaxBackoff != 10*time.Second {
		t.Errorf("got %+v", c)
	}
	p, want := c.Profiles[0], core.DefaultProfile()
	if p.Filters != want.Filters || p.Weights != want.Weights || !p.Preempts || !p.Gates || !p.SystemSpread || len(p.Spread) != 2 {
		t.Errorf("got %+v", p)
	}
}

func TestProfiles(t *testing.T) {
	c, err := config.Parse([]byte(head + `
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 30
percentageOfNodesToScore: 40
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  percentageOfNodesToScore: 70
  plugins:
    multiPoint:
      disabled: [{name: VolumeZone}, {name: DefaultPreemption}]
    score:
      disabled: [{name: "*"}]
      enabled: [{name: NodeResourcesFit, weight: 5}]
    filter:
      disabled: [{name: InterPodAffinity}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      ignoredResources: [example.com/a]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: example.com/gpu}]
        requestedToCapacityRatio:
          shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 7, ignorePreferredTermsOfExistingPods: true}
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchExpressions: [{key: team, operator: In, values: [x]}]}]
  - name: VolumeBinding
    args: {bindTimeoutSeconds: 5}
  - name: DynamicResources
    args: {filterTimeout: 3s, bindingTimeout: 2m}
extenders:
- urlPrefix: http://127.0.0.1:1/
  filterVerb: filter
  managedResources: [{name: example.com/b, ignoredByScheduler: true}]
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.InitialBackoff != 2*time.Second || c.MaxBackoff != 30*time.Second || len(c.Extenders) != 1 || len(c.Profiles) != 2 {
		t.Fatalf("got %+v", c)
	}
	if c.Profiles[0].Percentage != 40 || !c.Profiles[0].Fit.Ignored["example.com/b"] {
		t.Errorf("default profile: %+v", c.Profiles[0])
	}
	p := c.Profiles[1]
	if want := core.AllFilters.Without(core.VolumeZone).Without(core.InterPodAffinity); p.Filters != want {
		t.Errorf("filters %b, want %b", p.Filters, want)
	}
	if want := (core.Weights{Fit: 5}); p.Weights != want {
		t.Errorf("weights %+v, want %+v", p.Weights, want)
	}
	if p.Name != "packer" || p.Percentage != 70 || p.Preempts || p.SystemSpread || len(p.Spread) != 1 || p.Enforced == nil ||
		p.RequiredAffinityWeight != 7 || !p.IgnoreOthersPreferences || p.BindTimeout != 5*time.Second ||
		p.FilterTimeout != 3*time.Second || p.BindingTimeout != 2*time.Minute {
		t.Errorf("got %+v", p)
	}
	f := p.Fit
	if f.Strategy != core.RequestedToCapacityRatio || !f.Ignored["example.com/a"] || !f.Ignored["example.com/b"] || len(f.Shape) != 2 || f.Shape[1] != (core.Point{Use: 100, Score: 100}) ||
		len(f.Resources) != 2 || f.Resources[0] != (core.WeightedResource{Name: corev1.ResourceCPU, Weight: 3}) || f.Resources[1].Weight != 1 {
		t.Errorf("fit %+v", f)
	}
}

func TestInvalid(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"other kind", "apiVersion: v1\nkind: Pod\n", `no kind "Pod" is registered`},
		{"old version", "apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n", "no kind"},
		{"unknown field", head + "profile: []\n", `unknown field "profile"`},
		{"unknown argument", head + "profiles: [{pluginConfig: [{name: VolumeBinding, args: {timeout: 3}}]}]\n", `unknown field "timeout"`},
		{"unknown plugin", head + "profiles: [{plugins: {filter: {enabled: [{name: Mine}]}}}]\n", `plugin "Mine" does not exist`},
		{"two of a name", head + "profiles: [{schedulerName: a}, {schedulerName: a}]\n", `profiles[1].schedulerName: Duplicate value: "profiles[0].schedulerName"`},
		{"no name", head + "profiles: [{schedulerName: a}, {}]\n", "profiles[1].schedulerName: Required value"},
		{"parallelism", head + "parallelism: 0\n", "parallelism: Invalid value: 0: should be an integer value greater than zero"},
		{"backoff", head + "podInitialBackoffSeconds: 20\n", "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds"},
		{"percentage", head + "percentageOfNodesToScore: 101\n", "not in valid range [0-100]"},
		{"no binder", head + `profiles: [{plugins: {bind: {disabled: [{name: "*"}]}}}]` + "\n", `at least one bind plugin is needed for profile with scheduler name "default-scheduler"`},
		{"two binders", head + "extenders: [{urlPrefix: one, bindVerb: b}, {urlPrefix: two, bindVerb: b}]\n", "found 2 extenders implementing bind"},
		{"weight of extender", head + "extenders: [{urlPrefix: x, prioritizeVerb: p}]\n", "extenders[0].weight: Invalid value: 0: must have a positive weight applied to it"},
		{"strategy", head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Best}}}]}]\n", `Unsupported value: "Best"`},
		{"shape", head + "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]\n", "must be specified when type is RequestedToCapacityRatio"},
		{"candidates", head + "profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}}]}]\n", "cannot be zero at the same time as minCandidateNodesAbsolute"},
		{"devices", head + "profiles: [{pluginConfig: [{name: DynamicResources, args: {bindingTimeout: 10ms}}]}]\n", "bindingTimeout: Invalid value: \"10ms\": must be at least 1 second"},
		{"constraint", head + "profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 0, topologyKey: a, whenUnsatisfiable: DoNotSchedule}]}}]}]\n",
			"defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := config.Parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
		})
	}
}
