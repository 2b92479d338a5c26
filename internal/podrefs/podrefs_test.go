package podrefs_test

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/internal/podrefs"
)

const everything = `
metadata: {name: p}
spec:
  imagePullSecrets: [{name: pull}, {name: ""}]
  initContainers: [{env: [{valueFrom: {secretKeyRef: {name: init-env}}}, {value: plain}]}]
  containers:
  - envFrom: [{secretRef: {name: from}}, {configMapRef: {name: c-from}}]
    env: [{valueFrom: {configMapKeyRef: {name: c-env}}}, {valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
  ephemeralContainers: [{env: [{valueFrom: {secretKeyRef: {name: debug}}}]}]
  resourceClaims: [{name: a, resourceClaimName: claim-a}, {name: b, resourceClaimTemplateName: t}]
  volumes:
  - {name: v1, secret: {secretName: secret}}
  - {name: v2, projected: {sources: [{secret: {name: projected}}, {configMap: {name: c-projected}}, {serviceAccountToken: {path: t}}]}}
  - {name: v3, azureFile: {secretName: azure}}
  - {name: v4, cephfs: {secretRef: {name: cephfs}}}
  - {name: v5, cinder: {secretRef: {name: cinder}}}
  - {name: v6, flexVolume: {secretRef: {name: flex}}}
  - {name: v7, rbd: {secretRef: {name: rbd}}}
  - {name: v8, scaleIO: {secretRef: {name: scaleio}}}
  - {name: v9, iscsi: {secretRef: {name: iscsi}}}
  - {name: v10, storageos: {secretRef: {name: storageos}}}
  - {name: v11, csi: {nodePublishSecretRef: {name: csi}}}
  - {name: v12, csi: {driver: without}}
  - {name: v13, configMap: {name: c-volume}}
  - {name: v14, persistentVolumeClaim: {claimName: claim}}
  - {name: v15, ephemeral: {}}
  - {name: v16, emptyDir: {}}
status:
  resourceClaimStatuses: [{name: b, resourceClaimName: claim-b}, {name: c}]
  extendedResourceClaimStatus: {resourceClaimName: claim-ext}
`

func TestPodReferences(t *testing.T) {
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(everything), &pod); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		seq  iter.Seq[string]
		want string
	}{
		{"secrets", podrefs.Secrets(&pod), "pull init-env from debug secret projected azure cephfs cinder flex rbd scaleio iscsi storageos csi"},
		{"config maps", podrefs.ConfigMaps(&pod), "c-from c-env c-projected c-volume"},
		{"claims", podrefs.Claims(&pod), "claim p-v15"},
		{"resource claims", podrefs.ResourceClaims(&pod), "claim-a claim-b claim-ext"},
	} {
		all := slices.Collect(c.seq)
		if got := strings.Join(all, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
		for n := range all { // whoever stops early is not called again
			i := 0
			for range c.seq {
				if i++; i > n {
					break
				}
			}
		}
	}
}

func TestVolumeSecrets(t *testing.T) {
	for spec, want := range map[string]map[string]string{
		`csi: {nodePublishSecretRef: {namespace: a, name: publish}, nodeStageSecretRef: {namespace: b, name: stage}, nodeExpandSecretRef: {namespace: c, name: expand}, controllerExpandSecretRef: {namespace: x, name: hidden}}`: {"a": "publish", "b": "stage", "c": "expand"},
		`azureFile: {secretName: s, secretNamespace: own}`: {"own": "s"},
		`azureFile: {secretName: s}`:                       {"claims": "s"},
		`rbd: {secretRef: {name: s}}`:                      {"claims": "s"},
		`iscsi: {secretRef: {namespace: own, name: s}}`:    {"own": "s"},
		`hostPath: {path: /x}`:                             {},
	} {
		var pv corev1.PersistentVolume
		if err := yaml.UnmarshalStrict([]byte("spec:\n  claimRef: {namespace: claims, name: c}\n  "+spec), &pv); err != nil {
			t.Fatal(err)
		}
		if got := maps.Collect(podrefs.VolumeSecrets(&pv)); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", spec, got, want)
		}
	}
}
