package job

import (
	"math"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// noIndex is the index of a pod that has none.
const noIndex = -1

// completionIndex returns a pod's index, or noIndex.
func completionIndex(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || n < 0 {
		return noIndex
	}
	return n
}

// failureCount is how often the pod's index had failed before the pod, as far
// as that counts; allFailures includes what the policy says to ignore. Who
// removes or garbles the annotation starts from zero.
func failureCount(pod *corev1.Pod) int32 {
	return parseCount(pod.Annotations[batchv1.JobIndexFailureCountAnnotation])
}

func ignoredCount(pod *corev1.Pod) int32 {
	return parseCount(pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation])
}

func allFailures(pod *corev1.Pod) int64 { return int64(failureCount(pod)) + int64(ignoredCount(pod)) }

func parseCount(text string) int32 {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}

// interval is a row of indexes, both ends included.
type interval struct{ first, last int }

// intervals is a set of indexes in growing order: no two touch.
type intervals []interval

// parseIntervals reads "1,3-5,7", up to completions. What cannot be read is
// left out.
func parseIntervals(text string, completions int) intervals {
	if text == "" {
		return nil
	}
	var out intervals
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(low)
		if err != nil || first < 0 {
			continue
		}
		if first >= completions {
			break
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(high); err != nil {
				continue
			}
			last = min(last, completions-1)
		}
		if last < first || len(out) > 0 && first <= out[len(out)-1].last {
			continue
		}
		out = out.add(interval{first, last})
	}
	return out
}

// add appends an interval that begins at or after the last one's beginning.
func (s intervals) add(v interval) intervals {
	if n := len(s); n > 0 && v.first <= s[n-1].last+1 {
		s[n-1].last = max(s[n-1].last, v.last)
		return s
	}
	return append(s, v)
}

// with returns a new set that has some more indexes, given in growing order.
func (s intervals) with(more []int) intervals {
	other := make(intervals, len(more))
	for i, ix := range more {
		other[i] = interval{ix, ix}
	}
	return s.union(other)
}

// union returns a new set. The other one's intervals may touch.
func (s intervals) union(other intervals) intervals {
	var out intervals
	for len(s) > 0 || len(other) > 0 {
		if len(other) == 0 || len(s) > 0 && s[0].first < other[0].first {
			out, s = out.add(s[0]), s[1:]
		} else {
			out, other = out.add(other[0]), other[1:]
		}
	}
	return out
}

func (s intervals) total() int {
	n := 0
	for _, v := range s {
		n += v.last - v.first + 1
	}
	return n
}

func (s intervals) has(ix int) bool {
	low, high := 0, len(s)
	for low < high {
		mid := low + (high-low)/2
		if s[mid].last < ix {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(s) && s[low].first <= ix
}

// common counts the indexes that two sets share.
func (s intervals) common(other intervals) int {
	n := 0
	for len(s) > 0 && len(other) > 0 {
		n += max(0, min(s[0].last, other[0].last)-max(s[0].first, other[0].first)+1)
		if s[0].last < other[0].last {
			s = s[1:]
		} else {
			other = other[1:]
		}
	}
	return n
}

// missing returns the first count indexes below completions that are not in
// the set.
func (s intervals) missing(count, completions int) []int {
	out := make([]int, 0, count)
	next := 0
	upTo := func(end int) {
		for ; next < min(end, completions) && len(out) < count; next++ {
			out = append(out, next)
		}
	}
	for _, v := range s {
		upTo(v.first)
		next = max(next, v.last+1)
	}
	upTo(completions)
	return out
}

// String is as in a job's status: "1,3-5,7". Two neighbours are named both.
func (s intervals) String() string {
	var b strings.Builder
	for _, v := range s {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(v.first))
		switch v.last {
		case v.first:
			continue
		case v.first + 1:
			b.WriteByte(',')
		default:
			b.WriteByte('-')
		}
		b.WriteString(strconv.Itoa(v.last))
	}
	return b.String()
}
