package filechange

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile"
)

// blind watches nothing: a test says when something is to be looked at.
type blind struct {
	changed chan struct{}
	mu      sync.Mutex
	all     bool
}

func (b *blind) Changed() <-chan struct{} { return b.changed }
func (*blind) Begin(string)               {}
func (*blind) End(string)                 {}
func (*blind) Cover(string, string)       {}
func (*blind) CoverName(string, string)   {}
func (*blind) Polled() string             { return "" }
func (*blind) Close()                     {}

func (b *blind) Due(time.Time) ([]string, bool, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.all
	b.all = false
	return nil, all, time.Time{}
}

// look has the engine look at everything, and waits until it rests.
func (b *blind) look() {
	b.mu.Lock()
	b.all = true
	b.mu.Unlock()
	b.changed <- struct{}{}
	synctest.Wait()
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// take gives what was printed since, as "event path (ids kept)", and empties it.
func (b *buffer) take(t *testing.T, dir string) (told, ids []string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.b.String()) {
		var e struct {
			Trigger, Instance string
			EventID           string `json:"event_id"`
			Payload           struct {
				Event, Path, Name string
				Size              int64
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		told = append(told, fmt.Sprintf("%s %s %d", e.Payload.Event, strings.TrimPrefix(e.Payload.Path, dir+"/"), e.Payload.Size))
		ids = append(ids, e.EventID)
	}
	b.b.Reset()
	return told, ids
}

// desk is an engine in a bubble.
type desk struct {
	*Engine
	t       *testing.T
	dir     string // of the files
	data    string
	out     *buffer
	errs    *buffer
	folders *blind
	stop    func()
}

func newDesk(t *testing.T) *desk {
	return &desk{t: t, dir: t.TempDir(), data: t.TempDir(), out: &buffer{}, errs: &buffer{}}
}

func (d *desk) instance(parameters map[string]any) Instance {
	text, err := json.Marshal(parameters)
	if err != nil {
		d.t.Fatal(err)
	}
	return Instance{Trigger: "core.filechange", ID: "core.filechange/" + string(text), Parameters: text}
}

func (d *desk) start(instances ...Instance) {
	d.folders = &blind{changed: make(chan struct{})}
	d.Engine = New(d.data, d.out, d.errs, d.folders)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := d.Run(ctx, instances); err != nil {
			d.t.Error(err)
		}
	}()
	d.stop = func() {
		cancel()
		<-ended
	}
	synctest.Wait()
}

func (d *desk) write(name, content string) {
	d.t.Helper()
	write(d.t, filepath.Join(d.dir, name), content)
}

func (d *desk) wants(want ...string) (ids []string) {
	d.t.Helper()
	synctest.Wait()
	told, ids := d.out.take(d.t, d.dir)
	if diff := cmp.Diff(want, told); diff != "" {
		d.t.Errorf("told (-want +got):\n%s", diff)
	}
	return ids
}

func TestChangesAreToldWhenTheySettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.write("there.csv", "was there")
		d.start(d.instance(map[string]any{"glob": d.dir + "/**/*.csv", "settle": "2s"}))
		defer func() { d.stop() }()
		d.wants()
		d.write("in/new.csv", "a")
		d.folders.look()
		time.Sleep(1500 * time.Millisecond) //nolint:forbidigo // of a bubble
		d.write("in/new.csv", "ab")         // it is still being written
		d.folders.look()
		time.Sleep(1500 * time.Millisecond) //nolint:forbidigo // of a bubble
		d.wants()
		time.Sleep(time.Second) //nolint:forbidigo // of a bubble
		d.wants("created in/new.csv 2")
		d.write("there.csv", "changed")
		d.write("brief.csv", "x")
		d.folders.look()
		if err := os.Remove(filepath.Join(d.dir, "brief.csv")); err != nil {
			t.Fatal(err)
		}
		d.folders.look()
		time.Sleep(2 * time.Second) //nolint:forbidigo // of a bubble
		d.wants("modified there.csv 7")
		// A file that is replaced by way of its absence was never gone.
		if err := os.Rename(filepath.Join(d.dir, "there.csv"), filepath.Join(d.dir, "aside")); err != nil {
			t.Fatal(err)
		}
		d.folders.look()
		time.Sleep(time.Second) //nolint:forbidigo // of a bubble
		if err := os.Rename(filepath.Join(d.dir, "aside"), filepath.Join(d.dir, "there.csv")); err != nil {
			t.Fatal(err)
		}
		d.folders.look()
		time.Sleep(time.Minute) //nolint:forbidigo // of a bubble
		d.wants()
		// Nobody says a word: it looks by itself.
		if err := os.Remove(filepath.Join(d.dir, "there.csv")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(resync + 3*time.Second) //nolint:forbidigo // of a bubble
		d.wants("deleted there.csv 7")
	})
}

