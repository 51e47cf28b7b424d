package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// fewPacks and manyPacks are what an edit is compared between.
	fewPacks, manyPacks = 10, 10_000
	// renameQuiet is the window that a file renamed into place is waited for.
	renameQuiet = 25 * time.Millisecond
	// calm is left between two edits, so that none meets what the last one, and the asking, set off.
	calm = 300 * time.Millisecond
	// editsARound is over how many edits a round's median is taken.
	editsARound = 20
)

func packBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "edit", Unit: "ms", Goal: 1, AtMost: true,
			What:    "a script renamed into place until its pack is in force, less the quiet window, p50, against 15 ms",
			Prepare: editAgainst(15, (*Daemon).edits),
		},
		{
			Name: "edit-p99", Unit: "ms", Goal: 1, AtMost: true,
			What:    "the same, p99 of all edits until then, against 50 ms",
			Prepare: editAgainst(50, (*Daemon).slowEdits),
		},
		{
			Name: "edit-scale", Unit: "ms", Goal: 1.5, AtMost: true,
			What: "the same among 10,000 packs, against among 10",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				many, err := lab.Daemon(ctx, packsOf(manyPacks), "")
				if err != nil {
					return nil, nil, err
				}
				few, err := lab.Daemon(ctx, packsOf(fewPacks), "")
				if err != nil {
					return nil, nil, err
				}
				return many.edits, few.edits, nil
			},
		},
		{
			Name: "start", Unit: "s", Goal: 3, AtMost: true,
			What:    "a start with 10,000 unchanged packs, less one with 10, against walk and lstat of them",
			Prepare: startBenchmark(func(context.Context, *Lab, *Daemon) error { return nil }, (*Daemon).walk),
		},
		{
			Name: "start-first", Unit: "s", Goal: 3, AtMost: true,
			What:    "a start with 10,000 packs on an empty database, less one with 10, against walk, hash and parse of them on one core",
			Prepare: startBenchmark(forget, (*Daemon).parse),
		},
		{
			Name: "rescan", Unit: "s", Goal: 0.03, AtMost: true,
			What:    "processor time of a scan of 10,000 unchanged packs, against the 30 seconds between two",
			Prepare: amongMany((*Daemon).rescan, named(30)),
		},
		{
			Name: "rss", Unit: "MiB", Goal: 1, AtMost: true,
			What:    "resident memory with 10,000 packs, against 250 MiB",
			Prepare: amongMany((*Daemon).resident, named(250)),
		},
		{
			Name: "rss-first", Unit: "MiB", Goal: 1, AtMost: true,
			What:    "the most resident memory of a start with 10,000 packs on an empty database, against 500 MiB",
			Prepare: firstLoads,
		},
		{
			Name: "scan", Unit: "s", Goal: 3, AtMost: true,
			What:    "a whole scan of 10,000 unchanged packs by a command, against walk and lstat of them",
			Prepare: amongMany((*Daemon).scan, (*Daemon).walk),
		},
	}
}

// startBenchmark measures starts of a daemon of many packs, less those of one of few: what is left is what
// the packs cost. before is done while the daemons are down.
func startBenchmark(before func(context.Context, *Lab, *Daemon) error, least func(*Daemon, context.Context) (float64, error)) func(context.Context, *Lab) (ours, baseline Side, err error) {
	return func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
		many, err := lab.Daemon(ctx, packsOf(manyPacks), "")
		if err != nil {
			return nil, nil, err
		}
		few, err := lab.Daemon(ctx, packsOf(fewPacks), "")
		if err != nil {
			return nil, nil, err
		}
		restart := func(ctx context.Context, d *Daemon) (float64, error) {
			d.end()
			if err := before(ctx, lab, d); err != nil {
				return 0, err
			}
			began := time.Now()
			err := d.begin(ctx)
			return time.Since(began).Seconds(), err
		}
		ours = func(ctx context.Context) (float64, error) {
			whole, err := restart(ctx, many)
			if err != nil {
				return 0, err
			}
			fixed, err := restart(ctx, few)
			return whole - fixed, err
		}
		return ours, func(ctx context.Context) (float64, error) { return least(many, ctx) }, nil
	}
}

