// Package config reads a KubeSchedulerConfiguration: upstream's file, with
// upstream's defaults, checks and words. What concerns a process of its own
// (leader election, client connection, debugging) is read and has no effect:
// the scheduler is part of the server.
package config

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/scheduler/core"
)

// maxFile bounds what is read.
const maxFile = 4 << 20

// Config is what a configuration says.
type Config struct {
	Profiles                   []*core.Profile
	Extenders                  []configv1.Extender
	InitialBackoff, MaxBackoff time.Duration
}

// Load reads a file.
func Load(path string) (*Config, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("scheduler configuration %s: larger than %d bytes", path, maxFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration: %w", err)
	}
	c, err := Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse reads a configuration in YAML or JSON. Unknown fields are errors.
func Parse(raw []byte) (*Config, error) {
	scheme := runtime.NewScheme()
	if err := configv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	obj, _, err := decoder.Decode(raw, nil, nil)
	if err != nil {
		return nil, err
	}
	in, ok := obj.(*configv1.KubeSchedulerConfiguration)
	if !ok {
		return nil, fmt.Errorf("couldn't decode as KubeSchedulerConfiguration, got %T", obj)
	}
	if err := in.DecodeNestedObjects(decoder); err != nil {
		return nil, err
	}
	return compile(in)
}

func compile(in *configv1.KubeSchedulerConfiguration) (*Config, error) {
	if len(in.Profiles) == 0 {
		in.Profiles = []configv1.KubeSchedulerProfile{{}}
	}
	if len(in.Profiles) == 1 && in.Profiles[0].SchedulerName == nil {
		in.Profiles[0].SchedulerName = ptr.To(corev1.DefaultSchedulerName)
	}
	c := &Config{
		Extenders:      in.Extenders,
		InitialBackoff: time.Duration(ptr.Deref(in.PodInitialBackoffSeconds, 1)) * time.Second,
		MaxBackoff:     time.Duration(ptr.Deref(in.PodMaxBackoffSeconds, 10)) * time.Second,
	}
	errs := checkGeneral(in)
	errs = append(errs, checkExtenders(field.NewPath("extenders"), in.Extenders)...)
	names := map[string]int{}
	for i := range in.Profiles {
		p, path := &in.Profiles[i], field.NewPath("profiles").Index(i)
		name := ptr.Deref(p.SchedulerName, "")
		if name == "" {
			errs = append(errs, field.Required(path.Child("schedulerName"), ""))
		} else if first, taken := names[name]; taken {
			errs = append(errs, field.Duplicate(path.Child("schedulerName"), field.NewPath("profiles").Index(first).Child("schedulerName").String()))
		}
		names[name] = i
		profile, wrong := compileProfile(path, p)
		errs = append(errs, wrong...)
		profile.Name = name
		if p.PercentageOfNodesToScore == nil {
			profile.Percentage = int(ptr.Deref(in.PercentageOfNodesToScore, 0))
		}
		ignoreManaged(profile, in.Extenders)
		c.Profiles = append(c.Profiles, profile)
	}
	if err := errs.ToAggregate(); err != nil {
		return nil, err
	}
	return c, nil
}

func checkGeneral(in *configv1.KubeSchedulerConfiguration) (errs field.ErrorList) {
	if n := ptr.Deref(in.Parallelism, 16); n <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("parallelism"), n, "should be an integer value greater than zero"))
	}
	errs = append(errs, checkPercentage(field.NewPath("percentageOfNodesToScore"), in.PercentageOfNodesToScore)...)
	initial, longest := ptr.Deref(in.PodInitialBackoffSeconds, 1), ptr.Deref(in.PodMaxBackoffSeconds, 10)
	if initial <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), initial, "must be greater than 0"))
	}
	if longest < initial {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), longest, "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	return errs
}

func checkPercentage(path *field.Path, n *int32) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(path, *n, "not in valid range [0-100]")}
	}
	return nil
}

