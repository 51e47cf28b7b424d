//go:build faults

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// F13: a file that is written a thousand times a second, until as many passes have come as half a minute has where
// nothing is in their way. TestStorm has their times: here, on a busy machine, one may take long, but they come,
// each no sooner than a second after the one before, whatever is written meanwhile.
func TestF13EditStorm(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node().start()
	n.sensorPID("demo.beat")
	before, revisions, cpu := n.metrics(), n.revision("demo"), n.cpu(n.pid())
	const enough = 12
	began := time.Now()
	passes := 0.0
	n.until("passes come while the file is written", func() bool {
		for i := range 500 {
			y.write("demo/actions/greet.sh", fmt.Sprintf("echo %d\n", i))
			pause(time.Millisecond)
		}
		passes = n.metrics().sum("attune_reconcile_total") - before.sum("attune_reconcile_total")
		return passes >= enough
	})
	storm := time.Since(began)
	used := n.cpu(n.pid()) - cpu
	y.write("demo/actions/greet.sh", "echo last\n")
	n.until("the last write is in force", func() bool { return n.prints("demo.greet", "last\n") })
	if passes > 1+storm.Seconds() {
		t.Errorf("%v passes in %v, want one a second at most", passes, storm)
	}
	if used > storm {
		t.Errorf("the daemon used %v of processor time in %v", used, storm)
	}
	if made := n.revision("demo") - revisions; float64(made) > passes+2 {
		t.Errorf("%d revisions were made by %v passes", made, passes)
	}
	t.Logf("%v passes in %v, %v of processor time, %d revisions", passes, storm, used, n.revision("demo")-revisions)
}

// F15: the daemon is stopped while more happens than the kernel remembers.
func TestF15EventOverflow(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node(`reconcile.resync = "1h"`).start()
	n.signal(syscall.SIGSTOP)
	for i := range 30_000 { // two events each, and the last ones are lost
		name := y.path(fmt.Sprintf("demo/actions/x%d", i%7))
		y.check(os.WriteFile(name, []byte("x"), 0o644))
		y.check(os.Remove(name))
	}
	y.write("demo/actions/greet.sh", "echo found\n")
	y.unpack(strings.ReplaceAll(demo, "demo", "late"))
	n.signal(syscall.SIGCONT)
	n.within(5*time.Second, "what was lost is found", func() bool { return n.prints("demo.greet", "found\n") })
	n.whole("late")
	if have := n.metric("attune_watch_overflows_total"); have < 1 {
		t.Errorf("attune_watch_overflows_total is %v", have)
	}
	if have := n.log.count("file events were lost, all packs are scanned"); have < 1 || have > 3 {
		t.Errorf("the log tells of it %d times", have)
	}
	y.write("late/actions/greet.sh", "echo edited\n")
	n.until("edits are heard of as before", func() bool { return n.prints("late.greet", "edited\n") })
}

// F16 and F17: no watch, or no watcher, is left; the daemon starts, polls and names the sysctl.
func TestF16WatchesExhausted(t *testing.T) {
	t.Parallel()
	exhausted(t, "max_inotify_watches", 5, "fs.inotify.max_user_watches")
}

func TestF17InstancesExhausted(t *testing.T) {
	t.Parallel()
	exhausted(t, "max_inotify_instances", 0, "fs.inotify.max_user_instances")
}

func exhausted(t *testing.T, limit string, value int, sysctl string) {
	y := newYard(t, demo)
	n := y.node()
	_, through := newProxy(t, y.url) // in the namespace, root may not get to the socket
	n.env = append(n.env, "ATTUNE_DATABASE_URL="+through)
	n.wrap = []string{"unshare", "-Ur", "sh", "-c", fmt.Sprintf(`echo %d >/proc/sys/user/%s && exec "$@"`, value, limit), "sh"}
	n.start()
	if have := n.metric("attune_watch_mode", `mode="poll"`); have != 1 {
		t.Errorf("attune_watch_mode{mode=poll} is %v", have)
	}
	lines := n.log.lines("packs folder is polled")
	if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines), sysctl) {
		t.Errorf("the log says %v", lines)
	}
	if s := n.status(); s.Reconcile.WatchMode != "poll" || !strings.Contains(s.Reconcile.WatchReason, sysctl) {
		t.Errorf("the status says %+v", s.Reconcile)
	}
	y.write("demo/actions/greet.sh", "echo polled\n")
	n.within(15*time.Second, "an edit is found by polling", func() bool { return n.prints("demo.greet", "polled\n") })
}

