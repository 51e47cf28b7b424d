package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
)

// later is a time at which no file of a test is too young to be trusted.
func later() time.Time { return time.Now().Add(time.Minute) }

// look scans one pack of a tree and gives the visit.
func look(t testing.TB, s *scanner, f *testTree, ref string) visit {
	t.Helper()
	real, err := filepath.EvalSymlinks(f.dir)
	f.do(err)
	return s.scan(placeOf(f.dir, real, ref), later(), false)
}

func paths(f *folder) []string {
	list := []string{}
	for _, one := range f.files {
		switch {
		case one.link != "":
			list = append(list, one.path+" -> "+one.link)
		case one.mark.executable():
			list = append(list, one.path+" *")
		default:
			list = append(list, one.path)
		}
	}
	return list
}

func TestScanKeepsWhatBelongs(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.write("p/pack.yaml", "ref: p\n")
	f.write("p/actions/a.sh", "x")
	f.write("p/lib/deep/er/x.py", "x")
	for _, name := range []string{
		".git/HEAD", "__pycache__/x.pyc", "node_modules/m/index.js", ".venv/bin/python", "lib/__pycache__/y",
		"actions/.a.sh.swp", "actions/a.sh~", "actions/4913",
	} {
		f.write("p/"+name, "x")
	}
	f.do(os.Symlink("deep/er/x.py", f.path("p/lib/x.py")))
	f.do(os.Symlink("../lib", f.path("p/actions/lib")))
	f.do(os.Symlink("/etc/passwd", f.path("p/actions/out")))
	f.do(os.Symlink("../../../x", f.path("p/lib/up")))
	f.do(os.Symlink("nothing", f.path("p/dangling")))
	f.do(os.Symlink("loop", f.path("p/loop")))
	f.do(os.Symlink("..", f.path("p/lib/self")))
	f.do(unix.Mkfifo(f.path("p/pipe"), 0o644))
	f.do(unix.Mkfifo(f.path("p/actions/pipe.yaml"), 0o644))
	f.do(os.Mkdir(f.path("p/actions/dir.yaml"), 0o755))

	began := time.Now()
	v := look(t, newScanner(uncovered{}, 0), f, "p")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	want := []string{
		"actions/a.sh *", "actions/lib -> ../lib", "lib/deep/er/x.py", "lib/x.py -> deep/er/x.py", "pack.yaml",
	}
	if diff := cmp.Diff(want, paths(v.folder)); diff != "" {
		t.Errorf("tree (-want +have):\n%s", diff)
	}
	wantFindings := []string{
		`error: p/actions/out: cannot keep this file: it is a link to "/etc/passwd": it leads out of the pack; put a copy into the pack`,
		`warning: p/dangling: cannot keep this file: it is a link to "nothing", which is not there`,
		`error: p/lib/self: cannot keep this file: it is a link to "..": it leads out of the pack; put a copy into the pack`,
		`error: p/lib/up: cannot keep this file: it is a link to "../../../x": it leads out of the pack; put a copy into the pack`,
		`error: p/loop: cannot keep this file: it is a link to "loop": it leads over too many links; put a copy into the pack`,
		`warning: p/pipe: cannot keep a named pipe; a revision holds files and links only`,
	}
	if diff := cmp.Diff(wantFindings, texts(v.folder.findings)); diff != "" {
		t.Errorf("findings (-want +have):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"actions/pipe.yaml": "it is a named pipe, not a file"}, v.folder.problems); diff != "" {
		t.Errorf("problems (-want +have):\n%s", diff)
	}
	if v.folder.held {
		t.Error("the pack is held")
	}
	all := reachable(v.folder.files)
	if all["lib/x.py"] == nil || all["actions/lib/deep/er/x.py"] == nil {
		t.Errorf("not everything can be reached: %v", sortedKeys(all))
	}
}

// TestScanHiddenLink: what a kept link leads through must be kept too.
func TestScanHiddenLink(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.write("p/pack.yaml", "ref: p\n")
	f.write("p/lib/v1/x", "x")
	f.do(os.Symlink("v1", f.path("p/lib/.current")))
	f.do(os.Symlink(".current/x", f.path("p/lib/x")))
	v := look(t, newScanner(uncovered{}, 0), f, "p")
	if diff := cmp.Diff([]string{"lib/v1/x", "lib/x", "pack.yaml"}, paths(v.folder)); diff != "" {
		t.Errorf("tree (-want +have):\n%s", diff)
	}
}

// TestScanConfigMap scans the layout that Kubernetes makes: links through a hidden link, which is
// swapped.
func TestScanConfigMap(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.write("p/..v1/pack.yaml", "ref: p\n")
	f.write("p/..v1/actions/a.sh", "one")
	f.do(os.Symlink("..v1", f.path("p/..data")))
	f.do(os.Symlink("..data/pack.yaml", f.path("p/pack.yaml")))
	f.do(os.Symlink("..data/actions", f.path("p/actions")))
	s := newScanner(uncovered{}, 0)
	v := look(t, s, f, "p")
	if diff := cmp.Diff([]string{"actions/a.sh *", "pack.yaml"}, paths(v.folder)); diff != "" {
		t.Errorf("tree (-want +have):\n%s", diff)
	}
	if content, err := v.folder.contentOf(find(v.folder.files, "actions/a.sh").digest); err != nil || string(content) != "one" {
		t.Errorf("content %q, %v", content, err)
	}
	f.write("p/..v2/pack.yaml", "ref: p\nlabel: two\n")
	f.write("p/..v2/actions/a.sh", "two")
	f.do(os.Symlink("..v2", f.path("p/..data_tmp")))
	f.rename("p/..data_tmp", "p/..data")
	if v2 := look(t, s, f, "p"); v2.outcome != fresh || v2.folder.digest == v.folder.digest {
		t.Errorf("the swap was not seen: outcome %v", v2.outcome)
	}
}

// TestOutcomesAreDocumented compares the table in doc.go with the code.
func TestOutcomesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "//\toutcome ")
	table, _, _ = strings.Cut(table, "//\n")
	var have []string
	for _, line := range strings.Split(table, "\n//\t")[1:] {
		have = append(have, strings.Fields(line)[0])
	}
	var want []string
	for _, o := range []outcome{same, fresh, gone, unsure} {
		want = append(want, o.String())
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("doc.go's table (-code +doc):\n%s", diff)
	}
}

