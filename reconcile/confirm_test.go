package reconcile

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// walks is a coverage that counts the walks of packs: each begins by covering what it finds.
type walks struct {
	uncovered
	n int
}

func (w *walks) begin(string) { w.n++ }

func (w *walks) take() int {
	n := w.n
	w.n = 0
	return n
}

// tick waits until a change that is made now gets another time than what was made before.
func (f *testTree) tick() {
	f.t.Helper()
	probe := filepath.Join(filepath.Dir(f.dir), "tick")
	stamp := func() int64 {
		f.do(os.WriteFile(probe, []byte("x"), 0o600))
		info, err := os.Lstat(probe)
		f.do(err)
		return markOf(info).ctime
	}
	for before := stamp(); stamp() == before; {
	}
}

// TestConfirmedWithoutAWalk: what is as it was is not listed, and whatever is not is seen nevertheless.
func TestConfirmedWithoutAWalk(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	aside := func(name string) string { return filepath.Join(filepath.Dir(f.dir), name) }
	exchange := func(a, b string) {
		f.do(unix.Renameat2(unix.AT_FDCWD, f.path(a), unix.AT_FDCWD, f.path(b), unix.RENAME_EXCHANGE))
	}
	counted := &walks{}
	s := newScanner(counted, 0)
	settled := func(what string) {
		t.Helper()
		look(t, s, f, "p") // what was just read may be read once more
		counted.take()
		if v := look(t, s, f, "p"); v.outcome != same || counted.take() != 0 {
			t.Errorf("%s: outcome %v, and the pack was walked again", what, v.outcome)
		}
	}
	f.pack("p")
	f.write("p/lib/a/x", "x")
	f.write("p/lib/b/x", "y")
	settled("at first")
	for _, c := range []struct {
		name string
		make func()
	}{
		{"written in place", func() { writeAnyhow(f, "p/lib/a/x", "z") }},
		{"written in place, same size and times", func() {
			info, err := os.Stat(f.path("p/lib/a/x"))
			f.do(err)
			writeAnyhow(f, "p/lib/a/x", "w")
			f.do(os.Chtimes(f.path("p/lib/a/x"), info.ModTime(), info.ModTime()))
		}},
		{"replaced", func() { f.replace("p/lib/a/x", "v") }},
		{"x bit", func() { f.do(os.Chmod(f.path("p/lib/a/x"), 0o755)) }},
		{"new file", func() { f.write("p/lib/a/y", "y") }},
		{"new file deep down", func() { f.write("p/lib/a/deep/er/y", "y") }},
		{"new file in the pack's own folder", func() { f.write("p/README.md", "y") }},
		{"hard link", func() { f.do(os.Link(f.path("p/lib/a/y"), f.path("p/lib/a/z"))) }},
		{"renamed over another", func() { f.rename("p/lib/a/y", "p/lib/a/x") }},
		{"removed", func() { f.remove("p/lib/a/z") }},
		{"file to another folder", func() { f.rename("p/lib/a/deep/er/y", "p/lib/a/y") }},
		{"files swapped", func() { exchange("p/lib/a/x", "p/lib/a/y") }},
		{"folders swapped", func() { exchange("p/lib/a", "p/lib/b") }},
		{"folder renamed", func() { f.rename("p/lib/a", "p/lib/c") }},
		{"a folder for a file", func() { f.remove("p/README.md"); f.write("p/README.md/x", "x") }},
		{"a file for a folder", func() { f.remove("p/README.md"); f.write("p/README.md", "x") }},
		{"a copy in the pack's place", func() {
			f.do(os.Rename(f.path("p"), aside("old")))
			f.do(os.CopyFS(f.path("p"), os.DirFS(aside("old"))))
		}},
		{"folder away", func() { f.remove("p/lib") }},
	} {
		f.tick()
		before := s.folders[placeOf(f.dir, f.dir, "p").key].sum
		c.make()
		have, want := look(t, s, f, "p"), look(t, newScanner(uncovered{}, 0), f, "p")
		if have.folder == nil || have.folder.sum != want.folder.sum {
			t.Fatalf("%s: the change was not seen: outcome %v", c.name, have.outcome)
		}
		if (want.folder.sum != before) != (have.outcome == fresh) {
			t.Errorf("%s: outcome %v", c.name, have.outcome)
		}
		settled(c.name)
	}
}

