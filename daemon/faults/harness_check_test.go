package faults

import (
	"slices"
	"strings"
	"syscall"
	"testing"
)

// demo is a pack with one of everything.
const demo = `
-- demo/pack.yaml --
ref: demo
version: 1.0.0
-- demo/actions/greet.yaml --
name: greet
entry_point: greet.sh
-- demo/actions/greet.sh --
echo one
-- demo/triggers/called.yaml --
name: called
-- demo/sensors/beat.yaml --
name: beat
entry_point: beat.sh
trigger_types: [demo.called]
-- demo/sensors/beat.sh --
while :; do sleep 1; done
-- demo/rules/reply.yaml --
name: reply
trigger: demo.called
action: demo.greet
`

// TestHarness looks at what every test here relies on.
func TestHarness(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node().start()
	if out := n.must("run", "demo.greet"); out != "one\n" {
		t.Errorf("the action printed %q", out)
	}
	pid := n.sensorPID("demo.beat")
	if !slices.Contains(n.children(), pid) {
		t.Errorf("sensor %d is not among the children %v", pid, n.children())
	}
	n.until("the metrics tell of the pack", func() bool { return n.metric("attune_packs", `state="loaded"`) == 1 })
	if have := y.query("SELECT ref, enabled FROM pack"); !slices.Equal(have, []string{"demo true"}) {
		t.Errorf("the database has %q", have)
	}
	if n.log.count("pack applied") != 1 {
		t.Errorf("the log has no line of the pack:\n%s", n.log)
	}
	if out, errs, code := n.run("pack", "show", "nothing"); code != 1 || !strings.Contains(errs, "nothing") {
		t.Errorf("pack show nothing: exit %d %q %q", code, out, errs)
	}
	n.kill()
	y.until("the children of the killed daemon are gone", func() bool { return len(n.children()) == 0 })
	if isAlive(pid) {
		t.Errorf("sensor %d outlived its daemon", pid)
	}
	n.start()
	n.signal(syscall.SIGHUP)
	if code := n.stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
}
