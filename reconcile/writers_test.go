package reconcile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// TestWhoMayWrite: what everybody may write is refused wherever it stands in a pack, and what a group may is not.
func TestWhoMayWrite(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		make func(f *testTree)
		want string // in the findings; empty: none
	}{
		{
			"manifest", func(f *testTree) { f.do(os.Chmod(f.path("p/rules/rule.yaml"), 0o666)) },
			"p/rules/rule.yaml: cannot load the pack: everybody may write this file (mode 0666, expected 0664), and so choose what runs here; chmod o-w PACKS/p/rules/rule.yaml; what is in force stays",
		},
		{"pack.yaml", func(f *testTree) { f.do(os.Chmod(f.path("p/pack.yaml"), 0o602)) }, "mode 0602, expected 0600"},
		{"entry point", func(f *testTree) { f.do(os.Chmod(f.path("p/actions/act.sh"), 0o777)) }, "p/actions/act.sh: cannot load the pack"},
		{"library", func(f *testTree) { f.write("p/lib/x", "x"); f.do(os.Chmod(f.path("p/lib/x"), 0o666)) }, "p/lib/x: cannot load the pack"},
		{"the pack itself", func(f *testTree) { f.do(os.Chmod(f.path("p"), 0o777)) }, "everybody may write this folder (mode 0777, expected 0775)"},
		{"folder", func(f *testTree) { f.do(os.Chmod(f.path("p/actions"), 0o777)) }, "p/actions: cannot load the pack"},
		{"sticky folder", func(f *testTree) { f.do(os.Chmod(f.path("p/actions"), 0o777|os.ModeSticky)) }, "mode 1777, expected 1775"},
		{"folder behind a hidden link", func(f *testTree) {
			f.write("p/.data/v1/x", "x")
			f.do(os.Symlink(".data/v1", f.path("p/lib")))
			f.do(os.Chmod(f.path("p/.data"), 0o777))
		}, "p/.data: cannot load the pack"},
		{"several", func(f *testTree) {
			f.do(os.Chmod(f.path("p/pack.yaml"), 0o666))
			f.do(os.Chmod(f.path("p/actions/act.sh"), 0o777))
		}, "p/actions/act.sh: cannot load the pack: everybody may write this file (mode 0777, expected 0775), and so choose what runs here; " +
			"1 more are like it; chmod -R o-w PACKS/p"},
		{"group", func(f *testTree) {
			f.do(os.Chmod(f.path("p"), 0o775|os.ModeSetgid))
			f.do(os.Chmod(f.path("p/actions"), 0o775))
			f.do(os.Chmod(f.path("p/actions/act.sh"), 0o775))
			f.do(os.Chmod(f.path("p/rules/rule.yaml"), 0o664))
		}, ""},
		{"what is no part of it", func(f *testTree) {
			f.write("p/.git/x", "x")
			f.do(os.Chmod(f.path("p/.git"), 0o777))
			f.do(os.Chmod(f.path("p/.git/x"), 0o666))
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newTree(t)
			f.pack("p")
			test.make(f)
			have := look(t, newScanner(uncovered{}, 0), f, "p").folder
			text := strings.ReplaceAll(errorTexts(have.findings), f.dir, "PACKS")
			if test.want == "" && text != "" || !strings.Contains(text, test.want) || have.held != (test.want != "") {
				t.Errorf("found %q, held %v, want %q", text, have.held, test.want)
			}
			lenient := newScanner(uncovered{}, 0)
			lenient.lenient = true
			if have = look(t, lenient, f, "p").folder; have.held || have.findings.HasErrors() || (len(have.findings) > 0) != (test.want != "") {
				t.Errorf("with world_writable = warn: held %v, %s", have.held, errorTexts(have.findings))
			}
		})
	}
}

func errorTexts(errs manifest.Errors) string {
	var texts []string
	for _, e := range errs {
		texts = append(texts, e.Error())
	}
	return strings.Join(texts, "\n")
}

