package reconcile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
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
			"write", "write", "replace", "replace", "break", "remove", "touch", "chmod", "link", "link folder", "swap", "unlink", "move pack",
			"remove pack", "pack", "config", "reload", "wait", "plan", "rollback", "unpin", "disable", "enable", "configure", "restart",
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
		return fmt.Sprintf("ref: %s\nversion: 1.0.%d\nenabled: %v\n", e.pack, e.number, e.number%5 != 4)
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

// configured is content of pack.yaml with a configuration; that of an odd number is not what its schema wants.
func (e edit) configured() string {
	level := fmt.Sprint(e.number)
	if e.number%2 == 1 {
		level = "high"
	}
	return fmt.Sprintf("ref: %s\nversion: 1.0.0\nconf_schema:\n  level: {type: integer, default: 3}\nconfig: {level: %s}\n", e.pack, level)
}

// editor makes edits, of files and by commands.
type editor struct {
	*bench
	memory string
	// config is [packs.config] of the next process.
	config map[string]map[string]any
}

func (b *editor) make(e edit) {
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
	case "config":
		b.write(e.pack+"/pack.yaml", e.configured())
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
		b.link(e.pack+"/lib/alias", "../"+e.file)
	case "link folder":
		b.link(e.pack+"/more", []string{"lib", "sensors", "../" + e.pack, "nowhere"}[e.number%4])
	case "swap": // as ConfigMaps do
		b.write(fmt.Sprintf("%s/lib/..%d/swapped", e.pack, e.number), e.content())
		b.link(e.pack+"/lib/swapped", "..data/swapped")
		b.remove(e.pack + "/lib/..next")
		b.link(e.pack+"/lib/..next", fmt.Sprintf("..%d", e.number))
		b.rename(e.pack+"/lib/..next", e.pack+"/lib/..data")
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
	case "wait":
		<-time.After(time.Duration(e.number*e.number) * 4 * time.Millisecond) // between none and more than a quiet window
	default:
		b.command(e)
	}
}

// link makes a link where nothing stands.
func (b *editor) link(name, target string) {
	b.t.Helper()
	b.do(os.MkdirAll(filepath.Dir(b.path(name)), 0o755))
	if err := os.Symlink(target, b.path(name)); err != nil && !errors.Is(err, os.ErrExist) {
		b.t.Fatal(err)
	}
}

