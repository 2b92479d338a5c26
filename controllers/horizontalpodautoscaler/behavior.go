package horizontalpodautoscaler

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// history is what an autoscaler asked for and did in the last while.
type history struct {
	recommendations []event
	ups, downs      []event
	// written is the resource version of our last write of the status.
	written string
}

// event is a recommendation, or a change of replicas, and when it was.
type event struct {
	replicas int32
	at       time.Time
}

// begin notes the replicas that there are as the first recommendation.
func (h *history) begin(current int32, now time.Time) {
	if h.recommendations == nil {
		h.recommendations = []event{{current, now}}
	}
}

// recommend notes a recommendation, and forgets those that are too old.
func (h *history) recommend(replicas int32, now time.Time, keep time.Duration) {
	oldest := now.Add(-keep)
	h.recommendations = slices.DeleteFunc(h.recommendations, func(e event) bool { return e.at.Before(oldest) })
	h.recommendations = append(h.recommendations, event{replicas, now})
}

// rescaled notes a change of the replicas, for the limits of rates.
func (h *history) rescaled(b *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) {
	if b == nil {
		return
	}
	list, rules, change := &h.ups, b.ScaleUp, to-from
	if to < from {
		list, rules, change = &h.downs, b.ScaleDown, from-to
	}
	var longest int32
	if rules != nil {
		for _, p := range rules.Policies {
			longest = max(longest, p.PeriodSeconds)
		}
	}
	oldest := now.Add(-seconds(longest))
	*list = slices.DeleteFunc(*list, func(e event) bool { return e.at.Before(oldest) })
	*list = append(*list, event{change, now})
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// changed adds up the changes of the last while.
func changed(list []event, now time.Time, period int32) int32 {
	oldest := now.Add(-seconds(period))
	var n int32
	for _, e := range list {
		if e.at.After(oldest) {
			n += e.replicas
		}
	}
	return n
}

// normalize tempers a number of replicas for an autoscaler without a behavior:
// the highest recommendation of the last while counts, and growth is limited.
func (l *look) normalize(desired int32) int32 {
	oldest := l.now.Add(-l.Downscale)
	stable := desired
	for _, e := range l.history.recommendations {
		if !e.at.Before(oldest) {
			stable = max(stable, e.replicas)
		}
	}
	l.history.recommend(desired, l.now, l.Downscale)
	if stable != desired {
		l.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	} else {
		l.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ReadyForNewScale", "recommended size matches current size")
	}
	// Twice as many, or four, at a time: figures may be wrong.
	most, reason := l.hpa.Spec.MaxReplicas, tooMany
	if limit := replicasOf(max(2*float64(l.current), 4)); limit < most {
		most, reason = limit, upLimit
	}
	switch {
	case stable < l.min():
		return l.limited(l.min(), stable, tooFew)
	case stable > most:
		return l.limited(most, stable, reason)
	}
	return l.limited(stable, stable, inRange)
}

// limit is why a number is not what was asked for.
type limit struct{ reason, message string }

var (
	upLimit   = limit{"ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	downLimit = limit{"ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
	tooMany   = limit{"TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	tooFew    = limit{"TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	inRange   = limit{"DesiredWithinRange", "the desired count is within the acceptable range"}
)

// limited sets the condition that tells of a limit, and returns n.
func (l *look) limited(n, asked int32, why limit) int32 {
	status := corev1.ConditionTrue
	if n == asked {
		status = corev1.ConditionFalse
	}
	l.set(autoscalingv2.ScalingLimited, status, why.reason, "%s", why.message)
	return n
}

// normalizeByBehavior tempers a number of replicas by an autoscaler's behavior:
// first by the recommendations of its windows, then by its rates.
func (l *look) normalizeByBehavior(desired int32) int32 {
	up, down := rulesOf(l.hpa.Spec.Behavior.ScaleUp), rulesOf(l.hpa.Spec.Behavior.ScaleDown)
	upWindow := seconds(ptr.Deref(up.StabilizationWindowSeconds, 0))
	downWindow := l.Downscale
	if w := down.StabilizationWindowSeconds; w != nil {
		downWindow = seconds(*w)
	}
	lowest, highest := desired, desired
	for _, e := range l.history.recommendations {
		if e.at.After(l.now.Add(-upWindow)) {
			lowest = min(lowest, e.replicas)
		}
		if e.at.After(l.now.Add(-downWindow)) {
			highest = max(highest, e.replicas)
		}
	}
	l.history.recommend(desired, l.now, max(upWindow, downWindow))
	stable := min(max(l.current, lowest), highest)
	switch {
	case stable == desired:
		l.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ReadyForNewScale", "recommended size matches current size")
	case desired >= l.current:
		l.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	default:
		l.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	}
	n, why := l.rated(stable, up, down)
	return l.limited(n, stable, why)
}

// rulesOf stands in for rules that defaults would have set.
func rulesOf(r *autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	if r == nil {
		return &autoscalingv2.HPAScalingRules{}
	}
	return r
}

// rated holds a number of replicas within the limits and the rates of change.
func (l *look) rated(desired int32, up, down *autoscalingv2.HPAScalingRules) (int32, limit) {
	switch {
	case desired > l.current:
		most, why := l.hpa.Spec.MaxReplicas, tooMany
		if rate := max(l.rate(up, true), l.current); rate < most {
			most, why = rate, upLimit
		}
		if desired > most {
			return most, why
		}
	case desired < l.current:
		fewest, why := l.min(), tooFew
		if rate := min(l.rate(down, false), l.current); rate > fewest {
			fewest, why = rate, downLimit
		}
		if desired < fewest {
			return fewest, why
		}
	}
	return desired, inRange
}

// rate is how far the policies let the replicas go in one direction.
func (l *look) rate(r *autoscalingv2.HPAScalingRules, up bool) int32 {
	selection := ptr.Deref(r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if selection == autoscalingv2.DisabledPolicySelect || len(r.Policies) == 0 {
		return l.current
	}
	var result int32
	for i, p := range r.Policies {
		// What the replicas were when the policy's period began.
		start := float64(l.current) - float64(changed(l.history.ups, l.now, p.PeriodSeconds)) + float64(changed(l.history.downs, l.now, p.PeriodSeconds))
		var n int32
		switch value := float64(p.Value); {
		case p.Type == autoscalingv2.PercentScalingPolicy && up:
			n = replicasOf(start * (1 + value/100)) // rounded up, or one pod would never become two
		case p.Type == autoscalingv2.PercentScalingPolicy:
			n = replicasOf(math.Floor(start * (1 - value/100)))
		case up:
			n = replicasOf(start + value)
		default:
			n = replicasOf(start - value)
		}
		// The policy that allows most, or least, counts: more replicas when
		// going up, fewer when going down.
		greater := up == (selection == autoscalingv2.MaxChangePolicySelect)
		if i == 0 || greater && n > result || !greater && n < result {
			result = n
		}
	}
	return result
}
