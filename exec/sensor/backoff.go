package sensor

import "time"

const (
	// healthy is how long a process must have run for its end to count as a first failure.
	healthy = 60 * time.Second

	// The first failure is most often a passing one, and gets another try at once; after it the waits
	// double, so that a broken sensor costs nothing.
	backoffOnce  = 50 * time.Millisecond
	backoffFirst = time.Second
	backoffMost  = 60 * time.Second

	// backoffSpread is how far a wait is moved to either side, as a part of it: what failed together
	// does not start together.
	backoffSpread = 0.25

	// awayWait is the wait where something that a start needs is away (the database, most likely):
	// that is no failure of the sensor, and it is to be back soon after.
	awayWait = time.Second
)

// backoff tells how long to wait after each failure in a row. It never gives up.
type backoff struct {
	failures int
	random   func() float64 // in [0, 1)
}

// failed gives the wait after a failure that came when the process had run so long.
func (b *backoff) failed(ran time.Duration) time.Duration {
	if ran >= healthy {
		b.failures = 0
	}
	wait := backoffOnce
	if b.failures > 0 {
		wait = backoffMost
		// A shift beyond this would pass the most, and some day the int.
		if doublings := b.failures - 1; doublings < 6 {
			wait = min(backoffFirst<<doublings, backoffMost)
		}
	}
	b.failures++
	return b.spread(wait)
}

func (b *backoff) spread(wait time.Duration) time.Duration {
	return time.Duration(float64(wait) * (1 - backoffSpread + 2*backoffSpread*b.random()))
}

// reset forgets the failures: something changed, or it did its work.
func (b *backoff) reset() { b.failures = 0 }
