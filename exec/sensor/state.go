package sensor

// State is where a sensor is in its life.
type State string

// The states; doc.go has the table of changes.
const (
	StateIdle       State = "idle" // on_demand, and no rule wants it
	StateStarting   State = "starting"
	StateRunning    State = "running"
	StateStopping   State = "stopping"
	StateBackoff    State = "backoff"
	StateWaiting    State = "waiting" // exited 0, runs again after poll_interval
	StateFailed     State = "failed"  // exit 78: waits for a change
	StateStopped    State = "stopped"
	StateUnkillable State = "unkillable"
)

// states lists all states.
func states() []State {
	return []State{
		StateIdle, StateStarting, StateRunning, StateStopping, StateBackoff, StateWaiting, StateFailed,
		StateStopped, StateUnkillable,
	}
}

// happening is what moves a sensor from one state to another.
type happening string

const (
	// What the catalog says.
	hWanted   happening = "wanted"
	hUnneeded happening = "unneeded" // on_demand, and no rule wants it
	hUnwanted happening = "unwanted" // disabled, gone, or the daemon ends
	hChanged  happening = "changed"  // wanted, with another restart key

	hAsked    happening = "asked"    // somebody asks for a restart
	hStarted  happening = "started"  // the process runs
	hCrashed  happening = "crashed"  // could not be started, or ended as it should not
	hFinished happening = "finished" // exit 0 of a sensor with poll_interval
	hRefused  happening = "refused"  // exit 78, or a configuration that cannot work
	hSilent   happening = "silent"   // no line within the watchdog's time
	hSurvived happening = "survived" // SIGKILL did not end it, or what it left behind
	hDue      happening = "due"      // the time of backoff or waiting is over
)

func happenings() []happening {
	return []happening{
		hWanted, hUnneeded, hUnwanted, hChanged, hAsked, hStarted, hCrashed, hFinished, hRefused, hSilent,
		hSurvived, hDue,
	}
}

// next is the table of doc.go; ok is false for what cannot happen in a state.
func next(s State, h happening) (then State, ok bool) {
	switch s {
	case StateStopped:
		return choose(h, way{hWanted, StateStarting}, way{hUnneeded, StateIdle})
	case StateIdle:
		return choose(h, way{hWanted, StateStarting}, way{hUnwanted, StateStopped})
	case StateStarting:
		return choose(h, way{hStarted, StateRunning}, way{hCrashed, StateBackoff}, way{hRefused, StateFailed},
			way{hUnwanted, StateStopped}, way{hUnneeded, StateIdle})
	case StateRunning:
		return choose(h, way{hCrashed, StateBackoff}, way{hFinished, StateWaiting}, way{hRefused, StateFailed},
			way{hChanged, StateStopping}, way{hAsked, StateStopping}, way{hSilent, StateStopping},
			way{hUnwanted, StateStopping}, way{hUnneeded, StateStopping}, way{hSurvived, StateUnkillable})
	case StateStopping:
		return choose(h, way{hWanted, StateStarting}, way{hCrashed, StateBackoff}, way{hUnwanted, StateStopped},
			way{hUnneeded, StateIdle}, way{hSurvived, StateUnkillable})
	case StateBackoff, StateWaiting:
		return choose(h, way{hDue, StateStarting}, way{hChanged, StateStarting}, way{hAsked, StateStarting},
			way{hUnwanted, StateStopped}, way{hUnneeded, StateIdle})
	case StateFailed:
		return choose(h, way{hChanged, StateStarting}, way{hAsked, StateStarting}, way{hUnwanted, StateStopped},
			way{hUnneeded, StateIdle})
	case StateUnkillable:
		return choose(h, way{hWanted, StateStarting}, way{hCrashed, StateBackoff}, way{hFinished, StateWaiting},
			way{hRefused, StateFailed}, way{hUnwanted, StateStopped}, way{hUnneeded, StateIdle})
	default:
		return s, false
	}
}

type way struct {
	when happening
	then State
}

func choose(h happening, ways ...way) (State, bool) {
	for _, w := range ways {
		if w.when == h {
			return w.then, true
		}
	}
	return "", false
}
