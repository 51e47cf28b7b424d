package reconcile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/store"
)

// counted are interpreters that count how often they are asked: once for each script of a pack that is
// checked.
type counted struct{ n atomic.Int64 }

func (c *counted) Check(string, string, string) error { c.n.Add(1); return nil }

func (c *counted) take() int64 { return c.n.Swap(0) }

// remembering is a bench whose reconcilers hand their memory on.
func remembering(t *testing.T) (*bench, *counted) {
	t.Helper()
	b := setup(t)
	asked := &counted{}
	memory := filepath.Join(t.TempDir(), "memory")
	environment := "one"
	b.options = func(o *Options) { o.Interpreters, o.Memory, o.Environment = asked, memory, environment }
	return b, asked
}

func TestStartReadsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	b, asked := remembering(t)
	for _, ref := range []string{"one", "two", "three"} {
		b.pack(ref)
	}
	b.write("three/rules/rule.yaml", "name: rule\ntrigger: {ref: one.tick}\naction: {ref: three.act}\n")
	b.start()
	if asked.take() == 0 {
		t.Fatal("nothing was checked at the first start")
	}
	generation := b.catalog().Generation
	b.stop()

	b.start()
	if n := asked.take(); n != 0 {
		t.Errorf("%d scripts were checked at an unchanged start", n)
	}
	if have := b.catalog().Generation; have != generation {
		t.Errorf("generation %d, want %d", have, generation)
	}
	b.stop()

	b.write("two/actions/act.sh", "#!/bin/bash\necho edited while nobody looked\n")
	b.start()
	if n := asked.take(); n != 2 {
		t.Errorf("%d scripts were checked, want the two of the edited pack", n)
	}
	if b.catalog().Packs["two"].Revision != 2 {
		t.Error("the edit was not seen")
	}
	b.stop()

	// What others name is checked with those who name it.
	b.write("one/triggers/tick.yaml", "name: tick\npayload_schema:\n  m: {type: integer}\n")
	b.start()
	if n := asked.take(); n < 4 {
		t.Errorf("%d scripts were checked, want those of the edited pack and of the one that names it", n)
	}
	b.stop()

	b.remove("one")
	b.start()
	report := b.reload()
	if !strings.Contains(strings.Join(texts(report.Errors), "\n"), "one.tick") {
		t.Errorf("nobody misses the removed pack: %q", texts(report.Errors))
	}
}

func TestMemoryCountsOnlyWhereItFits(t *testing.T) {
	t.Parallel()
	tests := map[string]func(b *bench, o *Options){
		"another program":       func(_ *bench, o *Options) { o.Environment = "two" },
		"another version":       func(_ *bench, o *Options) { o.Version = "2.0.0" },
		"another configuration": func(_ *bench, o *Options) { o.PackConfig = map[string]map[string]any{"one": {"x": 1}} },
		"a broken file":         func(b *bench, o *Options) { b.do(os.Truncate(o.Memory, 100)) },
		"no file":               func(b *bench, o *Options) { b.do(os.Remove(o.Memory)) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, asked := remembering(t)
			b.pack("one")
			b.start()
			b.stop()
			asked.take()
			as := b.options
			b.options = func(o *Options) { as(o); change(b, o) }
			b.start()
			if asked.take() == 0 {
				t.Error("the pack was not checked again")
			}
		})
	}
}

// missing are interpreters that can go.
type missing struct {
	counted
	gone atomic.Bool
}

func (m *missing) Check(runtime, _, _ string) error {
	m.n.Add(1)
	if m.gone.Load() {
		return fmt.Errorf("there is no %s", runtime)
	}
	return nil
}

// TestEnvironmentChanged: what was accepted is checked again too, and the next start knows by which
// interpreters.
func TestEnvironmentChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	found := &missing{}
	memory := filepath.Join(t.TempDir(), "memory")
	environment := "with it"
	b.options = func(o *Options) {
		o.Interpreters, o.Memory, o.Environment, o.Quiet, o.MaxWait = found, memory, environment, time.Hour, time.Hour
	}
	b.pack("one")
	b.pack("two")
	b.start()
	b.write("two/actions/act.sh", "#!/bin/bash\necho half of it\n")
	script := b.catalog().Actions["two.act"].FilesDigest

	environment = "without it"
	found.gone.Store(true)
	b.EnvironmentChanged(environment, "interpreters")
	b.await("the accepted action is refused", func(c *store.Catalog) bool { return c.Packs["one"].Errors.HasErrors() })
	if b.catalog().Actions["two.act"].FilesDigest != script {
		t.Error("what was being written was applied")
	}
	environment = "with it again"
	found.gone.Store(false)
	b.EnvironmentChanged(environment, "interpreters")
	b.await("the refused action is accepted", func(c *store.Catalog) bool { return !c.Packs["one"].Errors.HasErrors() })
	b.reload()
	b.stop()

	found.take()
	b.start()
	if n := found.take(); n != 0 {
		t.Errorf("%d scripts were checked at a start with the interpreters of the last one", n)
	}
}

func TestMemoryIsNotOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	b, asked := remembering(t)
	b.pack("one")
	b.start()
	b.stop()
	asked.take()
	other := setup(t)
	other.testTree, other.options = b.testTree, b.options
	other.start()
	if other.catalog().Packs["one"] == nil || asked.take() == 0 {
		t.Error("an empty database was taken for the one that had the pack")
	}
}

