package worker

import (
	"math"
	"slices"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// The words of on_lost and of retry.on that are no status of an outcome.
const (
	onLostRetry        = "retry"
	backoffExponential = "exponential"
)

// retryAfter tells whether an attempt that ended so is followed by another, and after how long.
// Without retry.on, failed and timed_out are; exit_codes narrow failed down to these codes. try counts
// the attempts that count.
func retryAfter(r *manifest.Retry, try int, status store.Status, exitCode *int) (time.Duration, bool) {
	if r == nil || try >= r.MaxAttempts {
		return 0, false
	}
	if status != store.StatusFailed && status != store.StatusTimedOut {
		return 0, false
	}
	if len(r.On) > 0 && !slices.Contains(r.On, string(status)) {
		return 0, false
	}
	if status == store.StatusFailed && len(r.ExitCodes) > 0 && (exitCode == nil || !slices.Contains(r.ExitCodes, *exitCode)) {
		return 0, false
	}
	return retryDelay(r, try), true
}

// retryDelay is the pause after an attempt; it doubles with each where the backoff is exponential.
func retryDelay(r *manifest.Retry, try int) time.Duration {
	delay := time.Duration(r.Delay)
	if r.Backoff == backoffExponential {
		for range try - 1 {
			if delay == 0 || delay > math.MaxInt64/2 {
				break
			}
			delay *= 2
			if r.MaxDelay > 0 && delay > time.Duration(r.MaxDelay) {
				break
			}
		}
	}
	if r.MaxDelay > 0 {
		delay = min(delay, time.Duration(r.MaxDelay))
	}
	return delay
}

// retryLost tells whether an attempt that this node had to give up is tried again, as the reaper
// would decide it.
func retryLost(action *manifest.Action, r *manifest.Retry, try int) (time.Duration, bool) {
	if action == nil {
		return 0, false
	}
	most, delay := store.MaxLostAttempts, time.Duration(0) // EndLapsed of package store counts the same way
	wanted := action.OnLost == onLostRetry
	if r != nil {
		wanted = wanted || slices.Contains(r.On, string(store.StatusLost))
		most, delay = r.MaxAttempts, retryDelay(r, try)
	}
	return delay, wanted && try < most
}