func TestListMountedOver(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	l := list([]string{f.dir}, []string{"*"}, uncovered{}, map[string]identity{f.dir: {dev: 1 << 60}}, false)
	if !strings.Contains(l.problem(), "an empty file system is mounted there") {
		t.Errorf("problem %q", l.problem())
	}
	f.pack("p")
	l = list([]string{f.dir}, []string{"*"}, uncovered{}, map[string]identity{f.dir: {dev: 1 << 60}}, false)
	if l.problem() != "" || len(l.places) != 1 {
		t.Errorf("problem %q with packs in it", l.problem())
	}
}

func TestScanSeesEveryKindOfChange(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	s := newScanner(uncovered{}, 0)
	if v := look(t, s, f, "p"); v.outcome != fresh {
		t.Fatalf("first outcome %v", v.outcome)
	}
	if v := look(t, s, f, "p"); v.outcome != same {
		t.Fatalf("second outcome %v", v.outcome)
	}
	info, err := os.Stat(f.path("p/actions/act.sh"))
	f.do(err)
	changes := []struct {
		name string
		make func()
		want outcome
	}{
		{"touch", func() { f.do(os.Chtimes(f.path("p/pack.yaml"), time.Now(), time.Now())) }, same},
		{"same size, same times", func() {
			f.write("p/actions/act.sh", "#!/bin/bash\necho q\n")
			f.do(os.Chtimes(f.path("p/actions/act.sh"), info.ModTime(), info.ModTime()))
		}, fresh},
		{"older times", func() {
			f.write("p/actions/act.sh", "#!/bin/bash\necho z\n")
			f.do(os.Chtimes(f.path("p/actions/act.sh"), time.Unix(1, 0), time.Unix(1, 0)))
		}, fresh},
		{"x bit", func() { f.do(os.Chmod(f.path("p/actions/act.sh"), 0o644)) }, fresh},
		{"other bits", func() { f.do(os.Chmod(f.path("p/actions/act.sh"), 0o600)) }, same},
		{"new file", func() { f.write("p/lib/new", "") }, fresh},
		{"renamed", func() { f.rename("p/lib/new", "p/lib/old") }, fresh},
		{"removed", func() { f.remove("p/lib/old") }, fresh},
		{"empty folder", func() { f.remove("p/lib") }, same},
		{"ignored", func() { f.write("p/.cache", "x") }, same},
		{"link", func() { f.do(os.Symlink("act.sh", f.path("p/actions/alias"))) }, fresh},
		{"link elsewhere", func() {
			f.remove("p/actions/alias")
			f.do(os.Symlink("act.yaml", f.path("p/actions/alias")))
		}, fresh},
		{"pack.yaml away", func() { f.rename("p/pack.yaml", "p/.pack.yaml") }, gone},
		{"pack.yaml back", func() { f.rename("p/.pack.yaml", "p/pack.yaml") }, fresh},
		{"all away", func() { f.remove("p") }, gone},
	}
	for _, c := range changes {
		c.make()
		if v := look(t, s, f, "p"); v.outcome != c.want {
			t.Errorf("%s: outcome %v, want %d", c.name, v.outcome, c.want)
		}
	}
}

func TestScanReadsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	s := newScanner(uncovered{}, 0)
	look(t, s, f, "p")
	f.write("p/actions/act.sh", "new\n")
	if v := look(t, s, f, "p"); !slices.Equal(sortedKeys(v.content), []string{"actions/act.sh"}) {
		t.Errorf("read again: %v", sortedKeys(v.content))
	}
	f.write("p/rules/rule.yaml", "new\n")
	if v := look(t, s, f, "p"); !slices.Equal(sortedKeys(v.content), []string{"rules/rule.yaml"}) {
		t.Errorf("read again: %v", sortedKeys(v.content))
	}
}

// TestYoungFilesAreReadAgain: within the clock's grain, a mark says nothing.
func TestYoungFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	for _, test := range []struct {
		ctime time.Time
		want  bool
	}{
		{now.Add(-time.Hour), false},
		{now.Add(-racyWindow - time.Second), false},
		{now.Add(-time.Second), true},
		{now.Add(time.Hour), true}, // the clock was set back
	} {
		if have := (mark{ctime: test.ctime.UnixNano()}).racy(now); have != test.want {
			t.Errorf("%s: %v", test.ctime.Sub(now), have)
		}
	}
}

func TestScanLimits(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	f.write("p/actions/huge.yaml", strings.Repeat("#", manifest.MaxFileSize+1))
	v := look(t, newScanner(uncovered{}, 0), f, "p")
	if !strings.Contains(v.folder.problems["actions/huge.yaml"], "at most 1048576") || v.folder.held {
		t.Errorf("problems %v, held %v", v.folder.problems, v.folder.held)
	}
	f.write("p/blob", "")
	f.do(os.Truncate(f.path("p/blob"), maxPackBytes+1))
	v = look(t, newScanner(uncovered{}, 0), f, "p")
	if !v.folder.held || !strings.Contains(v.folder.findings.Error(), "more than 64 MiB") {
		t.Errorf("held %v: %v", v.folder.held, v.folder.findings)
	}
}

func TestScanUnreadable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	f := newTree(t)
	f.pack("p")
	f.do(os.Chmod(f.path("p/rules/rule.yaml"), 0))
	v := look(t, newScanner(uncovered{}, 0), f, "p")
	if want := fmt.Sprintf("permission denied to uid %d (mode 0000", os.Geteuid()); !strings.Contains(v.folder.problems["rules/rule.yaml"], want) || v.folder.held {
		t.Errorf("problems %v, held %v", v.folder.problems, v.folder.held)
	}
	f.do(os.Chmod(f.path("p/actions"), 0))
	v = look(t, newScanner(uncovered{}, 0), f, "p")
	f.do(os.Chmod(f.path("p/actions"), 0o755))
	if !v.folder.held {
		t.Error("the pack is not held although a folder cannot be read")
	}
}

// TestScanUnopened: a pack whose folder cannot be opened is told of, where it could be taken for one that changes or is gone.
func TestScanUnopened(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.do(os.Symlink("p", f.path("p"))) // which stops root, too
	v := look(t, newScanner(uncovered{}, 0), f, "p")
	b, err := v.folder.bundle(v.content)
	if err != nil {
		t.Fatal(err)
	}
	if have := errorTexts(b.Errors); b.Pack != nil || !v.folder.held || !strings.Contains(have, "p/pack.yaml: cannot read the manifest: its folder cannot be opened, ") {
		t.Errorf("held %v, pack %v: %s", v.folder.held, b.Pack, have)
	}
}

// TestPolledChangesSettle: who polls has no window, and must not take a half for the whole.
func TestPolledChangesSettle(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	p := placeOf(f.dir, f.dir, "p")
	s := newScanner(uncovered{}, 250*time.Millisecond)
	if v := s.scan(p, time.Now(), true); v.outcome != unsure || v.retry <= 0 {
		t.Errorf("outcome %v, retry %s", v.outcome, v.retry)
	}
	if v := s.scan(p, later(), true); v.outcome != fresh {
		t.Errorf("outcome %v when it has settled", v.outcome)
	}
}

