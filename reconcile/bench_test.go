package reconcile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// benchPacks is how many packs of ten files the benchmarks have.
const benchPacks = 200

func benchTree(b *testing.B) *testTree {
	b.Helper()
	f := newTree(b)
	for i := range benchPacks {
		ref := fmt.Sprintf("pack%04d", i)
		f.pack(ref)
		f.write(ref+"/README.md", "# "+ref+"\n")
		f.write(ref+"/lib/common.sh", "x\n")
		f.write(ref+"/actions/more.sh", "echo\n")
	}
	return f
}

// walkAndLstat is the least that a scan of everything can cost.
func walkAndLstat(b *testing.B, dir string) int {
	entries := 0
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		_, err = os.Lstat(path)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return entries
}

// BenchmarkScanUnchanged scans packs of which nothing changed, beside a walk over them with lstat.
func BenchmarkScanUnchanged(b *testing.B) {
	f := benchTree(b)
	s := newScanner(uncovered{}, 0)
	now := later()
	l := list([]string{f.dir}, []string{"*"}, uncovered{}, nil, false)
	for _, ref := range sortedKeys(l.places) {
		s.scan(l.places[ref], now, false)
	}
	var scanning, walking time.Duration
	for b.Loop() {
		began := time.Now()
		l := list([]string{f.dir}, []string{"*"}, uncovered{}, nil, false)
		for _, ref := range sortedKeys(l.places) {
			if v := s.scan(l.places[ref], now, false); v.outcome != same {
				b.Fatalf("%s: outcome %v", ref, v.outcome)
			}
		}
		scanning += time.Since(began)
		began = time.Now()
		walkAndLstat(b, f.dir)
		walking += time.Since(began)
	}
	b.ReportMetric(float64(scanning.Microseconds())/float64(b.N)/benchPacks, "µs/pack")
	b.ReportMetric(float64(scanning)/float64(walking), "x-walk+lstat")
}

// BenchmarkScanFirst scans, reads and parses packs that were never seen.
func BenchmarkScanFirst(b *testing.B) {
	f := benchTree(b)
	now := later()
	for b.Loop() {
		s := newScanner(uncovered{}, 0)
		l := list([]string{f.dir}, []string{"*"}, uncovered{}, nil, false)
		for _, ref := range sortedKeys(l.places) {
			v := s.scan(l.places[ref], now, false)
			if _, err := stateOf(v.folder, v.content, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/benchPacks, "µs/pack")
}

// BenchmarkParsePack parses one pack whose files are known.
func BenchmarkParsePack(b *testing.B) {
	f := newTree(b)
	f.pack("one")
	v := look(b, newScanner(uncovered{}, 0), f, "one")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := stateOf(v.folder, v.content, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPlan compares one edited pack with a catalog of many.
func BenchmarkPlan(b *testing.B) {
	for _, packs := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("packs=%d", packs), func(b *testing.B) {
			c := emptyCatalog()
			one := onePack()
			first := one.state(b, c)
			c = recorded(c, Diff(&Snapshot{Packs: map[string]*PackState{"p": first}}, c))
			edited := one.with("sensors/s.sh", "sleep 9\n").state(b, c)
			for i := range packs {
				ref := fmt.Sprintf("other%05d", i)
				c.Packs[ref] = &store.PackRow{Ref: ref, Present: true}
				for _, kind := range manifest.ComponentKinds() {
					c.Records(kind)[ref+".x"] = &store.Record{Kind: kind, Ref: ref + ".x", Pack: ref, Present: true}
				}
			}
			wanted := &Snapshot{Packs: map[string]*PackState{"p": edited}, Scope: map[string]bool{"p": true}}
			b.ReportAllocs()
			for b.Loop() {
				if plan := Diff(wanted, c); len(plan.Packs) != 1 {
					b.Fatal("no difference")
				}
			}
		})
	}
}

// BenchmarkEdit measures from an edit, renamed into place, to the announcement that it is in force, less
// the quiet time.
func BenchmarkEdit(b *testing.B) {
	for _, packs := range []int{10, 1000} {
		b.Run(fmt.Sprintf("packs=%d", packs), func(b *testing.B) {
			bench := setup(b)
			for i := range packs {
				bench.pack(fmt.Sprintf("pack%05d", i))
			}
			announced := make(chan struct{}, 100)
			bench.options = func(o *Options) { o.Applied = func(int64, []string) { announced <- struct{}{} } }
			bench.launch()
			<-bench.Ready()
			for len(announced) > 0 {
				<-announced
			}
			var total time.Duration
			n := 0
			for b.Loop() {
				n++
				began := time.Now()
				bench.replace("pack00001/actions/act.sh", fmt.Sprintf("echo %d\n", n))
				<-announced
				total += time.Since(began) - renameQuiet
			}
			b.ReportMetric(float64(total.Microseconds())/1000/float64(n), "ms-after-quiet")
		})
	}
}
