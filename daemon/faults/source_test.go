package faults

import (
	"os"
	"strings"
	"testing"
	"time"
)

// away lets the packs folder go away and come back, and looks that nothing but messages comes of it.
func (n *node) away(leave, restore func()) {
	n.Helper()
	pid := n.sensorPID("demo.beat")
	generation := n.status().Reconcile.Generation
	was := n.log.count("packs folder is not available, its packs stay as they are")
	leave()
	n.until("it is missed", func() bool { return n.metric("attune_source_unavailable") == 1 })
	if s := n.status(); len(s.Problems) == 0 {
		n.Error("the status tells of no problem")
	}
	if !n.prints("demo.greet", "one\n") {
		n.Error("what is in force does not run any more")
	}
	if _, err := n.client.Reload(n.Context(), ""); err == nil {
		n.Error("a reload tells of no problem")
	}
	restore()
	n.until("it is back", func() bool { return n.metric("attune_source_unavailable") == 0 })
	n.reload()
	if have := n.status().Reconcile.Generation; have != generation {
		n.Errorf("generation %d, want %d: something changed", have, generation)
	}
	if now := n.sensorPID("demo.beat"); now != pid {
		n.Errorf("the sensor was restarted: %d, then %d", pid, now)
	}
	if told := n.log.count("packs folder is not available, its packs stay as they are") - was; told != 1 {
		n.Errorf("it was told %d times, want once", told)
	}
	n.write("demo/actions/greet.sh", "echo edited\n")
	n.until("edits are seen again", func() bool { return n.prints("demo.greet", "edited\n") })
	n.write("demo/actions/greet.sh", "echo one\n")
	n.until("and again", func() bool { return n.prints("demo.greet", "one\n") })
}

// F22: the packs folder is removed, and comes back after seconds.
func TestF22RootRemoved(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node(`reconcile.resync = "1h"`).start()
	y.shell(`cp -a . ../saved`)
	n.away(func() { y.check(os.RemoveAll(y.packs)) }, func() { y.check(os.Rename(y.dir+"/saved", y.packs)) })
}

// F23: the packs folder is renamed, and comes back.
func TestF23RootRenamed(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node(`reconcile.resync = "1h"`).start()
	n.away(func() { y.check(os.Rename(y.packs, y.dir+"/elsewhere")) }, func() { y.check(os.Rename(y.dir+"/elsewhere", y.packs)) })
}

// F29: four packs of five vanish at once; that is believed only after it has lasted.
func TestF29MassDeletion(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	for _, ref := range []string{"a", "b", "c", "d"} {
		y.unpack(strings.ReplaceAll(demo, "demo", ref))
	}
	n := y.node().start()
	began := time.Now()
	y.shell(`rm -r a b c d`)
	n.until("it is held", func() bool { return n.metric("attune_reconcile_held_total") == 1 })
	if n.label("a.reply") == "" && !n.pack("a").Enabled {
		t.Error("a pack was disabled at once")
	}
	n.until("it is believed", func() bool {
		for _, ref := range []string{"a", "b", "c", "d"} {
			if n.pack(ref).Enabled {
				return false
			}
		}
		return true
	})
	if took := time.Since(began); took < 5*time.Second {
		t.Errorf("it was believed after %v", took)
	}
	if !n.prints("demo.greet", "one\n") {
		t.Error("the pack that stayed does not run")
	}
	// One that comes back in time was never gone.
	y.unpack(strings.ReplaceAll(demo, "demo", "a"))
	y.unpack(strings.ReplaceAll(demo, "demo", "b"))
	n.whole("a")
	n.whole("b")
	pid := n.sensorPID("a.beat")
	y.shell(`mkdir ../aside && mv * ../aside`)
	n.until("it is held again", func() bool { return n.metric("attune_reconcile_held_total") == 2 })
	y.shell(`mv ../aside/* .`)
	n.reload()
	if now := n.sensorPID("a.beat"); now != pid {
		t.Errorf("a sensor was restarted: %d, then %d", pid, now)
	}
}
