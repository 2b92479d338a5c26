package admission_test

import (
	"context"
	"testing"

	authnv1 "k8s.io/api/authentication/v1"
	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

var leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

func TestNodeRestriction(t *testing.T) {
	onNode := func(name, node string) *corev1.Pod {
		p := newPod(nil)
		p.Name, p.UID, p.Spec.NodeName = name, types.UID(name+"-uid"), node
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}}}}}}
		return p
	}
	source := cluster().
		Put(res("pods"), onNode("mine", "n1"), onNode("yours", "n2")).
		Put(res("nodes"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1-uid"}})
	granted := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetVerb() == "request-serviceaccounts-token-audience" && a.GetResource() == "registry" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	plugin := admission.NewNodeRestriction(admission.Lookup{Source: source}, granted)

	yes := true
	mirror := func(change func(*corev1.Pod)) *corev1.Pod {
		p := newPod(nil)
		p.Name, p.Spec.NodeName = "static-n1", "n1"
		p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "n1-uid", Controller: &yes}}
		if change != nil {
			change(p)
		}
		return p
	}
	node := func(name string, change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}}}
		if change != nil {
			change(n)
		}
		return n
	}
	sub := func(a *admission.Attributes, subresource, name string, old api.Object) *admission.Attributes {
		a.Subresource, a.Name = subresource, name
		if old != nil {
			a.OldObject = old
		}
		return a
	}
	token := func(pod, uid string, audiences ...string) *admission.Attributes {
		a := &admission.Attributes{Operation: admission.Create, GVR: res("serviceaccounts").WithVersion("v1"), Subresource: "token", Namespace: "ns", Name: "default"}
		tr := &authnv1.TokenRequest{Spec: authnv1.TokenRequestSpec{Audiences: audiences}}
		if pod != "" {
			tr.Spec.BoundObjectRef = &authnv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(uid)}
		}
		a.Object = tr
		return a
	}
	claim := func(request string, size string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: meta("ns", "c"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: request},
			Status: corev1.PersistentVolumeClaimStatus{Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}}}
	}
	eviction := &policyv1.Eviction{ObjectMeta: meta("ns", "")}
	pods, nodes := res("pods"), res("nodes")
	create, update, remove := admission.Create, admission.Update, admission.Delete

	for _, c := range []struct {
		name string
		a    *admission.Attributes
		want string
	}{
		{"mirror pod", attributes(create, pods, mirror(nil)), ""},
		{"plain pod", attributes(create, pods, newPod(nil)), `pods "p" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{"mirror pod elsewhere", attributes(create, pods, mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" })), `pods "static-n1" is forbidden: node "n1" can only create pods with spec.nodeName set to itself`},
		{"mirror pod of nobody", attributes(create, pods, mirror(func(p *corev1.Pod) { p.OwnerReferences = nil })), `pods "static-n1" is forbidden: node "n1" can only create pods with an owner reference set to itself`},
		{"mirror pod of another node", attributes(create, pods, mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "x" })), `pods "static-n1" is forbidden: node n1 UID mismatch: expected x got n1-uid`},
		{"mirror pod with an account", attributes(create, pods, mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "a" })), `pods "static-n1" is forbidden: node "n1" can not create pods that reference a service account`},
		{"mirror pod with a secret", attributes(create, pods, mirror(func(p *corev1.Pod) {
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "s"}}
		})), `pods "static-n1" is forbidden: node "n1" can not create pods that reference secrets`},
		{"mirror pod with a config map", attributes(create, pods, mirror(func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}}
		})), `pods "static-n1" is forbidden: node "n1" can not create pods that reference configmaps`},
		{"update a pod", attributes(update, pods, onNode("mine", "n1")), `pods "mine" is forbidden: unexpected operation "UPDATE", node "n1" can only create and delete mirror pods`},
		{"delete its pod", attributes(remove, pods, onNode("mine", "n1")), ""},
		{"delete another's pod", attributes(remove, pods, onNode("yours", "n2")), `pods "yours" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself`},
		{"delete no pod", attributes(remove, pods, onNode("gone", "n1")), `pods "gone" not found`},
		{"status", sub(attributes(update, pods, onNode("mine", "n1")), "status", "mine", onNode("mine", "n1")), ""},
		{"another's status", sub(attributes(update, pods, onNode("yours", "n2")), "status", "yours", onNode("yours", "n2")), `pods "yours" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{"labels by status", sub(attributes(update, pods, mirror(func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} })), "status", "p", mirror(nil)), `pods "p" is forbidden: node "n1" cannot update labels through pod status`},
		{"evict its pod", &admission.Attributes{Operation: create, GVR: pods.WithVersion("v1"), Subresource: "eviction", Namespace: "ns", Name: "mine", Object: eviction}, ""},
		{"evict another's pod", &admission.Attributes{Operation: create, GVR: pods.WithVersion("v1"), Subresource: "eviction", Namespace: "ns", Name: "yours", Object: eviction}, `pods "yours" is forbidden: node n1 can only evict pods with spec.nodeName set to itself`},
		{"exec", sub(attributes(create, pods, onNode("mine", "n1")), "exec", "mine", nil), `pods "mine" is forbidden: unexpected pod subresource "exec", only 'status' and 'eviction' are allowed`},

		{"register", attributes(create, nodes, node("n1", nil)), ""},
		{"register another", attributes(create, nodes, node("n2", nil)), `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},
		{"register with a role", attributes(create, nodes, node("n1", func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" })), `nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-role.kubernetes.io/control-plane`},
		{"register with allowed labels", attributes(create, nodes, node("n1", func(n *corev1.Node) {
			n.Labels["node.kubernetes.io/x"], n.Labels["topology.kubernetes.io/zone"], n.Labels["example.com/x"] = "", "", ""
		})), ""},
		{"restricted label", attributes(create, nodes, node("n1", func(n *corev1.Node) { n.Labels["node-restriction.kubernetes.io/x"] = "" })), `nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/x`},
		{"own taints", sub(attributes(update, nodes, node("n1", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} })), "", "n1", node("n1", nil)), `nodes "n1" is forbidden: node "n1" is not allowed to modify taints`},
		{"remove a system label", sub(attributes(update, nodes, node("n1", nil)), "", "n1", node("n1", func(n *corev1.Node) { n.Labels["foo.k8s.io/x"] = "" })), `nodes "n1" is forbidden: is not allowed to modify labels: foo.k8s.io/x`},
		{"node status", sub(attributes(update, nodes, node("n1", nil)), "status", "n1", node("n1", nil)), ""},

		{"its lease", attributes(create, leases, &coordv1.Lease{ObjectMeta: meta("kube-node-lease", "n1")}), ""},
		{"another's lease", attributes(create, leases, &coordv1.Lease{ObjectMeta: meta("kube-node-lease", "n2")}), `leases.coordination.k8s.io "n2" is forbidden: can only access node lease with the same name as the requesting node`},
		{"lease elsewhere", attributes(create, leases, &coordv1.Lease{ObjectMeta: meta("ns", "n1")}), `leases.coordination.k8s.io "n1" is forbidden: can only access leases in the "kube-node-lease" system namespace`},

		{"token", token("mine", "mine-uid"), ""},
		{"token for the pod's audience", token("mine", "mine-uid", "vault"), ""},
		{"token for a granted audience", token("mine", "mine-uid", "registry"), ""},
		{"token for another audience", token("mine", "mine-uid", "db"), `serviceaccounts "default" is forbidden: system:node:n1 is not authorized to request tokens for audience "db"`},
		{"unbound token", token("", ""), `serviceaccounts "default" is forbidden: node requested token not bound to a pod`},
		{"token without a uid", token("mine", ""), `serviceaccounts "default" is forbidden: node requested token with a pod binding without a uid`},
		{"token of another's pod", token("yours", "yours-uid"), `serviceaccounts "default" is forbidden: node requested token bound to a pod scheduled on a different node`},

		{"claim's capacity", sub(attributes(update, res("persistentvolumeclaims"), claim("v", "2Gi")), "status", "c", claim("v", "1Gi")), ""},
		{"a claim", attributes(update, res("persistentvolumeclaims"), claim("v", "2Gi")), `persistentvolumeclaims "c" is forbidden: may only update PVC status`},
	} {
		c.a.User = &user.DefaultInfo{Name: "system:node:n1", Groups: []string{"system:nodes"}}
		if got := text(plugin.Admit(t.Context(), c.a)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		c.a.User = &user.DefaultInfo{Name: "system:node:n1"} // not in the group: not a node
		if err := plugin.Admit(t.Context(), c.a); err != nil {
			t.Errorf("%s, not a node: %v", c.name, err)
		}
	}
	anon := attributes(create, nodes, node("n1", nil))
	anon.User = &user.DefaultInfo{Name: "system:node:", Groups: []string{"system:nodes"}}
	if got := text(plugin.Admit(t.Context(), anon)); got != `nodes "n1" is forbidden: could not determine node from user "system:node:"` {
		t.Errorf("nameless node: %q", got)
	}
}
