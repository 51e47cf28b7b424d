package sensor

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBackoffDoublesAndNeverGivesUp(t *testing.T) {
	t.Parallel()
	b := backoff{random: func() float64 { return 0.5 }}
	var waits []time.Duration
	for range 9 {
		waits = append(waits, b.failed(0))
	}
	want := []time.Duration{
		50 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
		16 * time.Second, 32 * time.Second, time.Minute, time.Minute,
	}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Error(diff)
	}
	for range 1000 {
		if wait := b.failed(59 * time.Second); wait != time.Minute {
			t.Fatalf("after many failures: %s", wait)
		}
	}
	if wait := b.failed(time.Minute); wait != 50*time.Millisecond {
		t.Errorf("after a minute of health: %s", wait)
	}
	b.failed(0)
	b.reset()
	if wait := b.failed(0); wait != 50*time.Millisecond {
		t.Errorf("after a change: %s", wait)
	}
}

func TestBackoffSpreads(t *testing.T) {
	t.Parallel()
	for random, want := range map[float64]time.Duration{0: 750 * time.Millisecond, 0.5: time.Second, 0.9999999: 1249999950} {
		b := backoff{failures: 1, random: func() float64 { return random }}
		if got := b.failed(0); got != want {
			t.Errorf("random %g: %d, want %d", random, got, want)
		}
	}
}
