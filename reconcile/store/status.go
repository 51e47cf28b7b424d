package store

import "slices"

// Status is the state of an execution or an attempt.
type Status string

// The statuses. Requested, scheduled and running are of the queue; the others are final.
const (
	StatusRequested Status = "requested"
	StatusScheduled Status = "scheduled" // waits for a time or a slot
	StatusRunning   Status = "running"
	StatusSucceeded Status = "succeeded"
	StatusFailed    Status = "failed"
	StatusTimedOut  Status = "timed_out"
	StatusCancelled Status = "cancelled"
	StatusLost      Status = "lost"
)

// Statuses lists all of them, in the order of a life.
func Statuses() []Status {
	return []Status{
		StatusRequested, StatusScheduled, StatusRunning,
		StatusSucceeded, StatusFailed, StatusTimedOut, StatusCancelled, StatusLost,
	}
}

// next lists what may follow; the package comment says by which call.
func (s Status) next() []Status {
	switch s {
	case StatusRequested:
		return []Status{StatusRunning, StatusCancelled}
	case StatusScheduled:
		return []Status{StatusRequested, StatusCancelled}
	case StatusRunning:
		return []Status{
			StatusRequested, StatusScheduled,
			StatusSucceeded, StatusFailed, StatusTimedOut, StatusCancelled, StatusLost,
		}
	case StatusSucceeded, StatusFailed, StatusTimedOut, StatusCancelled, StatusLost:
		return nil
	default:
		panic("store: unknown status " + string(s))
	}
}

// Final says whether nothing follows.
func (s Status) Final() bool { return len(s.next()) == 0 }

// IsOutcome says whether an attempt may be finished with it. Lost is not for its holder to say.
func (s Status) IsOutcome() bool {
	return slices.Contains(Statuses(), s) && s.Final() && s != StatusLost
}
