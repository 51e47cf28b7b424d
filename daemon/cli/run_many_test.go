package cli

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestIDSet compares the set with a slice under random additions and removals.
func TestIDSet(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		var s idSet
		var model []int64
		next := int64(1)
		for range 2000 {
			if random.IntN(3) > 0 || len(model) == 0 {
				next += int64(random.IntN(10)/9) + 1
				s.add(next)
				model = append(model, next)
				continue
			}
			// Mostly the oldest end first.
			i := min(random.IntN(20), len(model)-1)
			if !s.remove(model[i]) {
				t.Fatalf("seed %d: %d is not in the set", seed, model[i])
			}
			if s.remove(model[i]) || s.remove(next+1) {
				t.Fatalf("seed %d: removed what is not in the set", seed)
			}
			model = slices.Delete(model, i, i+1)
		}
		if have := s.all(); !slices.Equal(have, model) || s.len() != len(model) {
			t.Fatalf("seed %d: %v, want %v", seed, have, model)
		}
		// Each is picked sooner or later, the oldest always.
		seen := map[int64]bool{}
		for range len(model) {
			some := s.pick(10)
			if len(some) > 10 || !slices.Equal(some[:5], model[:5]) || !slices.IsSorted(some) || len(slices.Compact(slices.Clone(some))) != len(some) {
				t.Fatalf("seed %d: picked %v", seed, some)
			}
			for _, id := range some {
				seen[id] = true
			}
		}
		if len(seen) != len(model) {
			t.Fatalf("seed %d: %d of %d were ever picked", seed, len(seen), len(model))
		}
	}
	var s idSet
	for id := range int64(1_000_000) {
		s.add(id + 1)
	}
	if len(s.ranges) != 1 {
		t.Errorf("a million neighbours take %d ranges", len(s.ranges))
	}
}

func TestGauge(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	var out bytes.Buffer
	bar := &gauge{w: &out, began: began, bar: true, width: 200}
	bar.show(began, 0, 0, 0, false)
	bar.show(at(1), 50, 1000, 0, false)
	bar.show(at(2), 250, 1000, 3, true)
	bar.show(at(9), 950, 1000, 3, true)
	bar.show(at(10), 1000, 1000, 3, true)
	bar.clear()
	want := "\r░░░░░░░░░░░░░░░░░░░░░░░░ 0 of 0 so far\x1b[K" +
		"\r█░░░░░░░░░░░░░░░░░░░░░░░ 50 of 1000 so far, 50/s\x1b[K" +
		"\r██████░░░░░░░░░░░░░░░░░░ 250 of 1000 (25%), 125/s, 3 failed, 6s left\x1b[K" +
		"\r██████████████████████░░ 950 of 1000 (95%), 100/s, 3 failed, 1s left\x1b[K" +
		"\r████████████████████████ 1000 of 1000 (100%), 94/s, 3 failed\x1b[K\r\x1b[K"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("bar (-want +have):\n%s", diff)
	}
	out.Reset()
	lines := &gauge{w: &out, began: began, said: began}
	for second := range 25 {
		lines.show(at(float64(second)), second*2, 100, 0, true)
	}
	lines.clear()
	if diff := cmp.Diff("20 of 100 (20%), 2.0/s, 40s left\n40 of 100 (40%), 2.0/s, 30s left\n", out.String()); diff != "" {
		t.Errorf("lines (-want +have):\n%s", diff)
	}
	out.Reset()
	narrow := &gauge{w: &out, began: began, bar: true, width: 12}
	narrow.show(at(1), 5, 10, 0, true)
	if diff := cmp.Diff("\r██████████…\x1b[K", out.String()); diff != "" {
		t.Errorf("narrow (-want +have):\n%s", diff)
	}
}

func TestParseAt(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("here", 2*3600)
	now := time.Date(2026, 1, 31, 18, 0, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"10m":                  now.Add(10 * time.Minute),
		"0s":                   now,
		"18:30":                time.Date(2026, 1, 31, 18, 30, 0, 0, zone),
		"18:00":                time.Date(2026, 2, 1, 18, 0, 0, 0, zone),
		"06:15:30":             time.Date(2026, 2, 1, 6, 15, 30, 0, zone),
		"2026-02-03 04:05":     time.Date(2026, 2, 3, 4, 5, 0, 0, zone),
		"2026-02-03T04:05:06":  time.Date(2026, 2, 3, 4, 5, 6, 0, zone),
		"2026-02-03T04:05:06Z": time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC),
	} {
		if at, err := parseAt(text, now); err != nil || !at.Equal(want) {
			t.Errorf("%q: %v, %v, want %v", text, at, err, want)
		}
	}
	for _, text := range []string{"", "-5m", "tomorrow", "25:00", "18"} {
		if at, err := parseAt(text, now); err == nil {
			t.Errorf("%q is taken for %v", text, at)
		}
	}
}
