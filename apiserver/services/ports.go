package services

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// errTaken says that somebody else holds an address or a port.
var errTaken = errors.New("provided port is already allocated")

// portBitmap is upstream's key for the node ports that are in use: one
// RangeAllocation whose data is a big-endian bitmap, bit n for port First+n.
const portBitmap = "servicenodeports"

// portRanges is the storage of RangeAllocations. The kind is stored, never served.
func portRanges() *api.Kind {
	return &api.Kind{
		GVK:         corev1.SchemeGroupVersion.WithKind("RangeAllocation"),
		Resource:    "rangeallocations",
		New:         func() api.Object { return &corev1.RangeAllocation{} },
		StoragePath: "ranges",
	}
}

// portRange is inclusive at both ends.
type portRange struct{ first, last int32 }

func (r portRange) String() string        { return fmt.Sprintf("%d-%d", r.first, r.last) }
func (r portRange) contains(p int32) bool { return r.first <= p && p <= r.last }
func (r portRange) size() int             { return int(r.last-r.first) + 1 }

// ports hands out node ports from a bitmap in the store.
type ports struct {
	within portRange
	res    *store.Resource
	// idle are the ports that nothing used at the last repair.
	idle *big.Int
}

// change runs fn on the bitmap and stores what it made, again when another
// writer came between.
func (p *ports) change(ctx context.Context, fn func(bits *big.Int) error) error {
	for {
		entry, err := p.res.Latest(ctx, portBitmap)
		if err != nil {
			return err
		}
		bits := new(big.Int)
		ra := &corev1.RangeAllocation{}
		ra.SetGroupVersionKind(portRanges().GVK)
		if entry != nil {
			ra = entry.Object.DeepCopyObject().(*corev1.RangeAllocation)
			if ra.Range == p.within.String() {
				bits.SetBytes(ra.Data)
			} // else the range was changed by a flag: Repair marks what is in use
		}
		if err := fn(bits); err != nil {
			return err
		}
		ra.Range, ra.Data = p.within.String(), bits.Bytes()
		if entry == nil {
			_, err = p.res.Create(ctx, portBitmap, ra, 0)
			if apierrors.IsAlreadyExists(err) {
				continue
			}
			return err
		}
		if _, err = p.res.Update(ctx, entry, ra); errors.Is(err, store.ErrChanged) {
			continue
		}
		return err
	}
}

// take claims exactly port.
func (p *ports) take(ctx context.Context, port int32) error {
	if !p.within.contains(port) {
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", p.within)
	}
	return p.change(ctx, func(bits *big.Int) error {
		n := int(port - p.within.first)
		if bits.Bit(n) == 1 {
			return errTaken
		}
		bits.SetBit(bits, n, 1)
		return nil
	})
}

// next claims a free port. The first ports of the range are kept for those
// who ask by number, until the rest is used up (KEP-3668).
func (p *ports) next(ctx context.Context) (port int32, err error) {
	err = p.change(ctx, func(bits *big.Int) error {
		n, ok := freeBit(bits, p.within.size(), min(max(16, p.within.size()/32), 128))
		if !ok {
			return errors.New("range is full")
		}
		bits.SetBit(bits, n, 1)
		port = p.within.first + int32(n)
		return nil
	})
	return port, err
}

// freeBit finds a clear bit below size, at or above reserved if there is one.
func freeBit(bits *big.Int, size, reserved int) (int, bool) {
	if reserved >= size {
		reserved = 0
	}
	for _, band := range [][2]int{{reserved, size}, {0, reserved}} {
		width := band[1] - band[0]
		if width == 0 {
			continue
		}
		start := rand.IntN(width)
		for i := range width {
			n := band[0] + (start+i)%width
			if bits.Bit(n) == 0 {
				return n, true
			}
		}
	}
	return 0, false
}

// release gives ports back.
func (p *ports) release(ctx context.Context, list []int32) error {
	if len(list) == 0 {
		return nil
	}
	return p.change(ctx, func(bits *big.Int) error {
		for _, port := range list {
			if p.within.contains(port) {
				bits.SetBit(bits, int(port-p.within.first), 0)
			}
		}
		return nil
	})
}

// repair claims the ports in used, and gives back those that nothing used at
// the last repair either: one that is claimed for a Service being written is
// missing from used once at most.
func (p *ports) repair(ctx context.Context, used *big.Int) error {
	idle := new(big.Int)
	err := p.change(ctx, func(bits *big.Int) error {
		bits.Or(bits, used)
		idle.AndNot(bits, used)
		if p.idle != nil {
			bits.AndNot(bits, new(big.Int).And(idle, p.idle))
		}
		return nil
	})
	p.idle = idle
	return err
}