// ignoreManaged leaves to extenders what they account for.
func ignoreManaged(p *core.Profile, extenders []configv1.Extender) {
	for i := range extenders {
		for _, r := range extenders[i].ManagedResources {
			if r.IgnoredByScheduler {
				p.Fit.Ignored[r.Name] = true
			}
		}
	}
}

func compileProfile(path *field.Path, in *configv1.KubeSchedulerProfile) (*core.Profile, field.ErrorList) {
	p := core.DefaultProfile()
	p.Percentage = int(ptr.Deref(in.PercentageOfNodesToScore, 0))
	p.Fit.Ignored, p.Fit.IgnoredGroups = map[string]bool{}, map[string]bool{}
	errs := checkPercentage(path.Child("percentageOfNodesToScore"), in.PercentageOfNodesToScore)
	set := newPlugins(in.Plugins)
	errs = append(errs, set.check(path.Child("plugins"), ptr.Deref(in.SchedulerName, ""))...)
	set.apply(p)
	seen := map[string]bool{}
	for i := range in.PluginConfig {
		at, c := path.Child("pluginConfig").Index(i), &in.PluginConfig[i]
		if seen[c.Name] {
			errs = append(errs, field.Duplicate(at, c.Name))
		}
		seen[c.Name] = true
		errs = append(errs, applyArgs(p, at.Child("args"), c.Args.Object)...)
	}
	return p, errs
}

// plugins is a profile's plugins by extension point.
type plugins struct {
	multi  configv1.PluginSet
	points map[string]configv1.PluginSet
}

func newPlugins(in *configv1.Plugins) *plugins {
	if in == nil {
		in = &configv1.Plugins{}
	}
	return &plugins{multi: in.MultiPoint, points: map[string]configv1.PluginSet{
		"preEnqueue": in.PreEnqueue, "queueSort": in.QueueSort, "preFilter": in.PreFilter, "filter": in.Filter,
		"postFilter": in.PostFilter, "preScore": in.PreScore, "score": in.Score, "reserve": in.Reserve,
		"permit": in.Permit, "preBind": in.PreBind, "bind": in.Bind, "postBind": in.PostBind,
	}}
}

// plugin is one that there is.
type plugin struct {
	name   string
	points []string
	filter core.Filter
	weight func(*core.Weights) *int64
}

// known lists the plugins, in upstream's order.
func known() []plugin {
	filter := []string{"filter"}
	both := []string{"filter", "score"}
	score := []string{"score"}
	return []plugin{
		{name: "SchedulingGates", points: []string{"preEnqueue"}},
		{name: "PrioritySort", points: []string{"queueSort"}},
		{name: "NodeName", points: filter},
		{name: "NodeUnschedulable", points: filter, filter: core.NodeUnschedulable},
		{name: "TaintToleration", points: both, filter: core.TaintToleration, weight: func(w *core.Weights) *int64 { return &w.Taint }},
		{name: "NodeAffinity", points: both, filter: core.NodeAffinity, weight: func(w *core.Weights) *int64 { return &w.NodeAffinity }},
		{name: "NodePorts", points: filter, filter: core.NodePorts},
		{name: "NodeResourcesFit", points: both, filter: core.NodeResourcesFit, weight: func(w *core.Weights) *int64 { return &w.Fit }},
		{name: "VolumeRestrictions", points: filter, filter: core.VolumeRestrictions},
		{name: "NodeVolumeLimits", points: filter, filter: core.NodeVolumeLimits},
		{name: "VolumeBinding", points: both, filter: core.VolumeBinding, weight: func(w *core.Weights) *int64 { return &w.Volumes }},
		{name: "VolumeZone", points: filter, filter: core.VolumeZone},
		{name: "PodTopologySpread", points: both, filter: core.PodTopologySpread, weight: func(w *core.Weights) *int64 { return &w.Spread }},
		{name: "InterPodAffinity", points: both, filter: core.InterPodAffinity, weight: func(w *core.Weights) *int64 { return &w.PodAffinity }},
		{name: "DynamicResources", points: both, filter: core.DynamicResources, weight: func(w *core.Weights) *int64 { return &w.Devices }},
		{name: "DefaultPreemption", points: []string{"postFilter"}},
		{name: "NodeResourcesBalancedAllocation", points: score, weight: func(w *core.Weights) *int64 { return &w.Balanced }},
		{name: "ImageLocality", points: score, weight: func(w *core.Weights) *int64 { return &w.Image }},
		{name: "DefaultBinder", points: []string{"bind"}},
		{name: "NodeDeclaredFeatures", points: filter, filter: core.NodeDeclaredFeatures},
	}
}