// command does what operators do.
func (b *editor) command(e edit) {
	b.t.Helper()
	ctx := b.t.Context()
	switch e.what {
	case "reload":
		b.reload()
	case "plan":
		_, err := b.Plan(ctx)
		b.do(err)
	case "rollback":
		// Where nothing is to go back to, or what is no longer fits, it is refused.
		if _, err := b.Rollback(ctx, e.pack, 0, "tester", "at random"); err != nil {
			b.t.Log(err)
		}
	case "unpin":
		if _, err := b.Unpin(ctx, e.pack, "tester"); err != nil {
			b.t.Log(err)
		}
	case "disable", "enable":
		sw := store.Switch{Kind: manifest.KindPack, Refs: []string{e.pack}, Enable: e.what == "enable", By: "tester"}
		if e.number%2 == 0 {
			sw.Kind, sw.Refs = manifest.KindRule, []string{e.pack + ".rule"}
		}
		_, _, err := b.store.Switch(ctx, sw)
		b.do(err)
	case "configure":
		b.config = map[string]map[string]any{e.pack: {"level": e.number}}
		if e.number == 9 {
			b.config[e.pack]["level"] = "high"
		}
		b.stop()
		b.start()
	case "restart":
		b.stop()
		if e.number%2 == 0 {
			b.do(os.RemoveAll(b.memory))
		}
		b.start()
	default:
		b.t.Fatalf("nobody knows how to %s", e.what)
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

const (
	// seedVariable names the one seed that TestIncrementalIsAsFromNothing is to try.
	seedVariable = "ATTUNE_TEST_SEED"
	// propertyTime is for how long new rounds of random edits begin where none are given.
	propertyTime = 10 * time.Minute
)

// TestIncrementalIsAsFromNothing edits at random while a reconciler watches. Whatever it made of it, step
// by step, a new process finds nothing to do; and once no mistake is left that a last good version stands
// for, and nothing is pinned or switched off, it is what an empty database would get from the same files.
func TestIncrementalIsAsFromNothing(t *testing.T) {
	t.Parallel()
	const most = 40
	edits := rapid.SliceOfN(editGenerator, 10, most)
	seeds := propertySeeds()
	if given := os.Getenv(seedVariable); given != "" {
		seed, err := strconv.Atoi(given)
		if err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
		seeds = []int{seed}
	}
	began := time.Now()
	for i := 0; i < len(seeds) || len(seeds) == 0 && time.Since(began) < propertyTime; i++ {
		seed := rand.IntN(1_000_000_000)
		if len(seeds) > 0 {
			seed = seeds[i]
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			fromNothing(t, edits.Example(seed), 1+seed%4)
			if t.Failed() {
				t.Logf("again: %s=%d go test -run '^TestIncrementalIsAsFromNothing$' ./reconcile", seedVariable, seed)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// fromNothing compares at most some packs at once.
func fromNothing(t *testing.T, edits []edit, atOnce int) {
	t.Helper()
	b := &editor{bench: setup(t), memory: filepath.Join(t.TempDir(), "memory")}
	b.options = func(o *Options) { o.Memory, o.PackConfig = b.memory, b.config }
	b.prepare = func(r *Reconciler) { r.roundPacks = atOnce }
	refs := []string{"a", "b", "c"}
	for _, ref := range refs {
		b.complete(ref)
		for _, file := range []string{"sensors/sense.yaml", "rules/rule.yaml", "rules/other.yaml", "lib/x"} {
			b.write(ref+"/"+file, edit{pack: ref, file: file}.content())
		}
	}
	b.start()
	for _, e := range edits {
		t.Log(e)
		b.make(e)
	}
	// What has vanished is believed only after a while where it is most of all.
	for _, ref := range b.reload().Held {
		b.complete(ref)
	}
	b.unchangedBy("a new process", func() {})
	b.unchangedBy("one that remembers nothing", func() { b.do(os.RemoveAll(b.memory)) })
	for _, ref := range refs {
		b.complete(ref)
		for _, kind := range append(manifest.ComponentKinds(), manifest.KindPack) {
			b.switchOn(kind, ref)
		}
		if row := b.catalog().Packs[ref]; row != nil && row.PinnedBy != "" {
			_, err := b.Unpin(t.Context(), ref, "tester")
			b.do(err)
		}
	}
	for _, ref := range refs { // files that are those of an older revision are applied by order only
		_, err := b.ReloadForced(t.Context(), "tester", ref)
		b.do(err)
	}
	have := stateOfCatalog(b.catalog())

	other := setup(t)
	other.testTree = b.testTree
	other.options = func(o *Options) { o.PackConfig = b.config }
	other.start()
	if diff := cmp.Diff(stateOfCatalog(other.catalog()), have); diff != "" {
		t.Errorf("(-from nothing +step by step):\n%s\n%s", diff, b.log)
	}
}

// switchOn takes back operators' switches.
func (b *editor) switchOn(kind manifest.Kind, pack string) {
	b.t.Helper()
	refs := []string{pack}
	if kind != manifest.KindPack {
		refs = nil
		for _, r := range b.catalog().Records(kind) {
			if r.Pack == pack {
				refs = append(refs, r.Ref)
			}
		}
	}
	_, _, err := b.store.Switch(b.t.Context(), store.Switch{Kind: kind, Refs: refs, Enable: true, By: "tester"})
	b.do(err)
}

// unchangedBy starts another process and looks that it has nothing to do.
func (b *editor) unchangedBy(who string, before func()) {
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
			if s.Op != StepKeep && one.Held == "" {
				b.t.Errorf("%s still has to do: %s", who, s.line())
			}
		}
	}
}
