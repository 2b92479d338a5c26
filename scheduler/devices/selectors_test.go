package devices_test

import (
	"strings"
	"testing"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/scheduler/devices"
)

// TestHostileSelectors gives selectors quantities whose arithmetic
// does not end, however they are put together, and has them write numbers of any
// length.
func TestHostileSelectors(t *testing.T) {
	d := devices.New(t.Context())
	d.SetSlice(&resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "slice"},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.com", NodeName: ptr.To("a"), Pool: resourcev1.ResourcePool{Name: "a", Generation: 1, ResourceSliceCount: 1},
			Devices: []resourcev1.Device{{Name: "gpu-0", Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{
				"size": {StringValue: ptr.To("1e-1000000000")},
			}}},
		},
	})
	d.SetClaim(claim("one"))
	for expression, want := range map[string]string{
		`quantity("5Gi").isGreaterThan(quantity("1e999"))`:                                "cannot allocate all claims",
		`quantity("5Gi").isGreaterThan(quantity("1e-999"))`:                               "",
		`!isQuantity("1e-1000000000")`:                                                    "",
		`quantity("1e-1000000000").isGreaterThan(quantity("1"))`:                          "unable to parse quantity's suffix",
		`quantity("1e" + "1000000000").isLessThan(quantity("2"))`:                         "unable to parse quantity's suffix",
		`quantity(["1e-10", "00000000"].join("")).isLessThan(quantity("2"))`:              "unable to parse quantity's suffix",
		`quantity(device.attributes["example.com"].size).compareTo(quantity("1Mi")) == 0`: "unable to parse quantity's suffix",
		`quantity("1e0").add(quantity("1e99999999")).isGreaterThan(quantity("1"))`:        "unable to parse quantity's suffix",
		`["1", "1e-99999999"].exists(s, quantity(s).isLessThan(quantity("0")))`:           "unable to parse quantity's suffix",
		`quantity("` + strings.Repeat("9", 9000) + `").isGreaterThan(quantity("1"))`:      "quantity",
		`"%.3f%%.12345f %s".format([1.5, "x"]) == "1.500%.12345f x"`:                      "",
		`[1, 2, 3].all(i, "%.999999f".format([1.5]).size() > i)`:                          "precision of 6 digits exceeds the maximum of 3",
		`("%." + "0010000e").format([1.5]) != ""`:                                         "precision of 7 digits exceeds the maximum of 3",
	} {
		d.SetClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{
			Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}},
		}})
		begin := time.Now()
		v, refusal := d.For(pod("p", "one"))
		if v == nil {
			t.Fatalf("%s: refused, %s", expression, refusal)
		}
		if got := v.Check(node("a")); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%.60s: got %q, want %q", expression, got, want)
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%.60s: took %v", expression, took)
		}
	}
}
