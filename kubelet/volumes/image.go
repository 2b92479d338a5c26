package volumes

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// image is the content of an image, which the runtime mounts by itself.
type image struct{}

func (*image) Name() string                   { return "kubernetes.io/image" }
func (*image) Supports(v *corev1.Volume) bool { return v.Image != nil }

func (*image) SetUp(_ context.Context, req Request) (Volume, error) {
	return Volume{Image: req.Volume.Image, ReadOnly: true}, nil
}

func (*image) TearDown(context.Context, string) error { return nil }
