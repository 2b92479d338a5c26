package batch

import (
	"fmt"
	"strconv"
	"strings"
)

// span is a row of indexes, both ends included.
type span struct{ first, last int32 }

// checkIndexes reads a list of indexes such as "1,3-5,7", in growing order and
// each below completions. It returns how many there are.
func checkIndexes(text string, completions int32) (int32, error) {
	if text == "" {
		return 0, nil
	}
	var total int32
	last := int32(-1)
	for part := range strings.SplitSeq(text, ",") {
		s, err := parseSpan(part, completions)
		if err != nil {
			return 0, err
		}
		if last >= s.first {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, s.first)
		}
		total += s.last - s.first + 1
		last = s.last
	}
	return total, nil
}

func parseSpan(text string, completions int32) (span, error) {
	ends := strings.Split(text, "-")
	if len(ends) > 2 {
		return span{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	var read [2]int32
	for i, end := range ends {
		n, err := strconv.Atoi(end)
		if err != nil {
			return span{}, fmt.Errorf("cannot convert string to integer for index: %q", end)
		}
		if n >= int(completions) {
			return span{}, fmt.Errorf("too large index: %q", end)
		}
		read[i] = int32(n)
	}
	if len(ends) == 1 {
		return span{read[0], read[0]}, nil
	}
	if read[0] >= read[1] {
		return span{}, fmt.Errorf("non-increasing order, previous: %d, current: %d", read[0], read[1])
	}
	return span{read[0], read[1]}, nil
}

// checkDisjoint finds an index that both lists name. What cannot be read is
// passed over: it is an error elsewhere.
func checkDisjoint(completed, failed string, completions int32) error {
	c, f := spans(completed, completions), spans(failed, completions)
	for len(c) > 0 && len(f) > 0 {
		if c[0].first <= f[0].last && f[0].first <= c[0].last {
			return fmt.Errorf("failedIndexes and completedIndexes overlap at index: %d", max(c[0].first, f[0].first))
		}
		if c[0].first <= f[0].first {
			c = c[1:]
		} else {
			f = f[1:]
		}
	}
	return nil
}

func spans(text string, completions int32) []span {
	var out []span
	for part := range strings.SplitSeq(text, ",") {
		if s, err := parseSpan(part, completions); err == nil {
			out = append(out, s)
		}
	}
	return out
}