// What changed while it did not run is told, and what was not acknowledged again, with the same id.
func TestARestartLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		in := d.instance(map[string]any{"glob": d.dir + "/*", "settle": 0, "events": []string{"created", "deleted"}})
		d.start(in)
		for _, name := range []string{"a", "b", "c"} {
			d.write(name, name)
		}
		d.folders.look()
		ids := d.wants("created a 1", "created b 1", "created c 1")
		d.Ack(t.Context(), ids[1])
		d.stop()
		d.write("a", "changed")
		d.write("d", "new")
		d.start(in)
		again := d.wants("created a 1", "created c 1", "created d 3")
		if again[0] != ids[0] || again[1] != ids[2] || again[2] == ids[1] {
			t.Errorf("ids %q, first %q", again, ids)
		}
		for _, id := range again {
			d.Ack(t.Context(), id)
		}
		d.Ack(t.Context(), "nobody's")
		time.Sleep(2 * saveDelay) //nolint:forbidigo // of a bubble
		d.stop()
		d.start(in)
		d.wants()
		// An instance that went and came back begins anew.
		d.Set(t.Context(), nil)
		d.write("e", "e")
		d.Set(t.Context(), []Instance{in})
		d.wants()
		d.stop()
		// What was known is damaged: it says so, and begins anew.
		if err := os.WriteFile(filepath.Join(d.data, "filechange.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.start(in)
		d.wants()
		d.stop()
		if text := d.errs.b.String(); !strings.Contains(text, "is damaged") {
			t.Errorf("it says %q", text)
		}
	})
}

// What cannot be read is not gone.
func TestWhatCannotBeReadIsNotGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.write("in/a", "a")
		base := filepath.Join(d.dir, "in")
		d.start(d.instance(map[string]any{"glob": base + "/**", "settle": 0}), Instance{ID: "bad", Parameters: json.RawMessage(`{"glob": "x"}`)})
		defer func() { d.stop() }()
		if err := os.Rename(base, filepath.Join(d.dir, "aside")); err != nil {
			t.Fatal(err)
		}
		d.folders.look()
		d.folders.look()
		d.wants()
		if err := os.Rename(filepath.Join(d.dir, "aside"), base); err != nil {
			t.Fatal(err)
		}
		d.write("in/b", "b")
		d.folders.look()
		d.wants("created in/b 1")
		text := d.errs.b.String()
		if n := strings.Count(text, "there is no folder"); n != 1 || !strings.Contains(text, "cannot watch for instance bad") {
			t.Errorf("it says:\n%s", text)
		}
	})
	if !within([]string{"/a/b"}, "/a/b/c") || within([]string{"/a/b"}, "/a/bc") || !within([]string{"/"}, "/x") {
		t.Error("within")
	}
}

// lines are what the engine prints, as they come.
func lines(r io.Reader) <-chan string {
	all := make(chan string, 100)
	go func() {
		defer close(all)
		buffer := make([]byte, 64<<10)
		var rest string
		for {
			n, err := r.Read(buffer)
			rest += string(buffer[:n])
			for {
				line, after, ok := strings.Cut(rest, "\n")
				if !ok {
					break
				}
				all <- line
				rest = after
			}
			if err != nil {
				return
			}
		}
	}()
	return all
}

// With real watches a change is heard of, in folders too that come later, and after the folder of the
// pattern itself was replaced.
func TestRealFolders(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), t.TempDir()
	base := filepath.Join(dir, "in")
	if err := os.Mkdir(base, 0o755); err != nil {
		t.Fatal(err)
	}
	in := Instance{Trigger: "core.filechange", ID: "i", Parameters: json.RawMessage(fmt.Sprintf(`{"glob": "%s/**", "settle": "10ms"}`, base))}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	e := New(data, w, io.Discard, reconcile.WatchFolders())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx, []Instance{in}); w.Close() }()
	told := lines(r)
	// A second instance is taken over only when the first is watched.
	e.Set(t.Context(), []Instance{in})
	expect := func(what, path string) {
		t.Helper()
		patience := time.After(time.Minute)
		for {
			select {
			case line := <-told:
				if strings.Contains(line, fmt.Sprintf("%q", what)) && strings.Contains(line, fmt.Sprintf("%q", path)) {
					return
				}
			case <-patience:
				t.Fatalf("nobody told that %s was %s", path, what)
			}
		}
	}
	file := filepath.Join(base, "a")
	write(t, file, "a")
	expect(created, file)
	write(t, file, "ab")
	expect(modified, file)
	deep := filepath.Join(base, "x", "y", "z", "b")
	write(t, deep, "b")
	expect(created, deep)
	if err := os.RemoveAll(filepath.Join(base, "x")); err != nil {
		t.Fatal(err)
	}
	expect(deleted, deep)
	// Swapped for another folder of the same name.
	other := filepath.Join(dir, "other")
	write(t, filepath.Join(other, "c"), "c")
	if err := os.Rename(base, filepath.Join(dir, "old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, base); err != nil {
		t.Fatal(err)
	}
	expect(created, filepath.Join(base, "c"))
	write(t, filepath.Join(base, "d"), "d")
	expect(created, filepath.Join(base, "d"))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for range told {
		continue
	}
}