// mount mounts for the time of the test.
func (y *yard) mount(source, target, kind, options string) {
	y.Helper()
	needRoot(y)
	if err := unix.Mount(source, target, kind, 0, options); err != nil {
		y.Skipf("cannot mount a %s here: %v", kind, err)
	}
	y.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

// F18: events that are lost for good: a file is changed below an overlay.
func TestF18EventsLostForGood(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.mount("tmpfs", y.packs, "tmpfs", "mode=755") // an overlay's layers cannot lie on any file system
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		y.mkdir(name)
	}
	layers, merged := y.packs, y.path("merged")
	y.packs = y.path("upper")
	y.unpack(demo)
	y.mount("overlay", merged, "overlay", fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", layers, layers, layers))
	y.packs = merged
	n := y.node().start()
	if mode := n.metrics(); mode.sum("attune_watch_mode", `mode="poll"`) != 1 || mode.sum("attune_watch_mode", `mode="inotify"`) != 1 {
		t.Errorf("attune_watch_mode is %v", mode.sum("attune_watch_mode"))
	}
	if have := n.log.count("packs folder is polled too"); have != 1 {
		t.Errorf("the log tells of it %d times", have)
	}
	y.check(os.WriteFile(filepath.Join(layers, "upper/demo/actions/greet.sh"), []byte("echo below\n"), 0o644))
	n.within(30*time.Second, "it is found by the regular scan", func() bool { return n.prints("demo.greet", "below\n") })
	if have := n.metric("attune_resync_found_changes_total"); have != 1 {
		t.Errorf("attune_resync_found_changes_total is %v", have)
	}
}

// F23: an empty file system is mounted over the packs folder, and taken away.
func TestF23MountedOver(t *testing.T) {
	t.Parallel()
	needRoot(t)
	y := newYard(t, demo)
	n := y.node(`reconcile.resync = "1h"`).start()
	n.away(
		func() { y.mount("tmpfs", y.packs, "tmpfs", "mode=755") },
		func() { y.check(unix.Unmount(y.packs, 0)) },
	)
}

// F31: ten thousand packs. Unchanged, a start takes seconds, and an edit is live at once.
func TestF31TenThousandPacks(t *testing.T) {
	y := newYard(t)
	const packs = 10_000
	for i := range packs {
		ref := fmt.Sprintf("p%05d", i)
		for name, content := range map[string]string{
			"pack.yaml":            "ref: " + ref + "\nversion: 1.0.0\n",
			"actions/greet.yaml":   "name: greet\nentry_point: greet.sh\nparameters: {text: {type: string}}\n",
			"actions/greet.sh":     "echo " + ref + "\n",
			"triggers/called.yaml": "name: called\npayload_schema: {n: {type: integer}}\n",
			"rules/reply.yaml":     "name: reply\ntrigger: " + ref + ".called\naction: " + ref + ".greet\n",
		} {
			name = y.path(ref + "/" + name)
			y.check(os.MkdirAll(filepath.Dir(name), 0o755))
			y.check(os.WriteFile(name, []byte(content), 0o644))
		}
	}
	n := y.node()
	n.launch()
	if !n.comes(10*time.Minute, n.ready) {
		t.Fatalf("the first start takes for ever\n%s", n.log)
	}
	n.stop()
	n.within(10*time.Second, "it is ready", func() bool {
		if n.hasEnded() {
			n.launch()
		}
		return n.ready()
	})
	y.write("p07777/actions/greet.sh", "echo edited\n")
	n.within(2*time.Second, "an edit is live", func() bool { return n.revision("p07777") == 2 })
	t.Logf("resident: %d MiB", n.rss(n.pid())>>20)
}
