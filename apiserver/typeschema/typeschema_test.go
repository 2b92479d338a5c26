package typeschema_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/applyconfigurations"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/typeschema"
)

var update = flag.Bool("update", false, "write schema.json.gz anew")

// The packed schema must be that of the client-go we build with.
func TestSchemaIsThatOfClientGo(t *testing.T) {
	pod := &corev1.Pod{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	theirs, err := applyconfigurations.NewTypeConverter(builtin.Scheme()).ObjectToTyped(pod)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(typeschema.Pack(theirs.Schema().Types))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		var out bytes.Buffer
		z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("schema.json.gz", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	ours, err := typeschema.Converter(builtin.Scheme()).ObjectToTyped(pod)
	if err != nil {
		t.Fatal(err)
	}
	// After client-go's come those of extra.yaml.
	have, err := json.Marshal(typeschema.Pack(ours.Schema().Types[:len(theirs.Schema().Types)]))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("schema.json.gz is not client-go's schema: run this test with -update")
	}
}

func BenchmarkConverter(b *testing.B) {
	pod := &corev1.Pod{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	scheme := builtin.Scheme()
	for b.Loop() {
		if _, err := typeschema.Converter(scheme).ObjectToTyped(pod); err != nil {
			b.Fatal(err)
		}
	}
}
