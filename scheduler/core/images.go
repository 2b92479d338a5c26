package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// An image below the first size is not worth moving a pod for, and one above
// the second is worth no more.
const (
	minImage = 23 << 20
	maxImage = 1000 << 20
)

// imageState is where an image is present.
type imageState struct {
	sizes map[int32]int64
}

// imageName is the name as nodes report it: with a tag.
func imageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}

// setImages replaces what is known of a node's images; either may be nil.
func (s *Snapshot) setImages(slot int32, old, now *corev1.Node) bool {
	var before, after []corev1.ContainerImage
	if old != nil {
		before = old.Status.Images
	}
	if now != nil {
		after = now.Status.Images
	}
	if slices.EqualFunc(before, after, func(a, b corev1.ContainerImage) bool {
		return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
	}) {
		return false
	}
	for _, image := range before {
		for _, name := range image.Names {
			if state, ok := s.images[name]; ok {
				delete(state.sizes, slot)
				if len(state.sizes) == 0 {
					delete(s.images, name)
				}
			}
		}
	}
	for _, image := range after {
		for _, name := range image.Names {
			state, ok := s.images[name]
			if !ok {
				state = &imageState{sizes: map[int32]int64{}}
				s.images[name] = state
			}
			state.sizes[slot] = image.SizeBytes
		}
	}
	return true
}

// imagesOf returns those of the images that any node has, and a number that
// changes when the scores of unchanged nodes do: how widely they are spread.
func (s *Snapshot) imagesOf(names []string) (found []*imageState, spread int) {
	for _, name := range names {
		if state, ok := s.images[name]; ok {
			found = append(found, state)
			spread = spread*8191 + len(state.sizes)
		}
	}
	if len(found) > 0 {
		spread = spread*8191 + s.live
	}
	return found, spread
}

// imageScore grows with the bytes that the node need not pull; an image that
// few nodes have counts less, lest they draw every pod.
func (s *Snapshot) imageScore(found []*imageState, parts int, slot int32) int64 {
	var sum int64
	for _, state := range found {
		if size, ok := state.sizes[slot]; ok {
			sum += int64(float64(size) * float64(len(state.sizes)) / float64(s.live))
		}
	}
	upper := int64(maxImage) * int64(parts)
	sum = min(max(sum, minImage), upper)
	return maxScore * (sum - minImage) / (upper - minImage)
}