// TestConfirmedOnlyWhereThatTellsAll: with links, or something to say, a pack is walked each time, and no link
// that takes the place of what was there is followed.
func TestConfirmedOnlyWhereThatTellsAll(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		make func(f *testTree)
	}{
		{"link", func(f *testTree) { f.do(os.Symlink("act.sh", f.path("p/actions/alias"))) }},
		{"link to an empty folder through a hidden one", func(f *testTree) {
			f.do(os.MkdirAll(f.path("p/.data/v1"), 0o755))
			f.do(os.Symlink(".data/v1", f.path("p/lib")))
		}},
		{"folder that is a link", func(f *testTree) {
			f.rename("p/actions", "moved")
			f.do(os.Symlink("../moved", f.path("p/actions")))
		}},
		{"pack that is a link", func(f *testTree) {
			f.rename("p", "moved")
			f.do(os.Symlink("moved", f.path("p")))
		}},
		{"pipe", func(f *testTree) { f.do(unix.Mkfifo(f.path("p/pipe"), 0o644)) }},
		{"folder that everybody may write", func(f *testTree) { f.do(os.Chmod(f.path("p/actions"), 0o777)) }},
		{"no pack.yaml", func(f *testTree) { f.remove("p/pack.yaml") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newTree(t)
			f.pack("p")
			counted := &walks{}
			s := newScanner(counted, 0)
			look(t, s, f, "p")
			counted.take()
			f.tick()
			test.make(f)
			for range 3 {
				look(t, s, f, "p")
				if counted.take() != 1 {
					t.Error("the pack was not walked")
				}
			}
		})
	}
}

// TestSteady: within the clock's grain, the times of a folder say nothing of its names, and on some file
// systems they never do.
func TestSteady(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	old, young := now.Add(-time.Hour).UnixNano(), now.Add(-time.Second).UnixNano()
	for _, test := range []struct {
		name string
		make func(w *walk, f *folder)
		want bool
	}{
		{"as usual", func(*walk, *folder) {}, true},
		{"young folder", func(w *walk, _ *folder) { w.dirs[1].mark.ctime = young }, false},
		{"young pack", func(w *walk, _ *folder) { w.dirs[0].mark.ctime = young }, false},
		{"young file", func(_ *walk, f *folder) { f.files[0].racy = true }, false},
		{"another file system on a folder", func(w *walk, _ *folder) { w.dirs[1].mark.dev = 2 }, false},
		{"another file system on a file", func(_ *walk, f *folder) { f.files[0].mark.dev = 2 }, false},
		{"a network's file system", func(w *walk, _ *folder) { w.kind = "nfs" }, false},
		{"written meanwhile", func(w *walk, _ *folder) { w.unstable = true }, false},
	} {
		m := mark{dev: 1, ctime: old}
		w, f := &walk{now: now, dirs: []dir{{"/p", m}, {"/p/lib", m}}}, &folder{files: []file{{path: "lib/x", mark: m}}}
		test.make(w, f)
		if have := w.steady(f) != nil; have != test.want {
			t.Errorf("%s: %v", test.name, have)
		}
	}
}

// TestRememberedFoldersAreWatched: a pack that is known from an earlier process gets its watches before it is
// looked at, and is not walked for them.
func TestRememberedFoldersAreWatched(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	earlier := newScanner(uncovered{}, 0)
	known := look(t, earlier, f, "p").folder
	w := newWatcher(newWindows(defaultQuiet, defaultMaxWait), quietLogger(), newMetrics(nil), func() {})
	w.start()
	defer w.stop()
	s := newScanner(w, 0)
	s.folders[known.key] = known
	if v := look(t, s, f, "p"); v.outcome != same || v.folder != known {
		t.Errorf("outcome %v", v.outcome)
	}
	list := w.notify.WatchList()
	slices.Sort(list)
	want := []string{known.real}
	for _, kind := range []string{"actions", "rules", "sensors", "triggers"} {
		want = append(want, filepath.Join(known.real, kind))
	}
	if !slices.Equal(list, want) {
		t.Errorf("watched are %v, want %v", list, want)
	}
	w.rebuild()
	if w.holds(known.key, known.dirs) {
		t.Error("watches that were closed are taken for held")
	}
	look(t, s, f, "p")
	if !w.holds(known.key, known.dirs) || !w.agrees(w.notify.WatchList()) {
		t.Error("the folders are not watched again")
	}
}
