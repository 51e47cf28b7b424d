package store

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
)

func minutes(n float64) manifest.Duration { return manifest.Duration(n * float64(time.Minute)) }

// story plays events against limits, without a database: one minute is one step of time.
type story struct {
	states   map[limitKey]*limitState
	failures map[string]recentFailures
	events   int64
}

// play gives what becomes of one event at a minute, as "status: error", and of those before it that it
// took the place of.
func (s *story) play(minute float64, limits Limits) []string {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(minutes(minute)))
	s.events++
	event := &Event{ID: s.events, CreatedAt: at}
	if s.states == nil {
		s.states = map[limitKey]*limitState{}
	}
	for _, state := range s.states {
		state.place = 0 // each event is a group of its own
	}
	l := &limiter{now: microsOf(at), states: s.states, failures: map[string]recentFailures{}}
	maps.Copy(l.failures, s.failures)
	m := &Match{Rule: "p.r", Status: EnforcementMatched, Executions: []NewExecution{{Action: "p.a"}}, Limits: &limits}
	l.decide(event, m)
	line := m.Status
	if m.Error != "" {
		line += ": " + m.Error
	}
	if len(m.Executions) > 0 && m.Executions[0].DueAt != nil {
		line += " due " + m.Executions[0].DueAt.Format("15:04")
	}
	lines := []string{line}
	for _, old := range l.superseded {
		lines = append(lines, fmt.Sprintf("instead of %d: %s", old.event, old.reason))
	}
	return lines
}

func TestThrottle(t *testing.T) {
	t.Parallel()
	limits := Limits{Throttle: &manifest.Throttle{Max: 2, Per: minutes(10)}}
	other := limits
	other.Keys.Throttle = "b"
	var s story
	var got []string
	for _, step := range []struct {
		minute float64
		limits Limits
	}{{0, limits}, {1, limits}, {2, limits}, {2, other}, {9.9, limits}, {10, limits}, {10.5, limits}, {11, limits}, {11, limits}} {
		got = append(got, s.play(step.minute, step.limits)...)
	}
	const full = "throttled: it has fired 2 times within 10m0s"
	want := []string{"matched", "matched", full, "matched", full, "matched", full, "matched", full}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestThrottleNeverAllowsMore checks every window of random events against the limit.
func TestThrottleNeverAllowsMore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 300).Draw(t, "max")
		span := rapid.IntRange(1, 1_000_000).Draw(t, "span") // microseconds
		limits := &Limits{Throttle: &manifest.Throttle{Max: most, Per: manifest.Duration(span) * manifest.Duration(time.Microsecond)}}
		l := &limiter{states: map[limitKey]*limitState{}}
		var fired []micros
		now := micros(0)
		for range 200 {
			now += micros(rapid.IntRange(0, 2*span/most+1).Draw(t, "step"))
			l.now = now
			m := &Match{Rule: "r", Status: EnforcementMatched, Executions: []NewExecution{{}}, Limits: limits}
			l.decide(&Event{ID: 1}, m)
			if m.Status != EnforcementMatched {
				continue
			}
			fired = append(fired, now)
			if n := len(fired); n > most && fired[n-1]-fired[n-1-most] < micros(span) {
				t.Fatalf("%d fired within %d of %d µs", most+1, fired[n-1]-fired[n-1-most], span)
			}
		}
		if state := l.states[limitKey{"r", limitThrottle, ""}]; len(state.Hits) > windowHits+2 {
			t.Fatalf("%d hits are remembered", len(state.Hits))
		}
	})
}

