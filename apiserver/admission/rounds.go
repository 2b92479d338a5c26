package admission

import (
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/proa-dev/proa/api"
)

// rounds is the state of the mutators of one write: they run once, and a second
// time when one that comes late changed the object.
type rounds struct {
	again   bool // the second round
	wanted  bool
	recalls map[string]*Recall // by plugin
}

// Recall is what a plugin remembers between two rounds whose parts (webhooks,
// policies) may want to be called again. A part is called again if it was called
// in the first round, asks for it, and the object was changed after it.
type Recall struct {
	attributes  *Attributes
	called, due map[string]bool
	left        runtime.Object // by the plugin in the first round
}

// Recall returns what a plugin remembers. It is called at the beginning of each
// round.
func (a *Attributes) Recall(plugin string) *Recall {
	if r := a.recalls[plugin]; r != nil {
		// Built-in plugins ran again, and may have changed the object for their part.
		if a.again && len(r.called) > 0 && !api.Equal(r.left, a.Object) {
			r.require()
		}
		return r
	}
	r := &Recall{attributes: a, called: map[string]bool{}, due: map[string]bool{}}
	if a.recalls == nil {
		a.recalls = map[string]*Recall{}
	}
	a.recalls[plugin] = r
	return r
}

// Round is 0, or 1 in the second round.
func (r *Recall) Round() int {
	if r.attributes.again {
		return 1
	}
	return 0
}

// Skips says that a part is not called in this round.
func (r *Recall) Skips(part string) bool { return r.attributes.again && !r.due[part] }

// Called notes a part that wants to be called again.
func (r *Recall) Called(part string) { r.called[part] = true }

// Changed says that a part changed the object.
func (r *Recall) Changed() {
	r.require()
	r.attributes.wanted = true
}

func (r *Recall) require() {
	for part := range r.called {
		r.due[part] = true
	}
	clear(r.called)
}

// Done notes what the plugin leaves behind at the end of a round.
func (r *Recall) Done() {
	r.left = nil
	if len(r.called) > 0 && !r.attributes.again && r.attributes.Object != nil {
		r.left = r.attributes.Object.DeepCopyObject()
	}
}
