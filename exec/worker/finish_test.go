package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/attune-io/attune/reconcile/store"
)

// brokenFinish stands between a pool and its store.
type brokenFinish struct {
	queue
	away atomic.Bool // nothing gets through
	deaf atomic.Bool // it gets through, and the answer does not
}

func (b *brokenFinish) Finish(ctx context.Context, outcomes []store.Outcome) ([]bool, error) {
	if b.away.Load() {
		return nil, errAwayTest
	}
	accepted, err := b.queue.Finish(ctx, outcomes)
	if b.deaf.Load() {
		return nil, errAwayTest
	}
	return accepted, err
}

func TestResultsSurviveAnOutage(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("good", `echo kept; echo '{"kept": true}' >"$ATTUNE_RESULT_FILE"`)
	broken := &brokenFinish{}
	m.runWith(func(q queue) queue {
		broken.queue = q
		return broken
	})
	broken.away.Store(true)
	id := m.enqueue(store.NewExecution{Action: "p.good"})[0]
	var files []string
	eventually(t, "the result is kept on disk", func() bool {
		files, _ = filepath.Glob(m.file("spool/*.json"))
		return len(files) == 1
	})
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o600 || !strings.Contains(read(t, files[0]), "kept") {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if e, _ := m.execution(id); e.Status != store.StatusRunning {
		t.Errorf("it is %s", e.Status)
	}
	broken.away.Store(false)
	e := m.await(id)
	m.want(e, store.StatusSucceeded, "")
	if e.Stdout != "kept\n" || string(e.Result) != `{"kept": true}` {
		t.Errorf("stdout %q, result %s", e.Stdout, e.Result)
	}
	eventually(t, "the spool is empty", func() bool { return !exists(files[0]) })
}

// The commit happened, the answer was lost: sent again, it is the same outcome, and is counted once.
func TestUnknownCommit(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("good", `echo once`)
	broken := &brokenFinish{}
	p := m.runWith(func(q queue) queue {
		broken.queue = q
		return broken
	})
	broken.deaf.Store(true)
	id := m.enqueue(store.NewExecution{Action: "p.good"})[0]
	e := m.await(id)
	broken.deaf.Store(false)
	m.want(e, store.StatusSucceeded, "")
	eventually(t, "it is settled", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.held) == 0
	})
	e, attempts := m.execution(id)
	if len(attempts) != 1 || e.Stdout != "once\n" {
		t.Errorf("stdout %q, attempts %+v", e.Stdout, attempts)
	}
}

