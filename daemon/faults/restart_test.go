package faults

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// What does not concern a sensor restarts it never: comments, the order of keys, a touch, an edit
// elsewhere. What does, restarts that one alone.
func TestRestartsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("restarts")
	n.write("restarts/sensors/still.yaml", "name: still\nentry_point: still.sh\ntrigger_types: [restarts.called]\n")
	n.write("restarts/sensors/still.sh", "while :; do sleep 1; done\n")
	beat, still := n.sensorPID("restarts.beat"), n.sensorPID("restarts.still")
	n.write("restarts/sensors/beat.yaml", "# a comment\ntrigger_types:\n  - restarts.called\nentry_point: \"beat.sh\"\nname: beat\n")
	n.tool("touch", "restarts/sensors/beat.sh", "restarts/sensors/still.sh")
	n.write("restarts/README.md", "# Restarts\n")
	n.write("restarts/actions/greet.sh", "echo two\n")
	n.until("the edits are in force", func() bool { return n.prints("restarts.greet", "two\n") })
	n.reload()
	if one, two := n.sensorPID("restarts.beat"), n.sensorPID("restarts.still"); one != beat || two != still {
		t.Errorf("restarted by nothing that concerns them: beat %d, then %d; still %d, then %d", beat, one, still, two)
	}
	n.write("restarts/sensors/beat.sh", "while :; do sleep 2; done\n")
	n.until("the edited one is restarted", func() bool { return n.sensorPID("restarts.beat") != beat })
	if two := n.sensorPID("restarts.still"); two != still {
		t.Errorf("its neighbour was restarted with it: %d, then %d", still, two)
	}
}

// F48: twenty edits while a sensor is being stopped come to one start, of the newest.
func TestF48EditedWhileStopping(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	script := func(version int) string {
		return fmt.Sprintf("trap '' TERM\necho v%d >> \"$ATTUNE_DATA_DIR/starts\"\nwhile :; do sleep 1; done\n", version)
	}
	y.write("demo/sensors/beat.sh", script(0))
	// It does not end before it is killed.
	n := y.node(`exec.stop_grace = "10m"`).start()
	old := n.sensorPID("demo.beat")
	starts := func() []string {
		return strings.Fields(y.shell(`cat ../node1/state/data/*/starts 2>/dev/null || true`))
	}
	n.until("the first one has started", func() bool { return len(starts()) == 1 })
	const edits = 20
	for i := range edits {
		y.replace("demo/sensors/beat.sh", script(i+1))
		n.reload() // each edit is in force
		n.until("it is being stopped", func() bool { return n.now("demo.beat").State == "stopping" })
	}
	n.check(syscall.Kill(old, syscall.SIGKILL))
	n.until("the newest runs", func() bool { s := starts(); return s[len(s)-1] == fmt.Sprintf("v%d", edits) })
	n.reload()
	if s := starts(); len(s) != 2 {
		t.Errorf("it was started as %v, want v0 and v%d alone", s, edits)
	}
	// One that is ended at once says nothing.
	n.until("the newest's start is told", func() bool { return len(n.told("sensor started", "demo.beat")) >= 2 })
	if begun := n.told("sensor started", "demo.beat"); len(begun) != 2 {
		t.Errorf("it was started %d times, want twice", len(begun))
	}
	// One that obeys takes its place, so that the node need not wait for it.
	last := n.sensorPID("demo.beat")
	y.replace("demo/sensors/beat.sh", "while :; do sleep 1; done\n")
	n.reload()
	n.until("it is being stopped", func() bool { return n.now("demo.beat").State == "stopping" })
	n.check(syscall.Kill(last, syscall.SIGKILL))
	n.until("the obedient one runs", func() bool { s := n.now("demo.beat"); return s.State == "running" && s.PID != nil && *s.PID != last })
}
