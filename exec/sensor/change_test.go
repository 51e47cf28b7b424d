package sensor

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
)

// States that last are told, once each; restarts and polls pass unsaid, and so does the daemon's end.
func TestChangesOfStateAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		var told []string
		s.sensor.stateChanged = func(c Change) {
			told = append(told, fmt.Sprintf("%s from %s: %s", c.State, c.Former, c.Problem))
		}
		polls := func(m *manifest.Sensor) { m.PollInterval = manifest.Duration(time.Second) }
		s.aim(unneeded())
		s.aim(wanted("1", polls))
		s.last().end(child.Exit{})
		sleep(time.Minute)
		s.aim(wanted("2", polls)) // a restart
		s.last().end(child.Exit{Code: 1})
		s.expect(StateBackoff)
		sleep(time.Second)
		s.last().end(child.Exit{Code: exitRefused})
		s.expect(StateFailed)
		s.aim(unwanted())
		s.aim(wanted("3"))
		s.end()
		<-s.ended
		want := []string{
			"idle from stopped: no enabled rule wants its triggers", "running from idle: ", "backoff from running: exit 1", "running from backoff: ",
			"failed from running: exit 78: waits for a change of its configuration", "stopped from failed: disabled by alice", "running from stopped: ",
		}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
	})
}