func TestDedupe(t *testing.T) {
	t.Parallel()
	a := Limits{Dedupe: &manifest.Dedupe{Window: minutes(10)}, Keys: LimitKeys{Dedupe: "a"}}
	b := a
	b.Keys.Dedupe = "b"
	var s story
	var got []string
	for _, step := range []struct {
		minute float64
		limits Limits
	}{{0, a}, {1, b}, {9, a}, {10, a}, {10.5, b}, {11, b}} {
		got = append(got, s.play(step.minute, step.limits)...)
	}
	want := []string{
		"matched", "matched", `deduplicated: event 1 had the same key "a" and came less than 10m0s before`,
		"matched", `deduplicated: event 2 had the same key "b" and came less than 10m0s before`, "matched",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDebounce(t *testing.T) {
	t.Parallel()
	limits := Limits{Debounce: &manifest.Debounce{Window: minutes(5), MaxWait: minutes(12)}}
	var s story
	var got []string
	for _, minute := range []float64{0, 4, 8, 11.5, 12, 20} {
		got = append(got, s.play(minute, limits)...)
	}
	want := []string{
		"matched due 12:05",
		"matched due 12:09", "instead of 1: event 2 came before it was quiet for 5m0s",
		"matched due 12:12", "instead of 2: event 3 came before it was quiet for 5m0s", // not later than max_wait
		"matched due 12:12", "instead of 3: event 4 came before it was quiet for 5m0s",
		"matched due 12:17", // the one before fell due at this very moment
		"matched due 12:25",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestDebounceTakesThePlaceInTheCounts: what never runs must not use up the throttle.
func TestDebounceTakesThePlaceInTheCounts(t *testing.T) {
	t.Parallel()
	limits := Limits{
		Debounce: &manifest.Debounce{Window: minutes(2)},
		Throttle: &manifest.Throttle{Max: 2, Per: minutes(60)},
		Breaker:  &manifest.Breaker{Executions: 2, Per: minutes(60), Pause: minutes(1)},
	}
	var s story
	var statuses []string
	for _, minute := range []float64{0, 1, 2, 3, 10, 11, 30} {
		status, _, _ := strings.Cut(s.play(minute, limits)[0], " ")
		statuses = append(statuses, status)
	}
	want := []string{"matched", "matched", "matched", "matched", "matched", "matched", "throttled:"}
	if diff := cmp.Diff(want, statuses); diff != "" {
		t.Error(diff)
	}
}

func TestBreakerOpensInAStorm(t *testing.T) {
	t.Parallel()
	limits := Limits{Breaker: &manifest.Breaker{Executions: 2, Per: minutes(1), Pause: minutes(5)}}
	var s story
	var got []string
	for _, minute := range []float64{0, 0.5, 0.9, 5.8, 5.9, 6, 6.1} {
		got = append(got, s.play(minute, limits)...)
	}
	const open = "skipped: the breaker is open until 2026-03-01T12:05:54Z: it would lead to more than 2 executions within 1m0s"
	want := []string{"matched", "matched", open, open, "matched", "matched", "skipped: the breaker is open until 2026-03-01T12:11:06Z: it would lead to more than 2 executions within 1m0s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBreakerOpensAfterFailures(t *testing.T) {
	t.Parallel()
	limits := Limits{Breaker: &manifest.Breaker{Failures: 3, Pause: minutes(5)}}
	s := story{failures: map[string]recentFailures{"p.r": {"p.r", 2, 77}}}
	got := s.play(0, limits)
	s.failures["p.r"] = recentFailures{"p.r", 3, 78}
	got = append(got, s.play(1, limits)...)
	got = append(got, s.play(2, limits)...)
	// Its time is over. The failures are still the newest, and are those that it was opened for.
	got = append(got, s.play(6, limits)...)
	const open = "skipped: the breaker is open until 2026-03-01T12:06:00Z: its last 3 executions did not succeed, the newest is 78"
	if diff := cmp.Diff([]string{"matched", open, open, "matched"}, got); diff != "" {
		t.Error(diff)
	}
	if closed := s.states[limitKey{"p.r", limitBreaker, ""}].ClosedAt; closed.time().Minute() != 6 {
		t.Errorf("closed at %v", closed.time())
	}
}

// TestWhatOneLimitStopsCountsForNone: a throttled event must not make a later one a duplicate.
func TestWhatOneLimitStopsCountsForNone(t *testing.T) {
	t.Parallel()
	limits := func(key string) Limits {
		return Limits{
			Dedupe:   &manifest.Dedupe{Window: minutes(60)},
			Throttle: &manifest.Throttle{Max: 1, Per: minutes(10)},
			Keys:     LimitKeys{Dedupe: key},
		}
	}
	var s story
	var statuses []string
	for _, step := range []struct {
		minute float64
		key    string
	}{{0, "a"}, {1, "b"}, {2, "a"}, {11, "b"}, {12, "b"}} {
		status, _, _ := strings.Cut(s.play(step.minute, limits(step.key))[0], ":")
		statuses = append(statuses, status)
	}
	want := []string{"matched", "throttled", "deduplicated", "matched", "deduplicated"}
	if diff := cmp.Diff(want, statuses); diff != "" {
		t.Error(diff)
	}
}

// TestClocksThatGoBack: a transaction that began earlier may get its turn later.
func TestClocksThatGoBack(t *testing.T) {
	t.Parallel()
	limits := Limits{Throttle: &manifest.Throttle{Max: 2, Per: minutes(10)}}
	var s story
	var statuses []string
	for _, minute := range []float64{5, 4, 3, 14.9, 15, 15} {
		status, _, _ := strings.Cut(s.play(minute, limits)[0], ":")
		statuses = append(statuses, status)
	}
	want := []string{"matched", "matched", "throttled", "throttled", "matched", "matched"}
	if diff := cmp.Diff(want, statuses); diff != "" {
		t.Error(diff)
	}
}
