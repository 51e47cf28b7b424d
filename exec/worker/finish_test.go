package worker

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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
