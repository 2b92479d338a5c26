package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// siblingIndex knows which pods belong together: those that a Service selects
// or a controller owns. Unless they say how to spread, they are spread over
// nodes and zones as far as that costs nothing else.
type siblingIndex struct {
	services    map[string]map[string]labels.Set // selectors by namespace and name
	controllers map[types.UID]labels.Selector
}

func newSiblingIndex() siblingIndex {
	return siblingIndex{services: map[string]map[string]labels.Set{}, controllers: map[types.UID]labels.Selector{}}
}

// SetService tells the selector of a Service.
func (s *Snapshot) SetService(namespace, name string, selector map[string]string) {
	if len(selector) == 0 { // it selects nothing
		s.RemoveService(namespace, name)
		return
	}
	in := s.siblings.services[namespace]
	if in == nil {
		in = map[string]labels.Set{}
		s.siblings.services[namespace] = in
	}
	in[name] = selector
}

// RemoveService forgets a Service.
func (s *Snapshot) RemoveService(namespace, name string) {
	in := s.siblings.services[namespace]
	if delete(in, name); len(in) == 0 {
		delete(s.siblings.services, namespace)
	}
}

// SetController tells the selector of a controller that owns pods.
func (s *Snapshot) SetController(uid types.UID, selector *metav1.LabelSelector) {
	parsed, _ := parseSelector(selector)
	s.siblings.controllers[uid] = parsed
}

// RemoveController forgets a controller.
func (s *Snapshot) RemoveController(uid types.UID) { delete(s.siblings.controllers, uid) }

// siblingsOf selects the pods that belong together with this one; nil is none.
func (s *Snapshot) siblingsOf(obj *corev1.Pod) labels.Selector {
	merged := labels.Set{}
	for _, set := range s.siblings.services[obj.Namespace] {
		if matchesSet(set, obj.Labels) {
			merged = labels.Merge(merged, set)
		}
	}
	selector := labels.NewSelector()
	if len(merged) > 0 {
		selector = labels.SelectorFromSet(merged)
	}
	if owner := metav1.GetControllerOfNoCopy(obj); owner != nil {
		if own, ok := s.siblings.controllers[owner.UID]; ok {
			if requirements, selectable := own.Requirements(); selectable {
				selector = selector.Add(requirements...)
			}
		}
	}
	if selector.Empty() {
		return nil
	}
	return selector
}

func matchesSet(want, have map[string]string) bool {
	for k, v := range want {
		if w, ok := have[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// defaultSpread are the profile's constraints for pods that name none.
func (s *Snapshot) defaultSpread(obj *corev1.Pod, rules *Profile) (hard, soft []*spreadTerm) {
	if len(rules.Spread) == 0 {
		return nil, nil
	}
	selector := s.siblingsOf(obj)
	if selector == nil {
		return nil, nil
	}
	for i := range rules.Spread {
		t := newSpreadTerm(obj, &rules.Spread[i])
		t.selector = selector
		t.key = strings.Join([]string{obj.Namespace, selectorKey(selector)}, "\x00")
		if t.hard {
			hard = append(hard, t)
		} else {
			soft = append(soft, t)
		}
	}
	return hard, soft
}
