package faults

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ticking is a pack with a cron rule that is due each two seconds, and makes up for all that was missed.
const ticking = `
-- ticking/pack.yaml --
ref: ticking
version: 1.0.0
dependencies: [core]
-- ticking/rules/tick.yaml --
name: tick
trigger:
  ref: core.crontimer
  parameters: {expression: "*/2 * * * * *", misfire: all, misfire_window: 10m}
action: {ref: core.noop, parameters: {message: "{{ event.payload.scheduled_at }}"}}
`

// shippedCore copies the core pack into the packs folder.
func (y *yard) shippedCore() {
	y.Helper()
	core, err := filepath.Abs(filepath.Join("..", "..", "packs", "core"))
	y.check(err)
	y.shell(`cp -R "$1" core`, core)
}

// F92: the daemon that fires a cron rule is killed at the second of a firing. Each due time gives one
// event and one execution, whoever fires.
func TestF92KilledAtTheSecondOfFiring(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.shippedCore()
	y.unpack(ticking)
	nodes, kills := 1, 1
	if long {
		nodes, kills = 3, 2 // another node takes over after up to 40 s
	}
	for range nodes {
		y.node().start()
	}
	fired := func() int {
		return len(y.query("SELECT id FROM attune.event WHERE trigger_ref = 'core.crontimer'"))
	}
	for kill := range kills {
		before := fired()
		y.until("it fires", func() bool { return fired() > before+1 })
		now := time.Now()
		pause(now.Truncate(2 * time.Second).Add(2 * time.Second).Sub(now)) // the second itself
		on := y.running("core.interval_timer_sensor")
		if len(on) != 1 {
			t.Fatalf("the timers run on %d nodes", len(on))
		}
		before = fired()
		on[0].kill()
		if nodes == 1 || kill == kills-1 {
			// Down over two firings after the one it died at, however quickly it starts.
			now := time.Now()
			pause(now.Truncate(2 * time.Second).Add(4 * time.Second).Sub(now))
			on[0].start()
		}
		for deadline := time.Now().Add(2 * patience); fired() <= before+1; pause(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nobody fires after kill %d\n%s", kill+1, y.logs())
			}
		}
	}
	// The newest may be on their way; what is due before them is not.
	var last time.Time
	due := y.query(`SELECT split_part(event_id, '@', 2), count(*) FROM attune.event
		WHERE trigger_ref = 'core.crontimer' GROUP BY 1 ORDER BY 1`)
	for i, line := range due {
		text, count, _ := strings.Cut(line, " ")
		at, err := time.Parse(time.RFC3339, text)
		y.check(err)
		if count != "1" {
			t.Errorf("%s was fired %s times", text, count)
		}
		if i > 0 && at.Sub(last) != 2*time.Second {
			t.Errorf("%s follows %s: a firing is lost", text, last.Format(time.RFC3339))
		}
		last = at
	}
	y.until("each event has one execution", func() bool {
		lost := y.query(`SELECT event.id FROM attune.event LEFT JOIN attune.execution_now AS execution ON execution.event_id = event.id
			WHERE event.id <= $1 AND event.trigger_ref = 'core.crontimer' GROUP BY event.id HAVING count(execution.id) <> 1`, fmt.Sprint(y.query("SELECT max(id) FROM attune.event")[0]))
		return len(lost) == 0
	})
}
