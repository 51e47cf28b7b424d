package reconcile

import (
	"encoding/json"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

// What is made up for of the due times that nobody was there to fire.
const (
	MisfireLatest = "latest"
	MisfireAll    = "all"
	MisfireNone   = "none"
)

// DefaultMisfireWindow is how far back is made up for: a restart and a short outage are covered, and
// nobody is surprised in the morning by what was meant for the night.
const DefaultMisfireWindow = time.Hour

// Misfire is how a timer deals with due times that have passed, and how exactly it keeps them.
type Misfire struct {
	// Policy is one of the Misfire constants. Defaults to MisfireLatest.
	Policy string
	// Window is how far back is made up for. Defaults to DefaultMisfireWindow.
	Window time.Duration
	// Jitter is the most by which a firing is delayed at random. Defaults to 0.
	Jitter time.Duration
}

// ParseMisfire reads the parameters misfire, misfire_window and jitter, which all of core's timers
// have. Durations are seconds or "5m".
func ParseMisfire(parameters map[string]any) (Misfire, *ScheduleError) {
	m := Misfire{Policy: MisfireLatest, Window: DefaultMisfireWindow}
	policies := []string{MisfireLatest, MisfireAll, MisfireNone}
	if v, ok := parameters["misfire"]; ok && v != nil {
		m.Policy = ""
		for _, p := range policies {
			if v == p {
				m.Policy = p
			}
		}
		if m.Policy == "" {
			return Misfire{}, wrong("misfire", "found %s, expected %s", show(v), orList(policies))
		}
	}
	if err := parseSpan(parameters, "misfire_window", &m.Window); err != nil {
		return Misfire{}, err
	}
	if err := parseSpan(parameters, "jitter", &m.Jitter); err != nil {
		return Misfire{}, err
	}
	return m, nil
}

func parseSpan(parameters map[string]any, name string, into *time.Duration) *ScheduleError {
	v, ok := parameters[name]
	if !ok || v == nil {
		return nil
	}
	var d manifest.Duration
	text, err := json.Marshal(v)
	if err == nil {
		err = d.UnmarshalJSON(text)
	}
	if err != nil || d < 0 || time.Duration(d) > maxInterval {
		return wrong(name, "found %s, expected seconds or a duration like 5m", show(v))
	}
	*into = time.Duration(d)
	return nil
}
