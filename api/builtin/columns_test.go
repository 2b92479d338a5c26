package builtin_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Rows as kubectl shows them: header, cells; "|" begins the wide columns. All
// objects are five minutes old.
func TestColumns(t *testing.T) {
	const running = "state: {running: {}}, ready: true"
	for _, c := range []struct{ name, resource, manifest, want string }{
		{"pod", "pods", pod("  nodeName: m\nstatus: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], containerStatuses: [{name: c, "+running+"}]}", ""),
			"Name=p Ready=1/1 Status=Running Restarts=0 Age=5m | IP=10.0.0.1 Node=m Nominated Node=<none> Readiness Gates=<none>"},
		{"pod that initializes", "pods", pod("  initContainers: [{name: a, image: i}, {name: b, image: i}]\nstatus: {phase: Pending, initContainerStatuses: [{name: a, state: {terminated: {exitCode: 0}}}, {name: b, state: {running: {}}}]}", ""),
			"Name=p Ready=0/1 Status=Init:1/2 Restarts=0 Age=5m | IP=<none> Node=<none> Nominated Node=<none> Readiness Gates=<none>"},
		{"pod that crashes", "pods", pod("status: {phase: Running, containerStatuses: [{name: c, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {finishedAt: FIVE}}}]}", ""),
			"Name=p Ready=0/1 Status=CrashLoopBackOff Restarts=3 (5m ago) Age=5m | IP=<none> Node=<none> Nominated Node=<none> Readiness Gates=<none>"},
		{"pod that ends", "pods", strings.Replace(pod("status: {phase: Running, containerStatuses: [{name: c, "+running+"}]}", ""), "{name: p", "{deletionTimestamp: FIVE, name: p", 1),
			"Name=p Ready=1/1 Status=Terminating Restarts=0 Age=5m | IP=<none> Node=<none> Nominated Node=<none> Readiness Gates=<none>"},
		{"pod that has completed", "pods", pod("status: {phase: Succeeded, containerStatuses: [{name: c, state: {terminated: {reason: Completed, exitCode: 0}}}]}", ""),
			"Name=p Ready=0/1 Status=Completed Restarts=0 Age=5m | IP=<none> Node=<none> Nominated Node=<none> Readiness Gates=<none>"},
		{"pod with a sidecar", "pods", pod("  initContainers: [{name: s, image: i, restartPolicy: Always}]\nstatus: {phase: Running, initContainerStatuses: [{name: s, started: true, "+running+"}], containerStatuses: [{name: c, "+running+"}]}", ""),
			"Name=p Ready=2/2 Status=Running Restarts=0 Age=5m | IP=<none> Node=<none> Nominated Node=<none> Readiness Gates=<none>"},
		{"deployment", "deployments", deployment("  replicas: 3\n  selector: {matchLabels: {app: a}}") + "\nstatus: {readyReplicas: 2, updatedReplicas: 3, availableReplicas: 1}",
			"Name=d Ready=2/3 Up-to-date=3 Available=1 Age=5m | Containers=c Images=i Selector=app=a"},
		{"service", "services", "metadata: {name: s}\nspec: {type: LoadBalancer, clusterIPs: [10.0.0.1], selector: {a: b}, ports: [{port: 80, nodePort: 30000}, {port: 81, protocol: UDP}]}",
			"Name=s Type=LoadBalancer Cluster-IP=10.0.0.1 External-IP=<pending> Port(s)=80:30000/TCP,81/UDP Age=5m | Selector=a=b"},
		{"node", "nodes", "metadata: {name: m, labels: {node-role.kubernetes.io/b: '', node-role.kubernetes.io/a: ''}}\nspec: {unschedulable: true}\nstatus: {conditions: [{type: Ready, status: 'True'}], addresses: [{type: InternalIP, address: 10.0.0.1}], nodeInfo: {kubeletVersion: v1.37.2, osImage: Debian}}",
			"Name=m Status=Ready,SchedulingDisabled Roles=a,b Age=5m Version=v1.37.2 | Internal-IP=10.0.0.1 External-IP=<none> OS-Image=Debian Kernel-Version=<unknown> Container-Runtime=<unknown>"},
		{"event", "events", "metadata: {name: e}\ntype: Normal\nreason: Started\nmessage: ' hello '\ninvolvedObject: {kind: Pod, name: p, fieldPath: f}\nsource: {component: kubelet, host: m}\nfirstTimestamp: FIVE\nlastTimestamp: FIVE",
			"Last Seen=5m Type=Normal Reason=Started Object=pod/p Message=hello | Subobject=f Source=kubelet, m First Seen=5m Count=1 Name=e"},
		{"endpoints", "endpoints", "metadata: {name: e}\nsubsets: [{addresses: [{ip: 1.0.0.1}, {ip: 1.0.0.2}, {ip: 1.0.0.3}, {ip: 1.0.0.4}], ports: [{port: 80}]}]",
			"Name=e Endpoints=1.0.0.1:80,1.0.0.2:80,1.0.0.3:80 + 1 more... Age=5m"},
		{"endpoint slice", "endpointslices", "metadata: {name: e}\naddressType: IPv4\nendpoints: [{addresses: [1.0.0.1]}]\nports: [{port: 80}]",
			"Name=e AddressType=IPv4 Ports=80 Endpoints=1.0.0.1 Age=5m"},
		{"certificate request", "certificatesigningrequests", "metadata: {name: c}\nspec: {signerName: example.com/s, username: eve, expirationSeconds: 3600}\nstatus: {certificate: eA==, conditions: [{type: Approved, status: 'True'}]}",
			"Name=c Age=5m SignerName=example.com/s Requestor=eve RequestedDuration=60m Condition=Approved,Issued"},
		{"trust bundle", "clustertrustbundles", "metadata: {name: b}", "Name=b SignerName=<none>"},
		{"pod's certificate request", "podcertificaterequests", "metadata: {name: r}\nspec: {podName: p, serviceAccountName: s, nodeName: m, signerName: example.com/s}\nstatus: {conditions: [{type: Denied, status: 'True'}]}",
			"Name=r PodName=p ServiceAccountName=s NodeName=m SignerName=example.com/s State=Denied | UnverifiedUserAnnotations=<none>"},
		{"role", "roles", "metadata: {name: r}", "Name=r Created At=1999-12-31T23:55:00Z"},
		{"role binding", "rolebindings", "metadata: {name: b}\nroleRef: {kind: Role, name: r}\nsubjects: [{kind: User, name: u}, {kind: ServiceAccount, namespace: m, name: s}]",
			"Name=b Role=Role/r Age=5m | Users=u Groups= ServiceAccounts=m/s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A bubble's clock starts at midnight UTC of 2000-01-01.
			synctest.Test(t, func(t *testing.T) {
				five := time.Now().Add(-5 * time.Minute)
				k := kind(t, c.resource)
				obj := load(t, k, strings.ReplaceAll(c.manifest, "FIVE", five.UTC().Format(time.RFC3339)))
				obj.SetCreationTimestamp(metav1.NewTime(five))
				var narrow, wide []string
				for _, col := range k.TableColumns() {
					cell := fmt.Sprintf("%s=%v", col.Name, col.Value(obj))
					if col.Priority == 0 {
						narrow = append(narrow, cell)
					} else {
						wide = append(wide, cell)
					}
				}
				got := strings.Join(narrow, " ")
				if len(wide) > 0 {
					got += " | " + strings.Join(wide, " ")
				}
				if got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		})
	}
}