// What is waited for is named: the file that has no bytes, and the rest in words.
func TestWaitsAreNamed(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	for _, ref := range []string{"empty", "git", "young", "done"} {
		f.pack(ref)
	}
	f.write("empty/rules/new.yaml", "")
	f.write("git/.git/index.lock", "")
	s := newScanner(uncovered{}, 250*time.Millisecond)
	look := func(now time.Time, young time.Time) []PackWait {
		for _, ref := range []string{"empty", "git", "done"} {
			s.scan(placeOf(f.dir, f.dir, ref), now, false)
		}
		s.scan(placeOf(f.dir, f.dir, "young"), young, true)
		return s.waitsFor()
	}
	want := []PackWait{
		{"empty", "empty/rules/new.yaml has no bytes, and for 2s that means that it is being written"},
		{"git", "git is at work in it"},
		{"young", "it changed a moment ago"},
	}
	now := later()
	if diff := cmp.Diff(want, look(now, time.Now())); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[1:2], look(now.Add(emptyPatience), now)); diff != "" {
		t.Error(diff)
	}
	f.remove("git")
	if diff := cmp.Diff([]PackWait{}, look(now.Add(lockPatience), now)); diff != "" {
		t.Error(diff)
	}
}

func TestStaleIndexLock(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	f.write("p/.git/index.lock", "")
	p := placeOf(f.dir, f.dir, "p")
	s := newScanner(uncovered{}, 0)
	now := later()
	if v := s.scan(p, now, false); v.outcome != unsure {
		t.Errorf("outcome %v", v.outcome)
	}
	if v := s.scan(p, now.Add(lockPatience), false); v.outcome != fresh {
		t.Errorf("outcome %v after the patience", v.outcome)
	}
}

// TestIncrementalScanEqualsScanFromNothing makes random changes; after each, a scanner that remembers
// must know exactly what one that knows nothing finds.
func TestIncrementalScanEqualsScanFromNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "packs")
		if err != nil {
			rt.Fatal(err)
		}
		f := &testTree{t, dir}
		f.write("p/pack.yaml", "ref: p\nversion: 1.0.0\n")
		remembering := newScanner(uncovered{}, 0)
		names := rapid.SampledFrom([]string{
			"pack.yaml", "actions/a.yaml", "actions/a.sh", "actions/b.yaml", "lib/x", "lib/deep/y", "sensors/s.sh", "sensors/lib/z", "README.md", ".hidden", "lib.txt",
		})
		contents := rapid.SampledFrom([]string{"", "x", "y", "name: a\n"})
		for range rapid.IntRange(1, 12).Draw(rt, "changes") {
			name := "p/" + names.Draw(rt, "name")
			switch rapid.SampledFrom([]string{"write", "replace", "remove", "chmod", "rename", "link", "folder"}).Draw(rt, "change") {
			case "write":
				writeAnyhow(f, name, contents.Draw(rt, "content"))
			case "replace":
				writeAnyhow(f, "p/.temporary", contents.Draw(rt, "content"))
				_ = os.MkdirAll(filepath.Dir(f.path(name)), 0o755)
				_ = os.Rename(f.path("p/.temporary"), f.path(name))
			case "remove":
				f.remove(name)
			case "chmod":
				_ = os.Chmod(f.path(name), os.FileMode(rapid.SampledFrom([]uint32{0o644, 0o755}).Draw(rt, "mode")))
			case "rename":
				_ = os.Rename(f.path(name), f.path("p/"+names.Draw(rt, "to")))
			case "link":
				_ = os.Symlink(names.Draw(rt, "target"), f.path(name))
			case "folder":
				f.remove(name)
				_ = os.MkdirAll(f.path(name), 0o755)
			}
			now := later()
			p := placeOf(f.dir, f.dir, "p")
			have, want := remembering.scan(p, now, false), newScanner(uncovered{}, 0).scan(p, now, false)
			if (have.outcome == gone) != (want.outcome == gone) {
				rt.Fatalf("outcome %v, from nothing %d", have.outcome, want.outcome)
			}
			if want.outcome == gone {
				continue
			}
			if diff := cmp.Diff(treeOf(want.folder.files), treeOf(have.folder.files)); diff != "" || have.folder.sum != want.folder.sum {
				rt.Fatalf("(-from nothing +incremental):\n%s\n%v\n%v", diff, texts(want.folder.findings), texts(have.folder.findings))
			}
			a, err := have.folder.bundle(have.content)
			if err != nil {
				rt.Fatal(err)
			}
			b, err := want.folder.bundle(want.content)
			if err != nil {
				rt.Fatal(err)
			}
			if diff := cmp.Diff(texts(b.Errors), texts(a.Errors)); diff != "" {
				rt.Fatalf("findings (-from nothing +incremental):\n%s", diff)
			}
		}
	})
}

// writeAnyhow writes a file where that is possible.
func writeAnyhow(f *testTree, name, content string) {
	_ = os.MkdirAll(filepath.Dir(f.path(name)), 0o755)
	_ = os.WriteFile(f.path(name), []byte(content), 0o644)
}
