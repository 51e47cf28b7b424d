package filechange

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/attune-io/attune/reconcile"
)

const (
	// resync is how often everything is looked at whatever was noticed; resyncPolled where that is all
	// that tells of changes.
	resync       = 30 * time.Second
	resyncPolled = 5 * time.Second

	// saveDelay is how long acknowledgements wait to be kept: one that is lost leads to a repetition, which
	// does no harm.
	saveDelay = time.Second
)

// watching is what the engine needs of reconcile.Folders.
type watching interface {
	Changed() <-chan struct{}
	Begin(key string)
	End(key string)
	Cover(key, dir string)
	CoverName(key, path string)
	Due(now time.Time) (keys []string, all bool, next time.Time)
	Polled() string
	Close()
}

var _ watching = (*reconcile.Folders)(nil)

// Engine tells of changes of files. All of it but Set and Ack belongs to the goroutine of Run.
type Engine struct {
	out, errs io.Writer
	file      string // of the memory
	folders   watching
	memory    *memory
	targets   map[string]*target
	polled    string
	unsaved   time.Time // since when something is not kept; zero: all is
	fatal     error     // nobody reads what is printed

	sets chan []Instance
	acks chan string
}

// target is one instance.
type target struct {
	in      Instance
	pattern *pattern
	known   *remembered
	// waiting are changes that have not settled.
	waiting map[string]candidate
	at      time.Time // when to look again for their sake; zero: not for it
	problem string    // as it was said
	remote  string
}

// candidate is how a file was last seen, where that is not what is known of it.
type candidate struct {
	here  bool
	mark  mark
	since time.Time
}

// New makes an Engine that keeps what it knows in dir.
func New(dir string, out, errs io.Writer, folders watching) *Engine {
	e := &Engine{
		out: out, errs: errs, file: filepath.Join(dir, "filechange.json"), folders: folders, targets: map[string]*target{},
		sets: make(chan []Instance), acks: make(chan string),
	}
	var err error
	e.memory, err = load(e.file)
	e.report(err)
	if e.memory.Run == "" {
		e.memory.Run = rand.Text()
	}
	return e
}

// Run tells until ctx ends. first are the instances that there are.
func (e *Engine) Run(ctx context.Context, first []Instance) error {
	defer e.folders.Close()
	e.set(first)
	for e.fatal == nil {
		timer := time.NewTimer(time.Until(e.round(time.Now())))
		select {
		case <-ctx.Done():
			timer.Stop()
			e.save()
			return nil
		case instances := <-e.sets:
			e.set(instances)
		case id := <-e.acks:
			e.acknowledged(id)
		case <-e.folders.Changed():
		case <-timer.C:
		}
		timer.Stop()
	}
	return e.fatal
}

// Set replaces the instances, while Run runs.
func (e *Engine) Set(ctx context.Context, instances []Instance) {
	select {
	case e.sets <- instances:
	case <-ctx.Done():
	}
}

// Ack says that the daemon has stored an event.
func (e *Engine) Ack(ctx context.Context, id string) {
	select {
	case e.acks <- id:
	case <-ctx.Done():
	}
}

// set takes over new instances and forgets those that are gone.
func (e *Engine) set(instances []Instance) {
	now := time.Now()
	wanted := map[string]bool{}
	for _, in := range instances {
		wanted[in.ID] = true
		if e.targets[in.ID] != nil {
			continue
		}
		p, err := parsePattern(in.Parameters)
		if err != nil {
			e.report(fmt.Errorf("cannot watch for instance %s: %w", in.ID, err))
			continue
		}
		t := &target{in: in, pattern: p, known: e.memory.Instances[in.ID], waiting: map[string]candidate{}}
		e.targets[in.ID] = t
		if t.known == nil {
			// What is there now is no change.
			t.known = &remembered{Glob: p.glob, Files: e.look(t).files, Told: map[string]event{}}
			e.memory.Instances[in.ID] = t.known
			e.changed(now)
			continue
		}
		e.repeat(t)
		e.compare(t, now)
	}
	for id := range e.memory.Instances {
		if wanted[id] {
			continue
		}
		if e.targets[id] != nil {
			e.folders.Begin(id)
			e.folders.End(id)
			delete(e.targets, id)
		}
		delete(e.memory.Instances, id)
		e.changed(now)
	}
}

// repeat prints again what nobody has acknowledged.
func (e *Engine) repeat(t *target) {
	ids := slices.SortedFunc(maps.Keys(t.known.Told), func(a, b string) int {
		return int(t.known.Told[a].Number - t.known.Told[b].Number)
	})
	for _, id := range ids {
		e.print(t, id, t.known.Told[id])
	}
}

// round looks where it is time to, and says when it is next.
func (e *Engine) round(now time.Time) time.Time {
	keys, all, next := e.folders.Due(now)
	every := resync
	if reason := e.folders.Polled(); reason != "" {
		every = resyncPolled
		if reason != e.polled {
			e.report(fmt.Errorf("folders are looked at each %s: %s", every, reason))
		}
		e.polled = reason
	} else {
		e.polled = ""
	}
	earliest := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, id := range slices.Sorted(maps.Keys(e.targets)) {
		t := e.targets[id]
		if all || slices.Contains(keys, id) || !t.at.IsZero() && !t.at.After(now) {
			e.compare(t, now)
		}
		if t.remote != "" {
			earliest(now.Add(resyncPolled))
		}
		if t.at.IsZero() {
			t.at = now.Add(every)
		}
		earliest(t.at)
	}
	if !e.unsaved.IsZero() {
		if at := e.unsaved.Add(saveDelay); at.After(now) {
			earliest(at)
		} else {
			e.save()
		}
	}
	if next.IsZero() {
		next = now.Add(every)
	}
	return next
}