// What a dead run left is written before its node is declared dead.
func TestFlushSpool(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("good", `true`)
	ids := m.enqueue(store.NewExecution{Action: "p.good"}, store.NewExecution{Action: "p.good"})
	claimed, err := m.store.Claim(t.Context(), "dead", 2)
	if err != nil {
		t.Fatal(err)
	}
	s := spool{dir: m.file("spool")}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var tokens []string
	for _, c := range claimed {
		tokens = append(tokens, c.Token)
	}
	if _, err := m.store.Start(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	code := 0
	e := &ended{Action: "p.good", ExecutionID: claimed[0].ExecutionID, Attempt: 1, Outcome: store.Outcome{
		Token: claimed[0].Token, Status: store.StatusSucceeded, ExitCode: &code, Stdout: store.Output{Text: "late", Bytes: 4},
	}}
	if err := s.write(e); err != nil {
		t.Fatal(err)
	}
	unknown := uuid.NewString()
	for name, content := range map[string]string{
		"half.json.new": "{", "bad.json": "{", uuid.NewString() + ".json": `{"outcome":{"Token":"x"}}`, "note": "",
		unknown + ".json": `{"outcome":{"Token":"` + unknown + `","Status":"of a later version"}}`,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := FlushSpool(t.Context(), m.store, s.dir, m.logger()); err != nil {
		t.Fatal(err)
	}
	if _, lost, err := m.store.LoseNode(t.Context(), "dead"); err != nil || len(lost) != 1 {
		t.Errorf("lost %v: %v", lost, err)
	}
	got, _ := m.execution(claimed[0].ExecutionID)
	m.want(got, store.StatusSucceeded, "")
	if got.Stdout != "late" {
		t.Errorf("stdout %q", got.Stdout)
	}
	other, _ := m.execution(ids[0] + ids[1] - claimed[0].ExecutionID)
	m.want(other, store.StatusLost, "")
	path, _ := s.path(e)
	if exists(path) || exists(filepath.Join(s.dir, "half.json.new")) || !exists(filepath.Join(s.dir, "bad.json")) || !exists(filepath.Join(s.dir, unknown+".json")) {
		t.Error("the wrong files are left")
	}
	if err := FlushSpool(t.Context(), m.store, m.file("nowhere"), m.logger()); err != nil {
		t.Errorf("without a folder: %v", err)
	}
}

// A pool takes up what is in its spool folder; too late, it changes nothing.
func TestRecoversSpool(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("good", `true`)
	s := spool{dir: m.file("spool")}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	e := &ended{Action: "p.good", ExecutionID: 17, Attempt: 1, Outcome: store.Outcome{Token: uuid.NewString(), Status: store.StatusSucceeded}}
	if err := s.write(e); err != nil {
		t.Fatal(err)
	}
	path, _ := s.path(e)
	m.run()
	eventually(t, "it is taken up", func() bool { return !exists(path) })
	m.want(m.do("p.good", `{}`), store.StatusSucceeded, "")
}

// What comes back from the disk is what was put there, in particular no result where there was none.
func TestSpoolKeepsOutcomesAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, result := range []json.RawMessage{nil, json.RawMessage("null"), json.RawMessage(`{"a":1}`)} {
		s := spool{dir: t.TempDir()}
		code, at := 3, time.Date(2026, 11, 30, 1, 2, 3, 4, time.UTC)
		want := &ended{Action: "p.a", ExecutionID: 17, Attempt: 2, Outcome: store.Outcome{
			Token: uuid.NewString(), Status: store.StatusFailed, ExitCode: &code, Signal: "SIGKILL", Error: "e", Result: result,
			Stdout: store.Output{Text: "out", Bytes: 5, Omitted: 2}, Stderr: store.Output{Text: "err", Bytes: 3}, Arrival: []int{1, 2},
			RetryAt: &at, Spare: true,
		}}
		if err := s.write(want); err != nil {
			t.Fatal(err)
		}
		got, err := s.load(slog.New(slog.DiscardHandler))
		if err != nil || len(got) != 1 {
			t.Fatalf("%d outcomes: %v", len(got), err)
		}
		if diff := cmp.Diff(want.Outcome, got[0].Outcome); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
}

// answers is a database that says what the test wants.
type answers struct {
	queue
	finish func(n int) ([]bool, error)
	calls  int
}

func (a *answers) Finish(_ context.Context, outcomes []store.Outcome) ([]bool, error) {
	a.calls++
	return a.finish(a.calls)
}

// Whatever is not recorded when the end comes is on disk: also what is set aside for a moment, and what comes after
// one that cannot be kept.
func TestKeepsAllAtTheEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var f finisher
		made := func() *ended {
			return &ended{Outcome: store.Outcome{Token: uuid.NewString(), Status: store.StatusSucceeded}}
		}
		locked, bad, last := made(), made(), made()
		bad.Outcome.Result = json.RawMessage("{") // it cannot be written
		a := &answers{}
		a.finish = func(n int) ([]bool, error) {
			if n == 1 {
				f.add(bad, last)
				return []bool{false}, &store.LeftError{Left: map[int]error{0: store.ErrRowLocked}}
			}
			f.giveUp()
			return nil, errAwayTest
		}
		f.init(a, slog.New(slog.DiscardHandler), spool{dir: dir}, func(*ended, bool) {}, func() bool { return false }, func(int) {})
		f.add(locked)
		stopped := f.stop()
		f.run()
		stopped()
		for name, e := range map[string]*ended{"the one that was set aside": locked, "the last": last} {
			if path, _ := f.spool.path(e); !exists(path) {
				t.Errorf("%s is lost", name)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
			t.Errorf("the folder has %v", left)
		}
		pass(finishRetryMost) // what was set aside comes back to nobody
	})
}

// clerk is a finisher in a bubble.
type clerk struct {
	*finisher
	queue *fakeQueue

	mu sync.Mutex
	// settled has how often each outcome was told of, and lines what was logged.
	settled map[string]int
	lines   bytes.Buffer
	// atGather and atSettle are called where the pool is.
	atGather func()
	atSettle func(*ended)
}

// Write is of the logger.
func (c *clerk) Write(line []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines.Write(line)
}

// panics tells how many are in the log.
func (c *clerk) panics() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Count(c.lines.String(), " stack=")
}

// outcome gives the outcome of an attempt whose token is held.
func (c *clerk) outcome(id int64) *ended {
	c.queue.set(func() { c.queue.held[token(id)] = true })
	return &ended{ExecutionID: id, Outcome: store.Outcome{Token: token(id), Status: store.StatusSucceeded}}
}

// spooled are the outcomes on disk.
func (c *clerk) spooled(t *testing.T) (tokens []string) {
	t.Helper()
	left, err := c.spool.load(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Error(err)
	}
	for _, e := range left {
		tokens = append(tokens, e.Outcome.Token)
	}
	return tokens
}

