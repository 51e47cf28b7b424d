package reconcile

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/store"
)

func TestSymlinkedPackSwapped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	aside := newTree(t)
	aside.pack("v1")
	aside.pack("v2")
	for _, version := range []string{"v1", "v2"} {
		aside.write(version+"/pack.yaml", "ref: one\nlabel: "+version+"\nversion: 1.0.0\n")
		aside.write(version+"/rules/rule.yaml", "name: rule\ntrigger: tick\naction: act\n")
		aside.write(version+"/sensors/sense.yaml", "name: sense\nrunner_type: shell\nentry_point: sense.sh\ntrigger_types: [one.tick]\n")
	}
	b.do(os.Symlink(aside.path("v1"), b.path("one")))
	b.start()
	label := func(c *store.Catalog) string { return c.Packs["one"].Manifest.Label }
	if have := b.catalog(); label(have) != "v1" || have.Packs["one"].Errors.HasErrors() {
		t.Fatalf("loaded %q: %v", label(have), have.Packs["one"].Errors)
	}
	aside.write("v1/pack.yaml", "ref: one\nlabel: v1 edited\nversion: 1.0.0\n")
	b.await("an edit behind the link", func(c *store.Catalog) bool { return label(c) == "v1 edited" })

	b.do(os.Symlink(aside.path("v2"), b.path(".one.new")))
	b.rename(".one.new", "one")
	b.await("the swap", func(c *store.Catalog) bool { return label(c) == "v2" })
	aside.write("v1/pack.yaml", "ref: one\nlabel: v1 again\nversion: 1.0.0\n")
	aside.write("v2/pack.yaml", "ref: one\nlabel: v2 edited\nversion: 1.0.0\n")
	b.await("an edit in the new", func(c *store.Catalog) bool { return label(c) == "v2 edited" })
	for _, ref := range b.applications() {
		if len(ref) != 1 || ref[0] != "one" {
			t.Errorf("applied %v", ref)
		}
	}
}

func TestConfigMapSwapped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.do(os.Mkdir(b.path("map"), 0o755))
	write := func(version, label string) {
		b.write("map/"+version+"/pack.yaml", "ref: map\nlabel: "+label+"\nversion: 1.0.0\n")
		b.write("map/"+version+"/triggers/t.yaml", "name: t\nlabel: "+label+"\n")
	}
	write("..v1", "first")
	b.do(os.Symlink("..v1", b.path("map/..data")))
	b.do(os.Symlink("..data/pack.yaml", b.path("map/pack.yaml")))
	b.do(os.Symlink("..data/triggers", b.path("map/triggers")))
	b.start()
	if have := b.catalog().Triggers["map.t"]; have == nil || have.Spec.Head().Label != "first" {
		t.Fatalf("loaded %+v", have)
	}
	write("..v2", "second")
	b.do(os.Symlink("..v2", b.path("map/..data_tmp")))
	b.rename("map/..data_tmp", "map/..data")
	b.remove("map/..v1")
	b.await("the swap", func(c *store.Catalog) bool {
		return c.Triggers["map.t"].Spec.Head().Label == "second" && c.Packs["map"].Manifest.Label == "second"
	})
	if have := b.catalog().Packs["map"].Revision; have != 2 {
		t.Errorf("%d revisions, want 2: the swap is one change", have)
	}
	write("..v2", "third")
	b.await("an edit behind the links", func(c *store.Catalog) bool { return c.Triggers["map.t"].Spec.Head().Label == "third" })
}

// TestNestedFoldersAtOnce makes folders faster than watches can be added.
func TestNestedFoldersAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	for i := range 100 {
		b.write("one/lib/"+strings.Repeat("d/", i%7+1)+string(rune('A'+i%26))+"/x", strings.Repeat("x", i))
	}
	b.await("all of them", func(c *store.Catalog) bool {
		_, tree, err := b.store.RevisionTree(t.Context(), c.Packs["one"].RevisionID)
		b.do(err)
		want := look(t, newScanner(uncovered{}, 0), b.testTree, "one")
		return treeDigest(tree) == want.folder.digest
	})
}

