package openapi

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// withRemotes adds to the version 2 document what other servers say of their
// paths. Definitions that differ under one name get another.
func (ds *documents) withRemotes(local object) (any, error) {
	var merged *spec.Swagger
	for _, gv := range ds.view.Remotes() {
		theirs := ds.view.Remote(gv).OpenAPI
		if theirs == nil {
			continue
		}
		if merged == nil {
			data, err := json.Marshal(local)
			if err != nil {
				return nil, err
			}
			merged = &spec.Swagger{}
			if err := json.Unmarshal(data, merged); err != nil {
				return nil, err
			}
		}
		if err := mergeInto(merged, theirs); err != nil {
			continue // it has added nothing that is referred to: one bad document spoils no other
		}
	}
	if merged == nil {
		return local, nil
	}
	return merged, nil
}

// mergeInto adds a document of somebody else's, which may be anything.
func mergeInto(to, theirs *spec.Swagger) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be merged: %v", p)
		}
	}()
	return aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(to, theirs)
}

// converted makes the version 3 document of a group and version whose server
// has one of version 2 alone; nil if it has none.
func (ds *documents) converted(gv schema.GroupVersion) (doc *spec3.OpenAPI) {
	remote := ds.view.Remote(gv)
	if remote == nil || remote.OpenAPI == nil {
		return nil
	}
	defer func() {
		if recover() != nil {
			doc = nil
		}
	}()
	return openapiconv.ConvertV2ToV3(remote.OpenAPI)
}
