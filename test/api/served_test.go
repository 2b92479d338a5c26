package api

import (
	_ "embed"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

//go:embed testdata/discovery.txt
var upstreamKinds string

// TestKindsServed compares all that is served with what upstream serves.
func TestKindsServed(t *testing.T) {
	client := get[*discovery.DiscoveryClient](t)(discovery.NewDiscoveryClientForConfig(world.rest))
	_, lists, err := client.ServerGroupsAndResources()
	must(t, err)
	have := map[string]string{}
	for _, list := range lists {
		for key, row := range rows(list) {
			have[key] = row
		}
	}
	for line := range strings.Lines(upstreamKinds) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.SplitN(line, " ", 3)
		key := words[0] + " " + words[1]
		switch row, ok := have[key]; {
		case !ok:
			t.Errorf("not served: %s", key)
		case row != line:
			t.Errorf("served differently:\n have %s\n want %s", row, line)
		}
		delete(have, key)
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		t.Logf("served beyond upstream's list: %s", key)
	}
}

// rows makes a line of each resource, as the test data has them.
func rows(list *metav1.APIResourceList) map[string]string {
	subs := map[string][]string{}
	out := map[string]string{}
	for _, r := range list.APIResources {
		if name, sub, ok := strings.Cut(r.Name, "/"); ok {
			subs[name] = append(subs[name], sub+":"+r.Kind+":"+sorted(r.Verbs))
		}
	}
	for _, r := range list.APIResources {
		if strings.Contains(r.Name, "/") {
			continue
		}
		scope, verbs := "cluster", sorted(r.Verbs)
		if r.Namespaced {
			scope = "ns"
		}
		if verbs == "create,delete,deletecollection,get,list,patch,update,watch" {
			verbs = "*"
		}
		words := []string{list.GroupVersion, r.Name, r.Kind, scope, orDash(r.SingularName), orDash(strings.Join(r.ShortNames, ",")), orDash(strings.Join(r.Categories, ",")), verbs}
		slices.Sort(subs[r.Name])
		out[list.GroupVersion+" "+r.Name] = strings.Join(append(words, subs[r.Name]...), " ")
	}
	return out
}

func sorted(list []string) string { return strings.Join(slices.Sorted(slices.Values(list)), ",") }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
