package reconcile

import (
	"errors"
	"fmt"
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

// TestDifferenceTellsRefused: what was refused in the older state is no news when it is mended, and what is refused
// in the newer one is not created.
func TestDifferenceTellsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Minute, time.Minute } // one revision, however slow the writes
	b.pack("one")
	b.start()
	b.write("one/actions/act.yaml", "name: act\nentry_point: [\n")
	b.write("one/rules/late.yaml", "name: late\ntrigger: one.tick\naction: one.nothing\n")
	b.write("one/README.md", "# One\n")
	b.reload()
	between := func(from, to string) []string {
		t.Helper()
		d, err := b.Difference(t.Context(), "one", from, to)
		b.do(err)
		return steps(&Plan{Packs: []PackPlan{{Steps: d.Steps}}})
	}
	if diff := cmp.Diff([]string{"! action one.act", "~ pack one (files)"}, between("1", "2")); diff != "" {
		t.Errorf("to what is refused (-want +have):\n%s", diff)
	}
	b.write("one/actions/act.yaml", "name: act\nentry_point: act.sh\n")
	b.write("one/rules/late.yaml", "name: late\ntrigger: one.tick\naction: one.act\n")
	b.reload()
	d, err := b.Difference(t.Context(), "one", "2", "3")
	b.do(err)
	for _, s := range d.Steps {
		if s.Ref == "one.act" && (s.Op != StepChange || !s.Errors.HasErrors() || !strings.Contains(s.Errors[0].Error(), "one/actions/act.yaml:2:1")) {
			t.Errorf("what was refused is told as %+v", s)
		}
	}
}

// Whatever form a secret has in a manifest, no difference shows it.
func TestDifferenceShowsNoSecrets(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.options = func(o *Options) { o.Quiet, o.MaxWait = time.Hour, time.Hour }
	schema := "conf_schema:\n  key: {type: string, secret: true}\n  pin: {type: string, secret: true}\n  token: {type: string, secret: true}\n"
	manifestOf := func(version, word string) string {
		return "ref: one\nversion: " + version + "\n" + schema + "config:\n  key: |\n    BEGIN " + word + "\n    middle " + word + "\n  pin: q" +
			version[:1] + "\n  token: \"\\x68unter-" + word + "\"\n"
	}
	b.pack("one")
	b.pack("other")
	b.write("other/triggers/tick.yaml", "name: tick\nparameters_schema:\n  secret: {type: string, secret: true}\n")
	b.write("other/actions/act.yaml", "name: act\nentry_point: act.sh\nparameters:\n  password: {type: string, secret: true}\n  text: {type: string}\n")
	b.write("one/pack.yaml", manifestOf("1.0.0", "first"))
	rule := func(word string) string {
		return "name: rule\ntrigger: {ref: other.tick, parameters: {secret: \"\\x7aulu-" + word + "\"}}\naction:\n  ref: other.act\n  parameters:\n    password: >-\n      " + word + "\n      words\n    text: open " + word[:1] + "\n"
	}
	b.write("one/rules/rule.yaml", rule("alpha"))
	b.start()
	b.write("one/pack.yaml", manifestOf("2.0.0", "second"))
	b.write("one/rules/rule.yaml", rule("bravo"))
	b.write("one/README.md", "Log in with hunter-second, or BEGIN second\n")
	b.reload()
	d, err := b.Difference(t.Context(), "one", "", "")
	b.do(err)
	whole := ""
	for _, f := range d.Files {
		whole += f.Diff + f.Note + "\n"
	}
	for _, step := range d.Steps {
		for _, f := range step.Fields {
			whole += fmt.Sprintln(f.Field, f.Old, f.New)
		}
	}
	for _, secret := range []string{"first", "second", "BEGIN", "middle", "unter", "q1", "q2", "alpha", "bravo", "words", "ulu"} {
		if strings.Contains(whole, secret) {
			t.Errorf("%q is shown:\n%s", secret, whole)
		}
	}
	for _, seen := range []string{"+version: 2.0.0", "-    text: open a", "+    text: open b", "  pin: ***", "+Log in with ***, or ***"} {
		if !strings.Contains(whole, seen) {
			t.Errorf("%q is not shown:\n%s", seen, whole)
		}
	}

	// Of what cannot be read nobody knows what is secret.
	b.write("one/pack.yaml", strings.Replace(manifestOf("3.0.0", "third"), "ref: one", "ref: [one", 1))
	b.write("one/rules/rule.yaml", rule("charlie")+"]\n")
	d, err = b.Difference(t.Context(), "one", "", SideFolder)
	b.do(err)
	if len(d.Files) != 2 {
		t.Errorf("found %+v", d.Files)
	}
	for _, f := range d.Files {
		if f.Diff != "" || !strings.Contains(f.Note, "not shown: what of it is secret cannot be told") {
			t.Errorf("found %+v", f)
		}
	}
}