// TestFolderRenamed: the watches of a renamed folder's subfolders go on reporting its old path.
func TestFolderRenamed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.write("one/lib/a/deep/er/x", "x")
	b.start()
	follow := func(what string) {
		t.Helper()
		want := look(t, newScanner(uncovered{}, 0), b.testTree, "one").folder.digest
		b.await(what, func(c *store.Catalog) bool { return c.Packs["one"].TreeDigest == want })
	}
	b.rename("one/lib/a", "one/lib/b")
	follow("the rename")
	b.write("one/lib/b/deep/er/x", "y")
	follow("an edit in it")
	b.rename("one/lib/b", "one/lib/a")
	follow("the way back")
	b.write("one/lib/a/deep/er/x", "z")
	follow("an edit there")
}

func TestFolderMadeAnew(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.pack("two")
	b.start()
	for i := range 5 {
		b.remove("one/sensors")
		b.write("one/sensors/sense.sh", "#!/bin/bash\nsleep 1\n# "+strings.Repeat("x", i))
		b.write("one/sensors/sense.yaml", "name: sense\nrunner_type: shell\nentry_point: sense.sh\ntrigger_types: [one.tick]\n")
		want := look(t, newScanner(uncovered{}, 0), b.testTree, "one").folder.digest
		b.await("the new folder", func(c *store.Catalog) bool { return c.Packs["one"].TreeDigest == want })
	}
	b.write("one/sensors/sense.sh", "#!/bin/bash\nsleep 4711\n")
	want := look(t, newScanner(uncovered{}, 0), b.testTree, "one").folder.digest
	b.await("an edit in it", func(c *store.Catalog) bool { return c.Packs["one"].TreeDigest == want })
}

// TestConstantWrites: a pack that is never quiet is applied nevertheless, and delays no other.
func TestConstantWrites(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.MaxWait = 500 * time.Millisecond }
	b.pack("busy")
	b.pack("calm")
	b.start()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-ticker.C:
				b.write("busy/lib/log", strings.Repeat("x", i%1000))
			}
		}
	}()
	before := b.catalog().Packs["busy"].Revision
	b.await("two revisions under constant writes", func(c *store.Catalog) bool { return c.Packs["busy"].Revision >= before+2 })
	b.write("calm/README.md", "x")
	b.await("the calm pack", func(c *store.Catalog) bool { return c.Packs["calm"].Revision == 2 })
	close(stop)
	<-ended
	b.write("busy/lib/log", "end")
	want := look(t, newScanner(uncovered{}, 0), b.testTree, "busy").folder.digest
	b.await("the last state", func(c *store.Catalog) bool { return c.Packs["busy"].TreeDigest == want })
}

func TestOverflowScansAll(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	b.watcher.mu.Lock()
	clear(b.watcher.folders) // the events of this edit are the lost ones
	b.watcher.mu.Unlock()
	b.write("one/README.md", "x")
	b.watcher.failed(fsnotify.ErrEventOverflow, time.Now())
	b.await("the edit", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 2 })
	if b.metric("attune_watch_overflows_total", "") != 1 {
		t.Error("attune_watch_overflows_total is not 1")
	}
	b.write("one/README.md", "y")
	b.await("an edit afterwards", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 3 })
}

func TestPollsWhereWatchingFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.options = func(o *Options) { o.Poll = 300 * time.Millisecond }
	b.launchUnwatched()
	select {
	case <-b.Ready():
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	s := b.Status()
	if s.WatchMode != watchPoll || !strings.Contains(s.WatchReason, "fs.inotify.max_user_instances") {
		t.Errorf("status: %+v", s)
	}
	if b.metric("attune_watch_mode", watchPoll) != 1 || b.metric("attune_watch_mode", watchInotify) != 0 {
		t.Error("attune_watch_mode does not say poll")
	}
	b.replace("one/actions/act.sh", "#!/bin/bash\necho polled\n")
	b.await("the edit", func(c *store.Catalog) bool { return c.Packs["one"].Revision == 2 })
	b.write("two/pack.yaml", "ref: two\nlabel: Two\nversion: 1.0.0\n")
	b.await("a new pack", func(c *store.Catalog) bool { return c.Packs["two"] != nil })
	b.remove("two")
	b.await("its end", func(c *store.Catalog) bool { return !c.Packs["two"].Present })
	if n := strings.Count(b.log.String(), "packs folder is polled"); n != 1 {
		t.Errorf("%d lines about polling, want 1", n)
	}
	history, err := b.store.Revisions(t.Context(), "one", 1)
	b.do(err)
	if history[0].Cause != "edit" {
		t.Errorf("cause %q", history[0].Cause)
	}
}

// limitVariable tells the test binary that it runs in a user namespace of its own, and which limit of
// inotify to set there.
const limitVariable = "ATTUNE_TEST_INOTIFY_LIMIT"