func names(name string) func(configv1.Plugin) bool {
	return func(p configv1.Plugin) bool { return p.Name == name }
}

func disables(set configv1.PluginSet, name string) bool {
	return slices.ContainsFunc(set.Disabled, func(p configv1.Plugin) bool { return p.Name == name || p.Name == "*" })
}

// enabled says whether a plugin has its say at a point. What is named there
// comes before what holds for all points.
func (s *plugins) enabled(name, point string) bool {
	at := s.points[point]
	if slices.ContainsFunc(at.Enabled, names(name)) {
		return true
	}
	all := slices.ContainsFunc(s.multi.Enabled, names(name)) || !disables(s.multi, name)
	return all && !disables(at, name)
}

// weight is that of a plugin's score, or 0 for the default.
func (s *plugins) weight(name string) int64 {
	for _, set := range []configv1.PluginSet{s.points["score"], s.multi} {
		if i := slices.IndexFunc(set.Enabled, names(name)); i >= 0 {
			return int64(cmp.Or(ptr.Deref(set.Enabled[i].Weight, 0), 1))
		}
	}
	return 0
}

func (s *plugins) check(path *field.Path, profile string) (errs field.ErrorList) {
	there := map[string]bool{}
	for _, p := range known() {
		there[p.name] = true
	}
	look := func(point string, set configv1.PluginSet) {
		for i, p := range set.Enabled {
			at := path.Child(point, "enabled").Index(i)
			if !there[p.Name] {
				errs = append(errs, field.Invalid(at, p.Name, fmt.Sprintf("plugin %q does not exist", p.Name)))
			}
			if slices.ContainsFunc(set.Enabled[:i], names(p.Name)) {
				errs = append(errs, field.Duplicate(at, p.Name))
			}
			if w := ptr.Deref(p.Weight, 0); w < 0 {
				errs = append(errs, field.Invalid(at.Child("weight"), w, "must not be negative"))
			}
		}
	}
	look("multiPoint", s.multi)
	for _, point := range []string{"preEnqueue", "queueSort", "preFilter", "filter", "postFilter", "preScore", "score", "reserve", "permit", "preBind", "bind", "postBind"} {
		look(point, s.points[point])
	}
	if !s.enabled("PrioritySort", "queueSort") {
		errs = append(errs, field.Invalid(path.Child("queueSort"), "", fmt.Sprintf("only one queue sort plugin required for profile with scheduler name %q, but got 0", profile)))
	}
	if !s.enabled("DefaultBinder", "bind") {
		errs = append(errs, field.Invalid(path.Child("bind"), "", fmt.Sprintf("at least one bind plugin is needed for profile with scheduler name %q", profile)))
	}
	return errs
}

func (s *plugins) apply(p *core.Profile) {
	for _, known := range known() {
		if known.filter != core.Fits && !s.enabled(known.name, "filter") {
			p.Filters = p.Filters.Without(known.filter)
		}
		if known.weight == nil {
			continue
		}
		w := known.weight(&p.Weights)
		if !s.enabled(known.name, "score") {
			*w = 0
		} else if set := s.weight(known.name); set != 0 {
			*w = set
		}
	}
	p.Gates = s.enabled("SchedulingGates", "preEnqueue")
	p.Preempts = s.enabled("DefaultPreemption", "postFilter")
}
