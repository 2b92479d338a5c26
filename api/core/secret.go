package core

import (
	"crypto/tls"
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// Secret is the kind of secrets.
func Secret() *api.Kind {
	return &api.Kind{
		GVK:         gvk("Secret"),
		Resource:    "secrets",
		Namespaced:  true,
		New:         api.Maker[corev1.Secret](),
		NewList:     api.ListMaker[corev1.SecretList](),
		StoragePath: "secrets",
		Columns: []api.Column{
			api.Col("Type", "string", "What the secret is for.", func(s *corev1.Secret) any { return string(s.Type) }),
			api.Col("Data", "string", "Number of keys.", func(s *corev1.Secret) any { return int64(len(s.Data)) }),
			api.AgeColumn(),
		},

		Default:       api.On(defaultSecret),
		PrepareCreate: api.On(mergeStringData),
		PrepareUpdate: api.OnUpdate(func(s, old *corev1.Secret) {
			mergeStringData(s)
			if s.Type == "" {
				s.Type = old.Type
			}
		}),
		Warnings: api.Warn(func(s, _ *corev1.Secret) []string {
			if s.Type != corev1.SecretTypeTLS {
				return nil
			}
			if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
				return []string{err.Error()}
			}
			return nil
		}),
		Validate:       api.Check(validateSecret),
		ValidateUpdate: api.CheckUpdate(validateSecretUpdate),
		Fields: api.FieldsOf(func(s *corev1.Secret) fields.Set {
			return fields.Set{"type": string(s.Type)}
		}),
		FieldNames: []string{"type"},
	}
}

func defaultSecret(s *corev1.Secret) {
	mergeStringData(s)
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
}

// mergeStringData moves what was written as text into data: stringData is
// never stored nor read back.
func mergeStringData(s *corev1.Secret) {
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	path := field.NewPath("data")
	var errs field.ErrorList
	size := 0
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		errs = append(errs, validate.Messages(path.Key(k), k, validation.IsConfigMapKey(k))...)
		size += len(s.Data[k])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(path, "", corev1.MaxSecretSize))
	}
	return append(errs, validateSecretType(path, s)...)
}

// validateSecretType wants the keys that the secret's type stands for.
func validateSecretType(path *field.Path, s *corev1.Secret) field.ErrorList {
	wanted := func(keys ...string) field.ErrorList {
		var errs field.ErrorList
		for _, k := range keys {
			if _, ok := s.Data[k]; !ok {
				errs = append(errs, field.Required(path.Key(k), ""))
			}
		}
		return errs
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		return validate.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey),
			s.Annotations[corev1.ServiceAccountNameKey])
	case corev1.SecretTypeDockercfg:
		return append(wanted(corev1.DockerConfigKey), validateJSONKey(path, s, corev1.DockerConfigKey)...)
	case corev1.SecretTypeDockerConfigJson:
		return append(wanted(corev1.DockerConfigJsonKey), validateJSONKey(path, s, corev1.DockerConfigJsonKey)...)
	case corev1.SecretTypeBasicAuth:
		// Either will do; both are named when both are missing.
		if errs := wanted(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey); len(errs) == 2 {
			return errs
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			return field.ErrorList{field.Required(path.Key(corev1.SSHAuthPrivateKey), "")}
		}
	case corev1.SecretTypeTLS:
		return wanted(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return nil
}

func validateJSONKey(path *field.Path, s *corev1.Secret, key string) field.ErrorList {
	data, ok := s.Data[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(data, &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(path.Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := validate.Unchanged(field.NewPath("type"), s.Type, old.Type)
	if old.Immutable != nil && *old.Immutable {
		errs = append(errs, validateSealed(map[string]bool{
			"immutable": s.Immutable == nil || !*s.Immutable,
			"data":      !reflect.DeepEqual(s.Data, old.Data),
		})...)
	}
	return append(errs, validateSecret(s)...)
}