func (c *clerk) want(t *testing.T, settled map[string]int, spooled ...string) {
	t.Helper()
	c.mu.Lock()
	diff := cmp.Diff(settled, c.settled)
	c.mu.Unlock()
	if diff != "" {
		t.Errorf("settled (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(spooled, c.spooled(t)); diff != "" {
		t.Errorf("on disk (-want +got):\n%s", diff)
	}
}

// withClerk runs f, and then the finisher to its end; f may let it run before.
func withClerk(t *testing.T, f func(c *clerk)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &clerk{
			finisher: &finisher{}, queue: &fakeQueue{held: map[string]bool{}}, settled: map[string]int{},
			atGather: func() {}, atSettle: func(*ended) {},
		}
		settle := func(e *ended, _ bool) {
			c.mu.Lock()
			c.settled[e.Outcome.Token]++
			c.mu.Unlock()
			c.atSettle(e)
		}
		mayGather := func() bool {
			c.atGather()
			return false
		}
		c.init(c.queue, slog.New(slog.NewTextHandler(c, nil)), spool{dir: dir}, settle, mayGather, func(int) {})
		f(c)
	})
}

// A panic over one outcome costs no other, and that one only a while; each is counted by its stack in the log.
func TestOutcomesOutliveAPanic(t *testing.T) {
	t.Parallel()
	withClerk(t, func(c *clerk) {
		c.queue.stumble = map[string]bool{token(2): true}
		c.add(c.outcome(1), c.outcome(2), c.outcome(3))
		ended := make(chan struct{})
		go func() { c.run(); close(ended) }()
		synctest.Wait()
		c.want(t, map[string]int{token(1): 1, token(3): 1}, token(2))
		if n := c.panics(); n != 2 {
			t.Errorf("%d panics are told, want one of all and one of it alone", n)
		}
		pass(refusedRetry)
		c.want(t, map[string]int{token(1): 1, token(3): 1}, token(2))
		c.queue.set(func() { c.queue.stumble = nil })
		c.add(c.outcome(4))
		pass(refusedRetry)
		c.want(t, map[string]int{token(1): 1, token(2): 1, token(3): 1, token(4): 1})
		stopped := c.stop()
		<-ended
		stopped()
	})
}

// What we panic over is on disk when the daemon ends, and the end comes.
func TestPanicAtTheEnd(t *testing.T) {
	t.Parallel()
	withClerk(t, func(c *clerk) {
		c.queue.stumble = map[string]bool{token(1): true}
		c.add(c.outcome(1))
		stopped := c.stop()
		c.run()
		stopped()
		c.want(t, map[string]int{}, token(1))
		pass(refusedRetry) // it comes back to nobody
	})
	withClerk(t, func(c *clerk) {
		c.atGather = func() { panic("oh no") }
		c.add(c.outcome(1))
		stopped := c.stop()
		c.run()
		stopped()
		c.want(t, map[string]int{}, token(1))
	})
}

// Panics beside the database cost nothing: neither before an outcome is sent, nor when it is told of, nor over an
// answer that cannot be.
func TestPanicsAroundOutcomes(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(c *clerk) (pause time.Duration){
		"gather": func(c *clerk) time.Duration {
			c.atGather = func() {
				c.atGather = func() {}
				panic("oh no")
			}
			return persistPause
		},
		"settle": func(c *clerk) time.Duration {
			c.atSettle = func(e *ended) {
				if e.ExecutionID == 3 {
					panic("oh no")
				}
			}
			return 0
		},
		"answer": func(c *clerk) time.Duration {
			a := &answers{queue: c.queue}
			a.finish = func(n int) ([]bool, error) { return make([]bool, min(n, 2)), nil }
			c.finisher.queue = a
			return 0
		},
	} {
		t.Run(name, func(t *testing.T) {
			withClerk(t, func(c *clerk) {
				pause, begun := plant(c), time.Now()
				c.add(c.outcome(1), c.outcome(2), c.outcome(3))
				stopped := c.stop()
				c.run()
				stopped()
				c.want(t, map[string]int{token(1): 1, token(2): 1, token(3): 1})
				if n, took := c.panics(), time.Since(begun); n != 1 || took != pause {
					t.Errorf("%d panics are told, want 1; it took %v, want %v", n, took, pause)
				}
			})
		})
	}
}

// What a dead run left and we panic over stays where it is, and the daemon starts.
func TestPanicOverTheSpool(t *testing.T) {
	t.Parallel()
	withClerk(t, func(c *clerk) {
		c.queue.stumble = map[string]bool{token(2): true}
		batch := []*ended{c.outcome(1), c.outcome(2), c.outcome(3)}
		c.keep(batch)
		if err := flush(t.Context(), c.queue, c.spool, batch, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{token(2)}, c.spooled(t)); diff != "" {
			t.Errorf("on disk (-want +got):\n%s", diff)
		}
	})
}
