package reconcile

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDifference(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute } // one revision, however slow the writes
	b.pack("one")
	b.write("one/data.bin", "\x00\x01")
	b.write("one/pack.yaml", "ref: one\nlabel: One\nversion: 1.0.0\nconf_schema:\n  token: {type: string, secret: true}\nconfig: {token: hunter22}\n")
	b.start()
	b.write("one/actions/act.sh", "#!/bin/bash\necho two\n")
	b.write("one/README.md", "# One\n")
	b.write("one/data.bin", "\x00\x02")
	b.write("one/pack.yaml", "ref: one\nlabel: One\nversion: 1.1.0\nconf_schema:\n  token: {type: string, secret: true}\nconfig: {token: hunter33}\n")
	b.remove("one/rules/rule.yaml")
	b.reload()
	d, err := b.Difference(t.Context(), "one", "", "")
	b.do(err)
	if d.From.Revision != 1 || d.To.Revision != 2 || d.From.Version != "1.0.0" || d.To.Version != "1.1.0" {
		t.Errorf("from %+v to %+v", d.From, d.To)
	}
	want := []string{"~ pack one /config/token /version", "~ action one.act (files)", "- rule one.rule"}
	if diff := cmp.Diff(want, steps(&Plan{Packs: []PackPlan{{Steps: d.Steps}}})); diff != "" {
		t.Errorf("steps (-want +have):\n%s", diff)
	}
	files := map[string]FileDiff{}
	var paths []string
	for _, f := range d.Files {
		files[f.Path] = f
		paths = append(paths, f.Change+" "+f.Path)
	}
	wantPaths := []string{"added README.md", "changed actions/act.sh", "changed data.bin", "changed pack.yaml", "removed rules/rule.yaml"}
	if diff := cmp.Diff(wantPaths, paths); diff != "" {
		t.Errorf("files (-want +have):\n%s", diff)
	}
	if text := files["actions/act.sh"].Diff; !strings.Contains(text, "--- a/actions/act.sh\n+++ b/actions/act.sh\n@@ -1,2 +1,2 @@\n #!/bin/bash\n-echo one\n+echo two\n") {
		t.Errorf("found %s", text)
	}
	if text := files["README.md"].Diff; !strings.Contains(text, "--- /dev/null\n") || !strings.Contains(text, "+# One\n") {
		t.Errorf("found %s", text)
	}
	if f := files["data.bin"]; f.Diff != "" || f.Note != "no text" {
		t.Errorf("found %+v", f)
	}
	if text := files["pack.yaml"].Diff; strings.Contains(text, "hunter") || !strings.Contains(text, "token: ***") {
		t.Errorf("found %s", text)
	}

	// Backwards, and against the folder.
	back, err := b.Difference(t.Context(), "one", "2", "1")
	b.do(err)
	if back.Files[0].Change != FileRemoved {
		t.Errorf("found %+v", back.Files[0])
	}
	b.stop()
	b.write("one/README.md", "# Edited\n")
	d, err = b.Difference(t.Context(), "one", "", SideFolder)
	b.do(err)
	if len(d.Files) != 1 || d.Files[0].Path != "README.md" || d.From.Revision != 2 || d.To.Revision != 0 {
		t.Errorf("found %+v", d)
	}
	if same, err := b.Difference(t.Context(), "one", "2", "2"); err != nil || len(same.Files)+len(same.Steps) != 0 {
		t.Errorf("found %+v, %v", same, err)
	}

	for _, refused := range []struct {
		pack, from, to string
		want           error
	}{
		{"nobody", "", "", ErrNoPack}, {"one", "1", "9", ErrNoRevision}, {"one", "x", "", ErrNoSide}, {"one", "-1", "", ErrNoSide},
	} {
		if _, err := b.Difference(t.Context(), refused.pack, refused.from, refused.to); !errors.Is(err, refused.want) {
			t.Errorf("%+v: %v", refused, err)
		}
	}
}
