package quantities_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/proa-dev/proa/internal/quantities"
)

var zeros = strings.Repeat("0", 5000)

// Text of a quantity and what is said of it.
var cases = []struct {
	text string
	want error
}{
	{"1", nil}, {"0", nil}, {"", nil}, {"100m", nil}, {"1Gi", nil}, {"12345678", nil}, {"1e3", nil}, {"1E", nil}, {"1e999", nil}, {"1e-999", nil},
	{"1e0000000005", nil}, {"1e4294967301", nil}, {"0.123456789012345678901234567890", nil}, {"1ex1000", nil},
	{"1e99999999999999999999", nil}, // the parser refuses it
	{"1e1000", resource.ErrSuffix}, {"1E1000000000", resource.ErrSuffix}, {"-1e+1000000000", resource.ErrSuffix}, {"+1.5e-9999999", resource.ErrSuffix},
	{"0e1000000000", resource.ErrSuffix}, {"1.e12345", resource.ErrSuffix}, {".1e12345", resource.ErrSuffix}, {" 1e12345 ", resource.ErrSuffix},
	{"\u00a01e12345\u2003", resource.ErrSuffix},
	{"1" + zeros, resource.ErrNumeric}, {zeros + "1", resource.ErrNumeric}, {"0." + zeros + "1", resource.ErrNumeric}, {"1" + zeros + "Gi", resource.ErrNumeric},
}

func TestJSON(t *testing.T) {
	for _, c := range cases {
		text, _ := json.Marshal(c.text)
		for _, body := range []string{
			`{"spec":{"containers":[{"resources":{"limits":{"cpu":"1","memory":%s}}}]}}`,
			`{"spec":{"containers":[{"resources":{"limits":{"cpu":%s,"cpu":"1"}}}]}}`,
			`{"spec":{"volumes":[{"name":"x","emptyDir":{"sizeLimit":%s}}],"overhead":{}}}`,
			`{"unknown":[[{"a":{}}]],"spec":{"containers":[null,{"env":[{"valueFrom":{"resourceFieldRef":{"divisor":%s}}}]}]}}`,
			`{"spec":{"resources":{"requests":{"cpu":%s}}}} `,
		} {
			if err := quantities.CheckJSON(fmt.Appendf(nil, body, text), &corev1.Pod{}); !errors.Is(err, c.want) {
				t.Errorf("%.40q in %s: %v, want %v", c.text, body, err, c.want)
			}
		}
	}
	for number, want := range map[string]error{"1e1000000000": resource.ErrSuffix, "1e10": nil, "-0.1E-12345": resource.ErrSuffix, "1" + zeros: resource.ErrNumeric} {
		for _, body := range []string{`{"spec":{"overhead":{"cpu":%s}}}`, `{"spec":{"overhead":{"cpu": %s }}}`, `{"spec":{"overhead":{"cpu":%s,"x":1}}}`} {
			if err := quantities.CheckJSON(fmt.Appendf(nil, body, number), &corev1.Pod{}); !errors.Is(err, want) {
				t.Errorf("%.40s in %s: %v, want %v", number, body, err, want)
			}
		}
	}
}

// What only looks like a quantity passes, and so does what is no JSON.
func TestLookalikes(t *testing.T) {
	for _, body := range []string{
		`{"metadata":{"labels":{"commit":"7e12345"},"annotations":{"x":"1e1000000000"},"uid":"12e45678-1e12-1234-1e12-123e45678901"}}`,
		`{"spec":{"containers":[{"image":"a@sha256:7e12345","args":["1e1000000000"],"env":[{"name":"A","value":"1e12345"}]}]}}`,
		`{"spec":{"nodeName":"1e123456"}}`, `{"spec":{"containers":"1e123456"}}`, `"1e123456"`, `[1e123456]`, `1e123456`, `{"spec":`, `{"a":1e12345`, ``, `1e12345}`,
	} {
		if err := quantities.CheckJSON([]byte(body), &corev1.Pod{}); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	deep := []byte(strings.Repeat(`{"spec":`, 1e5) + `1e123456`)
	if err := quantities.CheckJSON(deep, &corev1.Pod{}); err != nil {
		t.Error(err)
	}
}

// template is a pod whose memory limit is spelled as wide as text.
func message(t *testing.T, text string) []byte {
	t.Helper()
	marker := strings.Repeat("7", max(len(text), 1))
	pod := &corev1.Pod{}
	pod.Labels = map[string]string{"commit": "7e12345"}
	pod.Spec.Containers = []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse(marker),
	}}}}
	data, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if len(text) != len(marker) || !bytes.Contains(data, []byte(marker)) {
		return nil
	}
	return bytes.Replace(data, []byte(marker), []byte(text), 1)
}

func TestProto(t *testing.T) {
	for _, c := range cases {
		data := message(t, c.text)
		if data == nil || strings.TrimSpace(c.text) != c.text {
			continue // too long for the marker to be written as it is
		}
		if !quantities.SuspectProto(data) {
			t.Errorf("%q: unsuspected", c.text) // for its label
		}
		if err := quantities.CheckProto(data, &corev1.Pod{}); !errors.Is(err, c.want) {
			t.Errorf("%.40q: %v, want %v", c.text, err, c.want)
		}
	}
	data := message(t, "1e99999999")
	for i := range data {
		_ = quantities.CheckProto(data[:i], &corev1.Pod{}) // an error is as good as none
	}
	if quantities.SuspectProto([]byte("\x0a\x05hello12345")) {
		t.Error("suspects digits")
	}
}

func FuzzWalks(f *testing.F) {
	f.Add([]byte(`{"spec":{"overhead":{"cpu":"1e12345"}}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = quantities.CheckJSON(data, &corev1.Pod{})
		_ = quantities.CheckProto(data, &corev1.Pod{})
	})
}

func BenchmarkScan(b *testing.B) {
	data := []byte(`{"metadata":{"uid":"12e45678-1e12-1234-1e12-123e45678901"},"a":"` + strings.Repeat("some text of a pod ", 100) + `"}`)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := quantities.CheckJSON(data, &corev1.Pod{}); err != nil {
			b.Fatal(err)
		}
	}
}
