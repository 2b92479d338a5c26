package admission

import (
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// podCertificate lets a node ask for certificates of pods that it runs. What the
// cache may not know yet is an error that invites to try again, no refusal.
func (p *NodeRestriction) podCertificate(ctx context.Context, node string, a *Attributes) error {
	if a.Operation != Create {
		return Forbidden(a, fmt.Errorf("unexpected operation %v", a.Operation))
	}
	if a.Subresource != "" {
		return Forbidden(a, fmt.Errorf("unexpected subresource %v", a.Subresource))
	}
	r, ok := a.Object.(*certificatesv1.PodCertificateRequest)
	if !ok {
		return unexpected(a, a.Object)
	}
	s, pod := &r.Spec, a.Namespace+"/"+r.Spec.PodName
	if string(s.NodeName) != node {
		return Forbidden(a, fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", s.NodeName, node))
	}
	obj, _ := p.lookup.Get(ctx, corev1.Resource("nodes"), "", node)
	if n, ok := obj.(*corev1.Node); !ok || n.UID != s.NodeUID {
		return stale("PodCertificateRequest for pod %q names node UID %q, inconsistent with the running node", pod, s.NodeUID)
	}
	obj, _ = p.lookup.Get(ctx, corev1.Resource("pods"), a.Namespace, s.PodName)
	running, ok := obj.(*corev1.Pod)
	switch {
	case !ok || running.UID != s.PodUID:
		return stale("PodCertificateRequest for pod %q contains pod UID (%q) which differs from running pod", pod, s.PodUID)
	case running.Spec.NodeName != node:
		return Forbidden(a, fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", pod, node))
	case isMirror(running):
		return Forbidden(a, fmt.Errorf("pod %q is a mirror pod", pod))
	case running.Spec.ServiceAccountName != s.ServiceAccountName:
		return Forbidden(a, fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", pod, s.ServiceAccountName, running.Spec.ServiceAccountName))
	}
	obj, _ = p.lookup.Get(ctx, corev1.Resource("serviceaccounts"), a.Namespace, s.ServiceAccountName)
	if sa, ok := obj.(*corev1.ServiceAccount); !ok || sa.UID != s.ServiceAccountUID {
		return stale("PodCertificateRequest for pod %q names service account UID %q, which differs from the running service account", pod, s.ServiceAccountUID)
	}
	if mountsCertificate(running, s.SignerName) || p.maySign(ctx, a, s) {
		return nil
	}
	return Forbidden(a, fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", pod, s.SignerName))
}

func stale(format string, args ...any) error {
	return apierrors.NewInternalError(fmt.Errorf(format, args...))
}

func mountsCertificate(pod *corev1.Pod, signer string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.PodCertificate != nil && s.PodCertificate.SignerName == signer {
				return true
			}
		}
	}
	return false
}

// maySign asks whether the node may have certificates of a signer that the pod
// does not name itself. Roles cannot hold a slash.
func (p *NodeRestriction) maySign(ctx context.Context, a *Attributes, s *certificatesv1.PodCertificateRequestSpec) bool {
	if p.authorizer == nil {
		return false
	}
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.User, Verb: "request-serviceaccounts-podcertificate-signer", APIGroup: a.GVR.Group, APIVersion: a.GVR.Version,
		Resource: strings.ReplaceAll(s.SignerName, "/", ":"), Namespace: a.Namespace, Name: s.ServiceAccountName, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}
