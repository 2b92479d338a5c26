package kubelet

import (
	"context"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
)

type (
	uidType        = types.UID
	watchInterface = watch.Interface
)

// maxImages and maxNames bound the list of images in the node's status, as
// upstream does.
const (
	maxImages = 50
	maxNames  = 5
)

// awaitRuntime returns the runtime's name once it answers.
func (k *Kubelet) awaitRuntime(ctx context.Context, c *cri.Client) (string, error) {
	delay := 20 * time.Millisecond
	for {
		callCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		v, err := c.Runtime.Version(callCtx, &runtimeapi.VersionRequest{Version: "v1"})
		cancel()
		if err == nil {
			version := v.RuntimeName + "://" + v.RuntimeVersion
			k.runtimeVersion.Store(&version)
			return v.RuntimeName, nil
		}
		if delay > time.Second {
			k.log.Warn("waiting for the container runtime", "endpoint", k.cfg.RuntimeEndpoint, "err", err)
		}
		t := k.cfg.Clock.NewTimer(delay)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return "", ctx.Err()
		}
		delay = min(2*delay, 5*time.Second)
	}
}

// runtimeState asks the runtime how it is.
func (k *Kubelet) runtimeState(ctx context.Context, c *cri.Client) (version, notReady string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if v := k.runtimeVersion.Load(); v != nil {
		version = *v
	}
	got, err := c.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return version, fmt.Sprintf("container runtime status check may not have completed yet: %v", err)
	}
	k.features.Store(got)
	for _, cond := range got.GetStatus().GetConditions() {
		if cond.Status {
			continue
		}
		what := "container runtime is down"
		switch cond.Type {
		case "NetworkReady":
			what = "container runtime network not ready"
		case "RuntimeReady":
		default:
			continue
		}
		return version, fmt.Sprintf("%s: %s=false reason:%s message:%s", what, cond.Type, cond.Reason, cond.Message)
	}
	return version, ""
}

// handlers are the runtime's, for the node's status.
func (k *Kubelet) handlers() ([]corev1.NodeRuntimeHandler, *corev1.NodeFeatures) {
	got := k.features.Load()
	if got == nil {
		return nil, nil
	}
	var out []corev1.NodeRuntimeHandler
	for _, h := range got.RuntimeHandlers {
		rro, userns := h.GetFeatures().GetRecursiveReadOnlyMounts(), h.GetFeatures().GetUserNamespaces()
		out = append(out, corev1.NodeRuntimeHandler{Name: h.Name, Features: &corev1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: &rro, UserNamespaces: &userns}})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	if got.Features == nil {
		return out, nil
	}
	policy := got.Features.SupplementalGroupsPolicy
	return out, &corev1.NodeFeatures{SupplementalGroupsPolicy: &policy}
}

// recursiveReadOnly says that the default runtime handler can do it.
func (k *Kubelet) recursiveReadOnly() bool {
	got := k.features.Load()
	for _, h := range got.GetRuntimeHandlers() {
		if h.Name == "" {
			return h.GetFeatures().GetRecursiveReadOnlyMounts()
		}
	}
	return false
}

// appArmor says that the kernel has AppArmor switched on.
func appArmor() bool {
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}

func (k *Kubelet) addresses() []corev1.NodeAddress {
	var out []corev1.NodeAddress
	for _, ip := range k.cfg.NodeIPs {
		if net.ParseIP(ip) != nil {
			out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
		}
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: k.cfg.NodeName})
}

// listImages lists the biggest images of the node.
func listImages(ctx context.Context, c *cri.Client) ([]corev1.ContainerImage, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	got, err := c.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	var out []corev1.ContainerImage
	for _, i := range got.Images {
		names := append(append([]string{}, i.RepoDigests...), i.RepoTags...)
		if len(names) == 0 {
			continue
		}
		out = append(out, corev1.ContainerImage{Names: names[:min(len(names), maxNames)], SizeBytes: int64(min(i.Size, 1<<62))})
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].SizeBytes != out[j].SizeBytes {
			return out[i].SizeBytes > out[j].SizeBytes
		}
		return out[i].Names[0] < out[j].Names[0]
	})
	return out[:min(len(out), maxImages)], nil
}

// imageVolumes lists the images that pods which may run mount as volumes.
func imageVolumes(list []*corev1.Pod) (refs []string) {
	for _, p := range list {
		if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		for i := range p.Spec.Volumes {
			if v := p.Spec.Volumes[i].Image; v != nil {
				refs = append(refs, v.Reference)
			}
		}
	}
	return refs
}

// imageDir is where the runtime keeps images.
func (p *parts) imageDir(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info, err := p.cri.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.ImageFilesystems) == 0 {
		return ""
	}
	return info.ImageFilesystems[0].GetFsId().GetMountpoint()
}