// firstLoads measures the memory that starts on an empty database took at most.
func firstLoads(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
	many, err := lab.Daemon(ctx, packsOf(manyPacks), "")
	if err != nil {
		return nil, nil, err
	}
	ours = func(ctx context.Context) (float64, error) {
		many.end()
		if err := forget(ctx, lab, many); err != nil {
			return 0, err
		}
		if err := many.begin(ctx); err != nil {
			return 0, err
		}
		return many.peak()
	}
	return ours, constant(500), nil
}

// forget takes all that a daemon knows: its database and its state.
func forget(ctx context.Context, lab *Lab, d *Daemon) error {
	url, err := lab.Database(ctx)
	if err != nil {
		return err
	}
	d.env = slices.DeleteFunc(d.env, func(v string) bool { return strings.HasPrefix(v, "ATTUNE_DATABASE_URL=") })
	d.env, d.URL = append(d.env, "ATTUNE_DATABASE_URL="+url), url
	return os.RemoveAll(filepath.Join(d.Dir, "state"))
}

// amongMany measures a daemon of many packs that scans only when it is asked to.
func amongMany(ours, baseline func(*Daemon, context.Context) (float64, error)) func(context.Context, *Lab) (Side, Side, error) {
	return func(ctx context.Context, lab *Lab) (Side, Side, error) {
		many, err := lab.Daemon(ctx, packsOf(manyPacks), "[reconcile]\nresync = \"1h\"\n")
		if err != nil {
			return nil, nil, err
		}
		side := func(of func(*Daemon, context.Context) (float64, error)) Side {
			return func(ctx context.Context) (float64, error) { return of(many, ctx) }
		}
		return side(ours), side(baseline), nil
	}
}

// named is a baseline that a goal names, of whatever daemon.
func named(figure float64) func(*Daemon, context.Context) (float64, error) {
	return func(*Daemon, context.Context) (float64, error) { return figure, nil }
}

// constant is a baseline that a goal names.
func constant(figure float64) Side {
	return func(context.Context) (float64, error) { return figure, nil }
}

func editAgainst(milliseconds float64, edits func(*Daemon, context.Context) (float64, error)) func(context.Context, *Lab) (ours, baseline Side, err error) {
	return func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
		few, err := lab.Daemon(ctx, packsOf(fewPacks), "")
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context) (float64, error) { return edits(few, ctx) }, constant(milliseconds), nil
	}
}

// packsOf are packs of ten files, five of them manifests.
func packsOf(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		ref := fmt.Sprintf("p%05d", i)
		files[ref+"/pack.yaml"] = "ref: " + ref + "\nlabel: Pack\nversion: 1.0.0\n"
		files[ref+"/README.md"] = "# " + ref + "\n"
		files[ref+"/lib/common.sh"] = "common() { echo common; }\n"
		files[ref+"/lib/more.sh"] = "more() { echo more; }\n"
		for _, name := range []string{"first", "second"} {
			files[ref+"/actions/"+name+".yaml"] = "name: " + name + "\nentry_point: " + name + ".sh\nparameters:\n" +
				"  message: {type: string, required: true}\n  times: {type: integer, default: 1, minimum: 1}\n"
			files[ref+"/actions/"+name+".sh"] = "echo \"$ATTUNE_ACTION_MESSAGE\"\n" + strings.Repeat("# as scripts have comments\n", 10)
		}
		files[ref+"/triggers/called.yaml"] = "name: called\npayload_schema:\n  who: {type: string}\n  n: {type: integer}\n"
		files[ref+"/rules/reply.yaml"] = "name: reply\ntrigger: " + ref + ".called\nwhen: event.payload.n > 3\n" +
			"action: {ref: " + ref + ".first, parameters: {message: \"{{ event.payload.who }}\"}}\n"
	}
	return files
}

// edits gives the median of some edits of one script.
func (d *Daemon) edits(ctx context.Context) (float64, error) {
	took, err := d.edit(ctx)
	return median(took), err
}

// slowEdits gives the p99 of all edits of this daemon: those of one round are too few to have one.
func (d *Daemon) slowEdits(ctx context.Context) (float64, error) {
	took, err := d.edit(ctx)
	d.edited = append(d.edited, took...)
	return percentile(d.edited, 0.99), err
}

