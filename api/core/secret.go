package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/proa-dev/proa/api"
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

		Default:       api.On(defaultSecret),
		PrepareCreate: api.On(mergeStringData),
		PrepareUpdate: api.OnUpdate(func(s, old *corev1.Secret) {
			mergeStringData(s)
			if s.Type == "" {
				s.Type = old.Type
			}
		}),
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