// A pack with an error is never remembered as being in force: why it was refused may have ended.
func TestRefusedPackIsCheckedAtEachStart(t *testing.T) {
	t.Parallel()
	b, asked := remembering(t)
	b.pack("one")
	b.write("one/rules/rule.yaml", "name: rule\ntrigger: {ref: one.tick}\naction: {ref: nobody.act}\n")
	b.start()
	b.stop()
	asked.take()
	b.start()
	if asked.take() == 0 {
		t.Error("the refused pack was not checked")
	}
}

func TestMemoryIsWhatItWas(t *testing.T) {
	t.Parallel()
	text := rapid.String()
	digest := rapid.StringMatching(`[0-9a-f]{64}`)
	marks := rapid.Custom(func(t *rapid.T) mark {
		return mark{
			dev: rapid.Uint64().Draw(t, "dev"), ino: rapid.Uint64().Draw(t, "ino"), size: rapid.Int64().Draw(t, "size"),
			mtime: rapid.Int64().Draw(t, "mtime"), ctime: rapid.Int64().Draw(t, "ctime"), mode: rapid.Uint32().Draw(t, "mode"),
		}
	})
	fileOf := rapid.Custom(func(t *rapid.T) file {
		f := file{path: text.Draw(t, "path"), racy: rapid.Bool().Draw(t, "racy")}
		if rapid.Bool().Draw(t, "is a link") {
			f.link, f.to = text.Draw(t, "link"), text.Draw(t, "to")
		} else {
			f.digest, f.from = digest.Draw(t, "digest"), text.Draw(t, "from")
		}
		f.mark = marks.Draw(t, "mark")
		return f
	})
	rapid.Check(t, func(t *rapid.T) {
		m := memory{environment: text.Draw(t, "environment"), packs: map[string]*remembered{}}
		for _, key := range rapid.SliceOfDistinct(text, rapid.ID[string]).Draw(t, "keys") {
			real := text.Draw(t, "real")
			dirOf := rapid.Custom(func(t *rapid.T) dir { return dir{real + text.Draw(t, "folder"), marks.Draw(t, "mark")} })
			m.packs[key] = &remembered{
				folder: &folder{
					place: place{key: key, ref: text.Draw(t, "ref"), directory: text.Draw(t, "directory"), root: text.Draw(t, "root")},
					real:  real, digest: digest.Draw(t, "tree"), sum: digest.Draw(t, "sum"),
					files: rapid.SliceOf(fileOf).Draw(t, "files"), dirs: rapid.SliceOfN(dirOf, 0, 3).Draw(t, "folders"), problems: map[string]string{},
				},
				needs: rapid.SliceOf(text).Draw(t, "needs"), offer: text.Draw(t, "offer"), row: text.Draw(t, "row"),
			}
		}
		data := encoded(t, &m)
		back, err := decodeMemory(data)
		if err != nil {
			t.Fatal(err)
		}
		all := cmp.AllowUnexported(memory{}, remembered{}, folder{}, file{}, dir{}, place{}, mark{})
		if diff := cmp.Diff(m, back, all, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-written +read):\n%s", diff)
		}
		at := rapid.IntRange(0, len(data)-1).Draw(t, "broken byte")
		data[at] ^= 0x20
		if _, err := decodeMemory(data); err == nil {
			t.Fatalf("a memory with byte %d of %d changed was read", at, len(data))
		}
		if _, err := decodeMemory(data[:at]); err == nil {
			t.Fatal("half a memory was read")
		}
	})
}

// A file that is too young to be known by its mark is read again by the next process, too.
func TestYoungFilesAreReadAgainByTheNextProcess(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("one")
	first := newScanner(uncovered{}, 0)
	p := placeOf(f.dir, f.dir, "one")
	v := first.scan(p, time.Now(), false)
	if !v.read {
		t.Fatal("a first scan read nothing")
	}
	m := memory{packs: map[string]*remembered{p.key: {folder: v.folder}}}
	back, err := decodeMemory(encoded(t, &m))
	f.do(err)
	second := newScanner(uncovered{}, 0)
	second.folders[p.key] = back.packs[p.key].folder
	if v := second.scan(p, later(), false); v.outcome != same || !v.read {
		t.Errorf("outcome %v, read %v, want same after reading", v.outcome, v.read)
	}
	if v := second.scan(p, later(), false); v.outcome != same || v.read {
		t.Errorf("outcome %v, read %v, want same without reading", v.outcome, v.read)
	}
}

// encoded is what a memory's file holds.
func encoded(t rapid.TB, m *memory) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// brittle fails once.
type brittle struct{ failed bool }

func (b *brittle) Write(p []byte) (int, error) {
	if !b.failed {
		b.failed = true
		return 0, unix.ENOSPC
	}
	return len(p), nil
}

// What was not written whole is not put in the place of what was there.
func TestMemoryThatIsNotWritten(t *testing.T) {
	t.Parallel()
	m := memory{packs: map[string]*remembered{"p": {folder: &folder{}}}}
	if err := m.write(&brittle{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want %v", err, unix.ENOSPC)
	}
}
