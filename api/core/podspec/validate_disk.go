package podspec

import (
	"net"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// required wants each of the named fields: name, value, name, value, …
func required(path *field.Path, pairs ...string) field.ErrorList {
	var errs field.ErrorList
	for i := 0; i < len(pairs); i += 2 {
		errs = append(errs, validate.Required(path.Child(pairs[i]), pairs[i+1])...)
	}
	return errs
}

// diskChecks are the sources that attach a disk or mount a file system over
// the network. Most of their drivers are gone, their validation is not.
func diskChecks(v *corev1.Volume) []sourceCheck[aVolume] {
	type P = *field.Path
	type E = field.ErrorList
	return []sourceCheck[aVolume]{
		{name: "gitRepo", set: v.GitRepo != nil, check: func(v aVolume, p P) E {
			return append(required(p, "repository", v.GitRepo.Repository), validate.RelativePath(p.Child("directory"), v.GitRepo.Directory)...)
		}},
		{name: "gcePersistentDisk", where: "persistentDisk", set: v.GCEPersistentDisk != nil, check: func(v aVolume, p P) E {
			return validateDisk(p, "pdName", v.GCEPersistentDisk.PDName, v.GCEPersistentDisk.Partition)
		}},
		{name: "awsElasticBlockStore", set: v.AWSElasticBlockStore != nil, check: func(v aVolume, p P) E {
			return validateDisk(p, "volumeID", v.AWSElasticBlockStore.VolumeID, v.AWSElasticBlockStore.Partition)
		}},
		{name: "nfs", set: v.NFS != nil, check: func(v aVolume, p P) E { return validateNFS(p, v.NFS) }},
		{name: "iscsi", set: v.ISCSI != nil, check: func(v aVolume, p P) E { return validateISCSI(p, v.ISCSI) }},
		{name: "glusterfs", set: v.Glusterfs != nil, check: func(v aVolume, p P) E {
			return required(p, "endpoints", v.Glusterfs.EndpointsName, "path", v.Glusterfs.Path)
		}},
		{name: "flocker", set: v.Flocker != nil, check: func(v aVolume, p P) E { return validateFlocker(p, v.Flocker) }},
		{name: "rbd", set: v.RBD != nil, check: func(v aVolume, p P) E { return validateRBD(p, v.RBD.CephMonitors, v.RBD.RBDImage) }},
		{name: "cinder", set: v.Cinder != nil, check: func(v aVolume, p P) E {
			return append(required(p, "volumeID", v.Cinder.VolumeID), secretName(p, v.Cinder.SecretRef)...)
		}},
		{name: "cephFS", where: "cephfs", set: v.CephFS != nil, check: func(v aVolume, p P) E { return validateMonitors(p, v.CephFS.Monitors) }},
		{name: "quobyte", set: v.Quobyte != nil, check: func(v aVolume, p P) E { return validateQuobyte(p, v.Quobyte) }},
		{name: "fc", set: v.FC != nil, check: func(v aVolume, p P) E { return validateFC(p, v.FC) }},
		{name: "flexVolume", set: v.FlexVolume != nil, check: func(v aVolume, p P) E {
			return validateFlex(p, v.FlexVolume.Driver, v.FlexVolume.Options)
		}},
		{name: "azureFile", set: v.AzureFile != nil, check: func(v aVolume, p P) E {
			return required(p, "secretName", v.AzureFile.SecretName, "shareName", v.AzureFile.ShareName)
		}},
		{name: "vsphereVolume", set: v.VsphereVolume != nil, check: func(v aVolume, p P) E {
			return required(p, "volumePath", v.VsphereVolume.VolumePath)
		}},
		{name: "photonPersistentDisk", set: v.PhotonPersistentDisk != nil, check: func(v aVolume, p P) E {
			return required(p, "pdID", v.PhotonPersistentDisk.PdID)
		}},
		{name: "portworxVolume", set: v.PortworxVolume != nil, check: func(v aVolume, p P) E {
			return required(p, "volumeID", v.PortworxVolume.VolumeID)
		}},
		{name: "azureDisk", set: v.AzureDisk != nil, check: func(v aVolume, p P) E { return validateAzureDisk(p, v.AzureDisk) }},
		{name: "storageos", set: v.StorageOS != nil, check: func(v aVolume, p P) E {
			errs := validateStorageOS(p, v.StorageOS.VolumeName, v.StorageOS.VolumeNamespace)
			return append(errs, secretName(p, v.StorageOS.SecretRef)...)
		}},
		{name: "scaleIO", set: v.ScaleIO != nil, check: func(v aVolume, p P) E {
			return required(p, "gateway", v.ScaleIO.Gateway, "system", v.ScaleIO.System, "volumeName", v.ScaleIO.VolumeName)
		}},
	}
}

func secretName(path *field.Path, ref *corev1.LocalObjectReference) field.ErrorList {
	if ref == nil {
		return nil
	}
	return validate.Required(path.Child("secretRef", "name"), ref.Name)
}

// validateDisk validates a cloud's disk and the partition of it.
func validateDisk(path *field.Path, name, id string, partition int32) field.ErrorList {
	errs := required(path, name, id)
	if partition < 0 || partition > 255 {
		errs = append(errs, field.Invalid(path.Child("partition"), partition, validation.InclusiveRangeError(1, 255)))
	}
	return errs
}

// validateNFS validates an NFS export.
func validateNFS(path *field.Path, n *corev1.NFSVolumeSource) field.ErrorList {
	errs := required(path, "server", n.Server, "path", n.Path)
	if !strings.HasPrefix(n.Path, "/") {
		errs = append(errs, field.Invalid(path.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

func validateISCSI(path *field.Path, s *corev1.ISCSIVolumeSource) field.ErrorList {
	errs := required(path, "targetPortal", s.TargetPortal)
	if s.IQN == "" {
		errs = append(errs, field.Required(path.Child("iqn"), ""))
	} else {
		errs = append(errs, validateIQN(path.Child("iqn"), s.IQN)...)
	}
	if s.Lun < 0 || s.Lun > 255 {
		errs = append(errs, field.Invalid(path.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255)))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(path.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		errs = append(errs, validateIQN(path.Child("initiatorname"), *s.InitiatorName)...)
	}
	return errs
}

// validateIQN wants one of the three forms of iSCSI names.
func validateIQN(path *field.Path, name string) field.ErrorList {
	forms := map[string]string{
		"iqn": `iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`,
		"eui": `^eui.[[:alnum:]]{16}$`,
		"naa": `^naa.[[:alnum:]]{32}$`,
	}
	for prefix, form := range forms {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if ok, err := regexp.MatchString(form, name); err != nil || !ok {
			return field.ErrorList{field.Invalid(path, name, "must be valid format")}
		}
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, "must be valid format starting with iqn, eui, or naa")}
}

// validateFlocker wants a data set's name or UUID.
func validateFlocker(path *field.Path, f *corev1.FlockerVolumeSource) field.ErrorList {
	var errs field.ErrorList
	if f.DatasetName == "" && f.DatasetUUID == "" {
		errs = append(errs, field.Required(path, "one of datasetName and datasetUUID is required"))
	}
	if f.DatasetName != "" && f.DatasetUUID != "" {
		errs = append(errs, field.Invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		errs = append(errs, field.Invalid(path.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return errs
}

// validateRBD validates a Ceph block device.
func validateRBD(path *field.Path, monitors []string, image string) field.ErrorList {
	return append(validateMonitors(path, monitors), required(path, "image", image)...)
}

// validateMonitors wants at least one Ceph monitor.
func validateMonitors(path *field.Path, monitors []string) field.ErrorList {
	if len(monitors) == 0 {
		return field.ErrorList{field.Required(path.Child("monitors"), "")}
	}
	return nil
}

// validateQuobyte validates a Quobyte volume.
func validateQuobyte(path *field.Path, q *corev1.QuobyteVolumeSource) field.ErrorList {
	var errs field.ErrorList
	const form = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case q.Registry == "":
		errs = append(errs, field.Required(path.Child("registry"), form))
	case len(q.Tenant) >= 65:
		errs = append(errs, field.Required(path.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for pair := range strings.SplitSeq(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(path.Child("registry"), q.Registry, form))
			}
		}
	}
	return append(errs, required(path, "volume", q.Volume)...)
}

// validateFC validates a Fibre Channel volume.
func validateFC(path *field.Path, f *corev1.FCVolumeSource) field.ErrorList {
	var errs field.ErrorList
	if len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0 {
		errs = append(errs, field.Required(path.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	}
	if len(f.TargetWWNs) != 0 && len(f.WWIDs) != 0 {
		errs = append(errs, field.Invalid(path.Child("targetWWNs"), f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if len(f.TargetWWNs) != 0 {
		if f.Lun == nil {
			errs = append(errs, field.Required(path.Child("lun"), "lun is required if targetWWNs is specified"))
		} else if *f.Lun < 0 || *f.Lun > 255 {
			errs = append(errs, field.Invalid(path.Child("lun"), f.Lun, validation.InclusiveRangeError(0, 255)))
		}
	}
	return errs
}

// validateFlex validates a FlexVolume; options of Kubernetes' own domains are
// passed by the kubelet, not by users.
func validateFlex(path *field.Path, driver string, options map[string]string) field.ErrorList {
	errs := required(path, "driver", driver)
	for k := range options {
		domain, _, _ := strings.Cut(k, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(path.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

// validateAzureDisk validates an Azure disk; its URI depends on its kind.
func validateAzureDisk(path *field.Path, d *corev1.AzureDiskVolumeSource) field.ErrorList {
	errs := required(path, "diskName", d.DiskName, "diskURI", d.DataDiskURI)
	if d.CachingMode != nil {
		errs = append(errs, validate.OneOf(path.Child("cachingMode"), *d.CachingMode,
			corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if d.Kind == nil {
		return errs
	}
	errs = append(errs, validate.OneOf(path.Child("kind"), *d.Kind,
		corev1.AzureSharedBlobDisk, corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk)...)
	managed := *d.Kind == corev1.AzureManagedDisk
	switch {
	case managed && !strings.HasPrefix(d.DataDiskURI, "/subscriptions/"):
		errs = append(errs, field.NotSupported(path.Child("diskURI"), d.DataDiskURI,
			[]string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	case !managed && !strings.HasPrefix(d.DataDiskURI, "https://"):
		errs = append(errs, field.NotSupported(path.Child("diskURI"), d.DataDiskURI,
			[]string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
	return errs
}

// validateStorageOS validates the names of a StorageOS volume.
func validateStorageOS(path *field.Path, name, namespace string) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child("volumeName"), ""))
	} else {
		errs = append(errs, validate.Label(path.Child("volumeName"), name)...)
	}
	if namespace != "" {
		errs = append(errs, validate.Label(path.Child("volumeNamespace"), namespace)...)
	}
	return errs
}

// ValidateVolumeSource validates what a PersistentVolume stands for.
func ValidateVolumeSource(path *field.Path, v *corev1.PersistentVolumeSpec) field.ErrorList {
	type P = *field.Path
	type E = field.ErrorList
	type V = *corev1.PersistentVolumeSpec
	return oneSource(path, v, []sourceCheck[V]{
		{name: "hostPath", set: v.HostPath != nil, check: func(v V, p P) E { return validateHostPath(p, v.HostPath) }},
		{name: "gcePersistentDisk", where: "persistentDisk", set: v.GCEPersistentDisk != nil, check: func(v V, p P) E {
			return validateDisk(p, "pdName", v.GCEPersistentDisk.PDName, v.GCEPersistentDisk.Partition)
		}},
		{name: "awsElasticBlockStore", set: v.AWSElasticBlockStore != nil, check: func(v V, p P) E {
			return validateDisk(p, "volumeID", v.AWSElasticBlockStore.VolumeID, v.AWSElasticBlockStore.Partition)
		}},
		{name: "glusterfs", set: v.Glusterfs != nil, check: func(v V, p P) E {
			return required(p, "endpoints", v.Glusterfs.EndpointsName, "path", v.Glusterfs.Path)
		}},
		{name: "flocker", set: v.Flocker != nil, check: func(v V, p P) E { return validateFlocker(p, v.Flocker) }},
		{name: "nfs", set: v.NFS != nil, check: func(v V, p P) E { return validateNFS(p, v.NFS) }},
		{name: "rbd", set: v.RBD != nil, check: func(v V, p P) E { return validateRBD(p, v.RBD.CephMonitors, v.RBD.RBDImage) }},
		{name: "quobyte", set: v.Quobyte != nil, check: func(v V, p P) E { return validateQuobyte(p, v.Quobyte) }},
		{name: "cephFS", where: "cephfs", set: v.CephFS != nil, check: func(v V, p P) E { return validateMonitors(p, v.CephFS.Monitors) }},
		{name: "iscsi", set: v.ISCSI != nil, check: func(v V, p P) E {
			s := v.ISCSI
			pod := corev1.ISCSIVolumeSource{
				TargetPortal: s.TargetPortal, IQN: s.IQN, Lun: s.Lun, InitiatorName: s.InitiatorName,
				DiscoveryCHAPAuth: s.DiscoveryCHAPAuth, SessionCHAPAuth: s.SessionCHAPAuth,
			}
			if s.SecretRef != nil {
				pod.SecretRef = &corev1.LocalObjectReference{Name: s.SecretRef.Name}
			}
			return append(validateISCSI(p, &pod), secretName(p, pod.SecretRef)...)
		}},
		{name: "cinder", set: v.Cinder != nil, check: func(v V, p P) E {
			return append(required(p, "volumeID", v.Cinder.VolumeID), secretRef(p.Child("secretRef"), v.Cinder.SecretRef)...)
		}},
		{name: "fc", set: v.FC != nil, check: func(v V, p P) E { return validateFC(p, v.FC) }},
		{name: "flexVolume", set: v.FlexVolume != nil, check: func(v V, p P) E {
			return validateFlex(p, v.FlexVolume.Driver, v.FlexVolume.Options)
		}},
		{name: "azureFile", set: v.AzureFile != nil, check: func(v V, p P) E {
			errs := required(p, "secretName", v.AzureFile.SecretName, "shareName", v.AzureFile.ShareName)
			if n := v.AzureFile.SecretNamespace; n != nil {
				errs = append(errs, required(p, "secretNamespace", *n)...)
			}
			return errs
		}},
		{name: "vsphereVolume", set: v.VsphereVolume != nil, check: func(v V, p P) E { return required(p, "volumePath", v.VsphereVolume.VolumePath) }},
		{name: "photonPersistentDisk", set: v.PhotonPersistentDisk != nil, check: func(v V, p P) E {
			return required(p, "pdID", v.PhotonPersistentDisk.PdID)
		}},
		{name: "portworxVolume", set: v.PortworxVolume != nil, check: func(v V, p P) E { return required(p, "volumeID", v.PortworxVolume.VolumeID) }},
		{name: "azureDisk", set: v.AzureDisk != nil, check: func(v V, p P) E { return validateAzureDisk(p, v.AzureDisk) }},
		{name: "scaleIO", set: v.ScaleIO != nil, check: func(v V, p P) E {
			return required(p, "gateway", v.ScaleIO.Gateway, "system", v.ScaleIO.System, "volumeName", v.ScaleIO.VolumeName)
		}},
		{name: "local", set: v.Local != nil, check: func(v V, p P) E {
			errs := required(p, "path", v.Local.Path)
			if len(errs) == 0 {
				errs = validate.NoBacksteps(p.Child("path"), v.Local.Path)
			}
			if v.NodeAffinity == nil {
				errs = append(errs, field.Required(path.Child("nodeAffinity"), "Local volume requires node affinity"))
			}
			return errs
		}},
		{name: "storageos", set: v.StorageOS != nil, check: func(v V, p P) E {
			return validateStorageOS(p, v.StorageOS.VolumeName, v.StorageOS.VolumeNamespace)
		}},
		{name: "csi", set: v.CSI != nil, check: func(v V, p P) E {
			errs := ValidateCSIDriverName(p.Child("driver"), v.CSI.Driver)
			errs = append(errs, required(p, "volumeHandle", v.CSI.VolumeHandle)...)
			errs = append(errs, secretRef(p.Child("controllerPublishSecretRef"), v.CSI.ControllerPublishSecretRef)...)
			errs = append(errs, secretRef(p.Child("controllerExpandSecretRef"), v.CSI.ControllerExpandSecretRef)...)
			errs = append(errs, secretRef(p.Child("nodePublishSecretRef"), v.CSI.NodePublishSecretRef)...)
			return append(errs, secretRef(p.Child("nodeExpandSecretRef"), v.CSI.NodeExpandSecretRef)...)
		}},
	})
}

// secretRef wants a name and a namespace, both valid.
func secretRef(path *field.Path, ref *corev1.SecretReference) field.ErrorList {
	if ref == nil {
		return nil
	}
	errs := required(path, "name", ref.Name)
	if ref.Name != "" {
		errs = validate.Subdomain(path.Child("name"), ref.Name)
	}
	if ref.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), ""))
	}
	return append(errs, validate.Label(path.Child("namespace"), ref.Namespace)...)
}
