package nodeipam_test

import (
	"net/netip"
	"testing"

	"github.com/proa-dev/proa/controllers/nodeipam"
)

func TestNext(t *testing.T) {
	for _, c := range []struct {
		cluster string
		bits    int
		used    []string
		want    string
	}{
		{"10.42.0.0/16", 24, nil, "10.42.0.0/24"},
		{"10.42.0.0/16", 24, []string{"10.42.0.0/24", "10.42.2.0/24"}, "10.42.1.0/24"},
		{"10.42.0.0/16", 24, []string{"10.42.0.0/17"}, "10.42.128.0/24"},
		{"10.42.0.0/16", 24, []string{"10.42.0.0/26"}, "10.42.1.0/24"},
		{"10.42.0.0/23", 24, []string{"10.42.0.0/24", "10.42.1.0/24"}, ""},
		{"255.255.255.0/24", 25, []string{"255.255.255.0/25", "255.255.255.128/25"}, ""},
		{"fd00::/56", 64, []string{"fd00::/64"}, "fd00:0:0:1::/64"},
	} {
		var used []netip.Prefix
		for _, u := range c.used {
			used = append(used, netip.MustParsePrefix(u))
		}
		got, ok := nodeipam.Next(netip.MustParsePrefix(c.cluster), c.bits, used)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("Next(%s, %d, %v) = %s, %v; want %q", c.cluster, c.bits, c.used, got, ok, c.want)
		}
	}
}