// TestInotifyLimits runs in a user namespace whose limits are next to nothing.
func TestInotifyLimits(t *testing.T) {
	t.Parallel()
	if limit := os.Getenv(limitVariable); limit != "" {
		inotifyLimit(t, limit)
		return
	}
	for _, limit := range []string{"max_inotify_watches=5", "max_inotify_instances=0"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestInotifyLimits$", "-test.v")
		cmd.Env = append(os.Environ(), limitVariable+"="+limit)
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		groups := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: groups}
		out, err := cmd.CombinedOutput()
		var refused *os.SyscallError
		if err != nil && len(out) == 0 {
			t.Skipf("cannot make a user namespace: %v %v", err, refused)
		}
		if bytes.Contains(out, []byte("--- SKIP")) {
			t.Skipf("%s", out)
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", limit, err, out)
		}
	}
}

func inotifyLimit(t *testing.T, limit string) {
	name, value, _ := strings.Cut(limit, "=")
	if err := os.WriteFile("/proc/sys/user/"+name, []byte(value), 0o644); err != nil {
		t.Skipf("cannot set the limit: %v", err)
	}
	f := newTree(t)
	f.pack("one")
	f.pack("two")
	var log bytes.Buffer
	w := newWatcher(newWindows(defaultQuiet, defaultMaxWait), slog.New(slog.NewTextHandler(&log, nil)), newMetrics(nil), func() {})
	w.start()
	defer w.stop()
	s := newScanner(w, 0)
	for _, ref := range []string{"one", "two"} {
		if v := look(t, s, f, ref); v.outcome != fresh {
			t.Errorf("%s: outcome %v", ref, v.outcome)
		}
	}
	if w.mode() != watchPoll || strings.Count(log.String(), "fs.inotify.max_user_") != 1 {
		t.Errorf("mode %s, log:\n%s", w.mode(), &log)
	}
}

func TestUnwatchableKinds(t *testing.T) {
	t.Parallel()
	if kind := unwatchableKind("/proc"); kind != "" {
		t.Errorf("/proc is %s", kind)
	}
	if unwatchable[unix.NFS_SUPER_MAGIC] != "nfs" {
		t.Error("nfs is not told")
	}
}

// A watch that went without a word, as with what was mounted there, is missed by whoever compares, and all are made
// anew; who is in a hurry does not compare. So is one that is left under a path where no folder is.
func TestLostWatchesAreMissed(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	w := newWatcher(newWindows(defaultQuiet, defaultMaxWait), quietLogger(), newMetrics(nil), func() {})
	w.start()
	defer w.stop()
	f.pack("p")
	for what, harm := range map[string]func() error{
		"one is lost":       func() error { return w.notify.Remove(f.path("p/actions")) },
		"one is left over":  func() error { return w.notify.Add(f.dir) },
		"one is of another": func() error { return errors.Join(w.notify.Remove(f.path("p/rules")), w.notify.Add(f.dir)) },
	} {
		look(t, newScanner(w, 0), f, "p")
		if w.repair(true) {
			t.Fatalf("%s: watches were made anew before", what)
		}
		f.do(harm())
		former := w.notify
		if w.repair(false) {
			t.Errorf("%s: who is in a hurry compared", what)
		}
		if !w.repair(true) || w.notify == former {
			t.Errorf("%s: nobody missed it", what)
		}
	}
}

// TestWatchesFollowThePacks: no watch is left over, and none is missing, whatever came and went.
func TestWatchesFollowThePacks(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	w := newWatcher(newWindows(defaultQuiet, defaultMaxWait), quietLogger(), newMetrics(nil), func() {})
	w.start()
	defer w.stop()
	s := newScanner(w, 0)
	check := func(what string, want int) {
		t.Helper()
		// fsnotify forgets the watch of a folder that is gone when the kernel tells it.
		awaitCondition(t, "the watches "+what, func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.watched) == want && w.agrees(w.notify.WatchList())
		}, func() string {
			return fmt.Sprintf("%d folders are wanted, watches: %v", want, w.notify.WatchList())
		})
	}
	f.pack("p")
	look(t, s, f, "p")
	check("of a pack", 5) // itself and a folder for each kind
	f.write("p/lib/a/b/c", "x")
	look(t, s, f, "p")
	check("with folders", 8)
	f.remove("p/lib")
	look(t, s, f, "p")
	check("without folders", 5)
	f.remove("p")
	look(t, s, f, "p")
	check("of what is gone", 0)
}
