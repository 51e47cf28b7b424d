package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// edits are what people and programs do to packs; each is drawn at random and does nothing where it
// cannot be done.
type edit struct {
	what, pack, file string
	number           int
}

func (e edit) String() string { return fmt.Sprintf("%s %s/%s %d", e.what, e.pack, e.file, e.number) }

var editGenerator = rapid.Custom(func(t *rapid.T) edit {
	return edit{
		what: rapid.SampledFrom([]string{
			"write", "write", "replace", "replace", "break", "remove", "touch", "chmod", "link", "unlink", "move pack", "remove pack", "pack",
			"reload", "wait",
		}).Draw(t, "what"),
		pack: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "pack"),
		file: rapid.SampledFrom([]string{
			"pack.yaml", "actions/act.yaml", "actions/act.sh", "triggers/tick.yaml", "sensors/sense.yaml", "sensors/sense.sh",
			"rules/rule.yaml", "rules/other.yaml", "lib/x", "README.md",
		}).Draw(t, "file"),
		number: rapid.IntRange(0, 9).Draw(t, "number"),
	}
})

// content is a valid content of a file; packs name each other's triggers and actions.
func (e edit) content() string {
	next := map[string]string{"a": "b", "b": "c", "c": "a"}[e.pack]
	switch e.file {
	case "pack.yaml":
		return fmt.Sprintf("ref: %s\nversion: 1.0.%d\n", e.pack, e.number)
	case "actions/act.yaml":
		return fmt.Sprintf("name: act\nlabel: number %d\nentry_point: act.sh\n", e.number)
	case "triggers/tick.yaml":
		return fmt.Sprintf("name: tick\nlabel: number %d\n", e.number)
	case "sensors/sense.yaml":
		return fmt.Sprintf("name: sense\nlabel: number %d\nentry_point: sense.sh\ntrigger_types: [%s.tick]\n", e.number, e.pack)
	case "rules/rule.yaml":
		return fmt.Sprintf("name: rule\ntrigger: %s.tick\naction: %s.act\nwhen: event.payload.n > %d\n", next, e.pack, e.number)
	case "rules/other.yaml":
		return fmt.Sprintf("name: other\nenabled: %v\ntrigger: %s.tick\naction: %s.act\n", e.number%2 == 0, e.pack, next)
	default:
		return fmt.Sprintf("# number %d\n", e.number)
	}
}

func (b *bench) make(e edit) {
	b.t.Helper()
	name := e.pack + "/" + e.file
	exists := func(name string) bool { _, err := os.Lstat(b.path(name)); return err == nil }
	switch e.what {
	case "write":
		b.write(name, e.content())
	case "replace":
		b.replace(name, e.content())
	case "break":
		b.write(name, "name: act\n\tbroken: [\n")
	case "remove":
		b.remove(name)
	case "touch":
		if exists(name) {
			b.do(os.Chtimes(b.path(name), time.Unix(int64(e.number), 0), time.Unix(int64(e.number), 0)))
		}
	case "chmod":
		if exists(name) {
			b.do(os.Chmod(b.path(name), os.FileMode(0o644+0o111*(e.number%2))))
		}
	case "link":
		if b.do(os.MkdirAll(b.path(e.pack+"/lib"), 0o755)); !exists(e.pack + "/lib/alias") {
			b.do(os.Symlink("../"+e.file, b.path(e.pack+"/lib/alias")))
		}
	case "unlink":
		b.remove(e.pack + "/lib/alias")
	case "move pack":
		if exists(e.pack) {
			b.rename(e.pack, ".aside")
			b.rename(".aside", e.pack)
		}
	case "remove pack":
		b.remove(e.pack)
	case "pack":
		b.complete(e.pack)
	case "reload":
		b.reload()
	case "wait":
		<-time.After(time.Duration(e.number*e.number) * 4 * time.Millisecond) // between none and more than a quiet window
	}
}

// complete makes valid what others name in a pack, and whatever of it is broken.
func (b *bench) complete(ref string) {
	b.t.Helper()
	for _, file := range []string{"pack.yaml", "actions/act.yaml", "actions/act.sh", "triggers/tick.yaml", "sensors/sense.sh"} {
		b.write(ref+"/"+file, edit{pack: ref, file: file}.content())
	}
	for _, file := range []string{"sensors/sense.yaml", "rules/rule.yaml", "rules/other.yaml"} {
		if text, err := os.ReadFile(b.path(ref + "/" + file)); err == nil && strings.Contains(string(text), "broken") {
			b.write(ref+"/"+file, edit{pack: ref, file: file}.content())
		}
	}
}

// stateOfCatalog is what is in force, as far as it follows from the files alone.
func stateOfCatalog(c *store.Catalog) map[string][]string {
	state := map[string][]string{}
	for ref, row := range c.Packs {
		if row.Present {
			state["pack "+ref] = append([]string{row.Digest, row.TreeDigest, row.Directory, fmt.Sprint(row.Enabled)}, texts(row.Errors)...)
		}
	}
	for _, kind := range manifest.ComponentKinds() {
		for ref, r := range c.Records(kind) {
			if r.Present {
				state[string(kind)+" "+ref] = []string{r.Digest, r.FilesDigest, r.TreeDigest, r.File, fmt.Sprint(r.Enabled)}
			}
		}
	}
	return state
}

// TestIncrementalIsAsFromNothing edits at random while a reconciler watches. Whatever it made of it, step
// by step, a new process finds nothing to do; and once no mistake is left that a last good version stands
// for, it is what an empty database would get from the same files.
func TestIncrementalIsAsFromNothing(t *testing.T) {
	t.Parallel()
	const rounds, most = 3, 40
	edits := rapid.SliceOfN(editGenerator, 10, most)
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			memory := filepath.Join(t.TempDir(), "memory")
			b.options = func(o *Options) { o.Memory = memory }
			for _, ref := range []string{"a", "b", "c"} {
				b.complete(ref)
				for _, file := range []string{"sensors/sense.yaml", "rules/rule.yaml", "rules/other.yaml", "lib/x"} {
					b.write(ref+"/"+file, edit{pack: ref, file: file}.content())
				}
			}
			b.start()
			for _, e := range edits.Example(seed) {
				t.Log(e)
				b.make(e)
			}
			b.unchangedBy("a new process", func() {})
			b.unchangedBy("one that remembers nothing", func() { b.do(os.RemoveAll(memory)) })
			for _, ref := range []string{"a", "b", "c"} {
				b.complete(ref)
			}
			b.reload()
			have := stateOfCatalog(b.catalog())

			other := setup(t)
			other.testTree = b.testTree
			other.start()
			if diff := cmp.Diff(stateOfCatalog(other.catalog()), have); diff != "" {
				t.Errorf("(-from nothing +step by step):\n%s", diff)
			}
		})
	}
}

// unchangedBy starts another process and looks that it has nothing to do.
func (b *bench) unchangedBy(who string, before func()) {
	b.t.Helper()
	b.reload()
	generation := b.catalog().Generation
	b.stop()
	before()
	b.start()
	report := b.reload()
	if have := b.catalog().Generation; have != generation {
		b.t.Errorf("%s changed something: generation %d, then %d\n%s", who, generation, have, b.log)
	}
	for _, one := range report.Plan.Packs {
		for _, s := range one.Steps {
			if s.Op != StepKeep {
				b.t.Errorf("%s still has to do: %s", who, s.line())
			}
		}
	}
}