// look lists what there is, and has the folders watched from before that on.
func (e *Engine) look(t *target) *found {
	e.folders.Begin(t.in.ID)
	defer e.folders.End(t.in.ID)
	// The folder itself may be replaced, or come to be; where it has no parent yet, that may.
	above := t.pattern.base
	for above != "/" {
		if _, err := os.Stat(filepath.Dir(above)); err == nil {
			e.folders.CoverName(t.in.ID, above)
			break
		}
		above = filepath.Dir(above)
	}
	f := t.pattern.look(func(dir string) { e.folders.Cover(t.in.ID, dir) })
	t.remote = reconcile.Remote(t.pattern.base)
	problem := ""
	if f.problem != nil {
		problem = f.problem.Error()
	}
	if problem != t.problem && problem != "" {
		e.report(f.problem)
	}
	t.problem = problem
	return f
}

// compare looks at one target, and tells what has settled.
func (e *Engine) compare(t *target, now time.Time) {
	f := e.look(t)
	t.at = time.Time{}
	if t.remote != "" {
		t.at = now.Add(resyncPolled)
	}
	waiting := map[string]candidate{}
	consider := func(path string, c candidate) {
		if was, ok := t.waiting[path]; ok && was.here == c.here && was.mark == c.mark {
			c.since = was.since
		}
		waiting[path] = c
	}
	for path, m := range f.files {
		if known, ok := t.known.Files[path]; !ok || known != m {
			consider(path, candidate{here: true, mark: m, since: now})
		}
	}
	for path, m := range t.known.Files {
		if _, ok := f.files[path]; !ok && !f.missing && !within(f.unread, path) {
			consider(path, candidate{mark: m, since: now})
		}
	}
	t.waiting = waiting
	var told []string
	for _, path := range slices.Sorted(maps.Keys(waiting)) {
		c := waiting[path]
		if due := c.since.Add(t.pattern.settle); due.After(now) {
			if t.at.IsZero() || due.Before(t.at) {
				t.at = due
			}
			continue
		}
		delete(waiting, path)
		if id := e.settle(t, path, c, now); id != "" {
			told = append(told, id)
		}
		e.changed(now)
	}
	if len(told) == 0 {
		return
	}
	// Before it is printed, so that it keeps its id whatever happens.
	e.save()
	for _, id := range told {
		e.print(t, id, t.known.Told[id])
	}
}

// settle takes a change for what is known from now on; it gives the id of its event, if there is one.
func (e *Engine) settle(t *target, path string, c candidate, now time.Time) string {
	_, known := t.known.Files[path]
	what := modified
	switch {
	case !c.here:
		what = deleted
		delete(t.known.Files, path)
	case !known:
		what = created
		t.known.Files[path] = c.mark
	default:
		t.known.Files[path] = c.mark
	}
	if !slices.Contains(t.pattern.events, what) {
		return ""
	}
	e.memory.Last++
	id := e.memory.Run + "-" + strconv.FormatInt(e.memory.Last, 10)
	t.known.Told[id] = event{What: what, Path: path, Mark: c.mark, At: now.UTC().Format(time.RFC3339Nano), Number: e.memory.Last}
	return id
}

func (e *Engine) print(t *target, id string, one event) {
	payload := map[string]any{
		"event": one.What, "path": one.Path, "name": filepath.Base(one.Path), "directory": filepath.Dir(one.Path), "glob": t.pattern.glob,
		"size": one.Mark.Size, "modified_at": time.Unix(0, one.Mark.Modified).UTC().Format(time.RFC3339Nano), "seen_at": one.At,
	}
	line, err := json.Marshal(map[string]any{"trigger": t.in.Trigger, "instance": t.in.ID, "event_id": id, "payload": payload})
	if err != nil {
		e.report(fmt.Errorf("cannot encode a change of %q: %v", one.Path, err))
		return
	}
	if _, err := e.out.Write(append(line, '\n')); err != nil {
		e.fatal = fmt.Errorf("cannot print an event: %v", err)
	}
}

func (e *Engine) acknowledged(id string) {
	for _, r := range e.memory.Instances {
		if _, ok := r.Told[id]; ok {
			delete(r.Told, id)
			e.changed(time.Now())
			return
		}
	}
}

// changed notes that the memory is to be kept, soon.
func (e *Engine) changed(now time.Time) {
	if e.unsaved.IsZero() {
		e.unsaved = now
	}
}

func (e *Engine) save() {
	if e.unsaved.IsZero() {
		return
	}
	e.unsaved = time.Time{}
	e.report(e.memory.save(e.file))
}

func (e *Engine) report(err error) {
	if err != nil {
		fmt.Fprintln(e.errs, err)
	}
}