// TestStrangersFiles: files of a third user are told, those of the packs folder's owner are not told again.
func TestStrangersFiles(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	f := newTree(t)
	f.pack("p")
	f.do(os.Chown(f.dir, 1234, -1))
	f.do(os.Chown(f.path("p/pack.yaml"), 1234, -1))
	s := newScanner(uncovered{}, 0)
	if have := look(t, s, f, "p").folder; len(have.findings) > 0 {
		t.Errorf("of the packs folder's owner: %s", errorTexts(have.findings))
	}
	f.do(os.Chown(f.path("p/pack.yaml"), 1235, -1))
	have := look(t, s, f, "p").folder
	if text := errorTexts(have.findings); have.held || !strings.Contains(text, "p/pack.yaml: this belongs to uid 1235, who can change what runs as uid 0; chown -R 1234 ") {
		t.Errorf("found %q, held %v", text, have.held)
	}
	if l := list([]string{f.dir}, []string{"*"}, uncovered{}, nil, false); len(l.sources[0].warnings) != 1 {
		t.Errorf("of the packs folder itself: %v", l.sources[0].warnings)
	}
}

// TestOpenAbove: who may rename a folder above may put another in its place.
func TestOpenAbove(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	above := filepath.Dir(f.dir)
	warnings := func() []string {
		return list([]string{f.dir}, []string{"*"}, uncovered{}, nil, false).sources[0].warnings
	}
	if have := warnings(); len(have) > 0 {
		t.Errorf("found %v", have)
	}
	f.do(os.Chmod(above, 0o777))
	if have := warnings(); len(have) != 1 || !strings.Contains(have[0], "because everybody may write "+above) {
		t.Errorf("found %v", have)
	}
	f.do(os.Chmod(above, 0o777|os.ModeSticky))
	if have := warnings(); len(have) > 0 {
		t.Errorf("below a sticky folder: %v", have)
	}
}

// TestReadOnlyMount: modes on what is mounted read-only let nobody write. ConfigMaps come so.
func TestReadOnlyMount(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("p")
	f.do(os.Chmod(f.dir, 0o777))
	f.do(os.Chmod(f.path("p"), 0o777))
	if err := unix.Mount(f.dir, f.dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("this user cannot mount: %v", err)
	}
	defer func() { f.do(unix.Unmount(f.dir, 0)) }()
	l := list([]string{f.dir}, []string{"*"}, uncovered{}, nil, false)
	if l.problem() == "" {
		t.Error("a folder that everybody may write was used")
	}
	f.do(unix.Mount("", f.dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	l = list([]string{f.dir}, []string{"*"}, uncovered{}, nil, false)
	if have := look(t, newScanner(uncovered{}, 0), f, "p").folder; l.problem() != "" || have.held {
		t.Errorf("mounted read-only: %s, %s", l.problem(), errorTexts(have.findings))
	}
}

// TestFileThatEverybodyMayWriteKeepsTheLastGood: a running daemon notices a chmod, keeps what is in force, and takes
// it back when the mode is mended. It costs nothing where nothing changed: the mode is part of what is looked at.
func TestFileThatEverybodyMayWriteKeepsTheLastGood(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	before := b.catalog().Packs["one"]
	b.do(os.Chmod(b.path("one/actions/act.sh"), 0o777))
	b.await("the refusal", func(c *store.Catalog) bool { return c.Packs["one"].Errors.HasErrors() })
	b.write("one/actions/act.sh", "echo changed by somebody\n")
	b.do(os.Chmod(b.path("one/actions/act.sh"), 0o777))
	b.reload()
	if now := b.catalog().Packs["one"]; !now.Enabled || now.TreeDigest != before.TreeDigest {
		t.Error("the last good version did not stay")
	}
	b.do(os.Chmod(b.path("one/actions/act.sh"), 0o755))
	b.await("the pack again", func(c *store.Catalog) bool {
		p := c.Packs["one"]
		return !p.Errors.HasErrors() && p.TreeDigest != before.TreeDigest
	})
}