// edit gives what some edits took.
func (d *Daemon) edit(ctx context.Context) ([]float64, error) {
	const ref = "p00005"
	script := filepath.Join(d.Dir, "packs", ref, "actions", "first.sh")
	var took []float64
	for range editsARound {
		// To be asked how it is costs a daemon of ten thousand packs more than an edit.
		select {
		case <-time.After(calm):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		before, err := d.Client.Pack(ctx, ref)
		if err != nil {
			return nil, err
		}
		text := fmt.Sprintf("echo %d\n", time.Now().UnixNano())
		if err := os.WriteFile(script+".tmp", []byte(text), 0o644); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := os.Rename(script+".tmp", script); err != nil {
			return nil, err
		}
		// When it was in force is the daemon's to say: who looks every few milliseconds is no more exact
		// than what is measured.
		select {
		case <-time.After(calm):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		err = Until(ctx, "the edit is in force", func(ctx context.Context) (bool, error) {
			now, err := d.Client.Pack(ctx, ref)
			return err == nil && now.Revision > before.Revision, err
		})
		if err != nil {
			return nil, err
		}
		status, err := d.Client.Status(ctx)
		if err != nil {
			return nil, err
		}
		if status.Reconcile.LastApply == nil {
			return nil, fmt.Errorf("the daemon does not say when it applied the edit of %s", ref)
		}
		took = append(took, milliseconds(status.Reconcile.LastApply.Sub(began)-renameQuiet))
	}
	return took, nil
}

// scan is the time of a reload, which looks at everything.
func (d *Daemon) scan(ctx context.Context) (float64, error) {
	began := time.Now()
	_, err := d.Client.Reload(ctx, "")
	return time.Since(began).Seconds(), err
}

// rescan is the processor time of a reload.
func (d *Daemon) rescan(ctx context.Context) (float64, error) {
	before, err := d.cpu()
	if err != nil {
		return 0, err
	}
	if _, err := d.Client.Reload(ctx, ""); err != nil {
		return 0, err
	}
	after, err := d.cpu()
	return (after - before).Seconds(), err
}

// walk is the least that a look at everything can cost.
func (d *Daemon) walk(context.Context) (float64, error) {
	began := time.Now()
	err := filepath.WalkDir(filepath.Join(d.Dir, "packs"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			_, err = os.Lstat(path)
		}
		return err
	})
	return time.Since(began).Seconds(), err
}

// parse is the least that a first look at everything can cost: each file is read and hashed, each manifest
// parsed, one after the other.
func (d *Daemon) parse(ctx context.Context) (float64, error) {
	began := time.Now()
	packs := filepath.Join(d.Dir, "packs")
	refs, err := os.ReadDir(packs)
	if err != nil {
		return 0, err
	}
	for _, ref := range refs {
		files := map[string]manifest.File{}
		root := filepath.Join(packs, ref.Name())
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			if _, err := os.Lstat(path); err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			_ = sha256.Sum256(content) // a part of what is measured
			name, err := filepath.Rel(root, path)
			if manifest.IsManifest(filepath.ToSlash(name)) {
				files[filepath.ToSlash(name)] = manifest.File{Content: content}
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		if b := manifest.Parse(ref.Name(), files); b.Pack == nil {
			return 0, fmt.Errorf("pack %s does not parse: %v", ref.Name(), b.Errors)
		}
	}
	return time.Since(began).Seconds(), ctx.Err()
}

// cpu is the processor time that the daemon has used.
func (d *Daemon) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.PID))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const hertz = 100 // USER_HZ
	return time.Duration(ticks) * time.Second / hertz, nil
}

// settle is how long a daemon is left alone before its memory is looked at: who waits for it to be ready asks
// it all the time, and what that took goes back to the system little by little.
const settle = 10 * time.Second

// peak is the most memory that the daemon has had, in MiB.
func (d *Daemon) peak() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	value, _, ok := strings.Cut(rest, " kB")
	if !ok {
		return 0, fmt.Errorf("cannot read the peak memory of process %d", d.PID)
	}
	kib, err := strconv.Atoi(strings.TrimSpace(value))
	return float64(kib) / 1024, err
}

// resident is the daemon's memory.
func (d *Daemon) resident(ctx context.Context) (float64, error) {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.PID))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	return float64(pages*os.Getpagesize()) / (1 << 20), err
}
