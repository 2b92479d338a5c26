package storage_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/storage"
)

func TestValidation(t *testing.T) {
	attachment := func(change func(*storagev1.VolumeAttachment)) *storagev1.VolumeAttachment {
		a := &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{
			Attacher: "driver.example.com", NodeName: "n1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv")},
		}}
		change(a)
		return a
	}
	for _, c := range []struct {
		name string
		kind *api.Kind
		obj  api.Object
		want string
	}{
		{"class", storage.StorageClass(), &storagev1.StorageClass{Provisioner: "example.com/p"}, ""},
		{"class without provisioner", storage.StorageClass(), &storagev1.StorageClass{}, "provisioner: Required value"},
		{"class with a policy it cannot have", storage.StorageClass(), &storagev1.StorageClass{
			Provisioner: "p", ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimRecycle),
		}, `reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"`},
		{"attributes without parameters", storage.VolumeAttributesClass(), &storagev1.VolumeAttributesClass{DriverName: "d"}, "parameters: Required value: must contain at least one key/value pair"},
		{"attachment", storage.VolumeAttachment(), attachment(func(*storagev1.VolumeAttachment) {}), ""},
		{"attachment of nothing", storage.VolumeAttachment(), attachment(func(a *storagev1.VolumeAttachment) {
			a.Spec.Source.PersistentVolumeName = nil
		}), "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"},
		{"driver", storage.CSIDriver(), &storagev1.CSIDriver{}, ""},
		{"driver with hasty tokens", storage.CSIDriver(), &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{
			TokenRequests: []storagev1.TokenRequest{{ExpirationSeconds: ptr.To[int64](1)}},
		}}, "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes"},
		{"node", storage.CSINode(), &storagev1.CSINode{Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
			{Name: "d", NodeID: "x"}, {Name: "d", NodeID: "y"},
		}}}, `spec.drivers[1].name: Duplicate value: "d"`},
		{"capacity", storage.CSIStorageCapacity(), &storagev1.CSIStorageCapacity{StorageClassName: "fast"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.kind.Default != nil {
				c.kind.Default(c.obj)
			}
			var got []string
			for _, e := range c.kind.Validate(c.obj) {
				got = append(got, e.Error())
			}
			if s := strings.Join(got, "; "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
		})
	}
}

func TestClassesNeverChange(t *testing.T) {
	kind := storage.StorageClass()
	old := &storagev1.StorageClass{Provisioner: "p"}
	kind.Default(old)
	changed := old.DeepCopy()
	changed.Provisioner = "q"
	changed.AllowVolumeExpansion = ptr.To(true) // which may change
	if errs := kind.ValidateUpdate(changed, old); len(errs) != 1 || errs[0].Field != "provisioner" {
		t.Errorf("got %v", errs)
	}
}
