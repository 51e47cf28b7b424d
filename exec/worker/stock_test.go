package worker

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/attune-io/attune/reconcile/store"
)

func TestPace(t *testing.T) {
	t.Parallel()
	var p pace
	for range paceSamples - 1 {
		p.took(time.Millisecond)
	}
	if p.stock(4) != 0 {
		t.Error("a stock after too few attempts")
	}
	p.took(time.Millisecond)
	if n := p.stock(4); n != 4*stockMost {
		t.Errorf("a stock of %d for attempts of a millisecond", n)
	}
	for range 10 * paceSamples {
		p.took(5 * time.Millisecond)
	}
	if n := p.stock(4); n < 4*4 || n > 4*6 {
		t.Errorf("a stock of %d for attempts of 5 ms", n)
	}
	for range 10 * paceSamples {
		p.took(50 * time.Millisecond)
	}
	if n := p.stock(4); n != 4*stockLeast {
		t.Errorf("a stock of %d for attempts of 50 ms", n)
	}
	p.took(time.Minute)
	if p.stock(4) != 0 {
		t.Error("a stock while attempts are long")
	}
	for range 10 * paceSamples {
		p.took(time.Millisecond)
	}
	if p.stock(4) == 0 {
		t.Error("no stock, although attempts are short again")
	}
	p.slowed()
	if p.stock(4) != 0 {
		t.Error("a stock although an attempt waited in vain")
	}
}

// However much waits, a node has claimed no more than runs and what keeps its slots busy for a moment: what another
// pack queues waits for that and no more.
func TestStockIsBounded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		took time.Duration
		most int // beyond the two slots
	}{
		{time.Millisecond, 2 * stockMost},
		{5 * time.Millisecond, 2 * 5},
		{50 * time.Millisecond, 2 * stockLeast},
		{2 * shortAttempt, 0},
	} {
		onStage(t, false, func(s *stage, _ func()) {
			for range paceSamples {
				s.pace.took(test.took)
			}
			var ids []int64
			for id := range int64(1000) {
				ids = append(ids, id+1)
			}
			pass(time.Second)
			s.offer(ids...)
			most := 0
			for range 2 * 4 * pollPeriod / stockPatience {
				pass(stockPatience / 4)
				s.queue.set(func() { most = max(most, len(s.queue.held)) })
			}
			if most != 2+test.most {
				t.Errorf("%d are claimed where attempts take %v, expected 2 and %d", most, test.took, test.most)
			}
		})
	}
}

// With many slots the next claim is made while the outcomes of the last are written: it asks for a part of the stock.
func TestClaimsArePartsOfAStock(t *testing.T) {
	t.Parallel()
	onStage(t, false, func(s *stage, _ func()) {
		opts := s.opts
		opts.Workers = 100
		p := newPool(opts, s.queue)
		p.boottime = s.boottime
		for range paceSamples {
			p.pace.took(time.Millisecond)
		}
		for _, test := range []struct{ busy, want int }{
			{0, claimMost},
			{100, claimMost},
			{100 + 100*stockMost - claimMost, claimMost},
			{100 + 100*stockMost - claimMost + 1, 0}, // a claim for fewer waits for more
			{100 + 100*stockMost, 0},
		} {
			if p.busy = test.busy; p.freeSlots() != test.want {
				t.Errorf("with %d claimed it claims %d more, expected %d", test.busy, p.freeSlots(), test.want)
			}
		}
	})
}

// An attempt that was claimed ahead, and for which no slot becomes free, goes back to the queue and uses
// no attempt.
func TestStockThatWaitsInVainGoesBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("short", "true\n")
	m.action("long", "while [ ! -e \"$ATTUNE_DATA_DIR/go\" ]; do sleep 0.05; done\n")
	p := m.run(func(o *Options) { o.Workers = 1 })
	for range paceSamples {
		p.pace.took(time.Millisecond)
	}
	ids := m.enqueue(
		store.NewExecution{Action: "p.long"},
		store.NewExecution{Action: "p.short"},
	)
	eventually(t, "the short one was claimed and is back", func() bool {
		e, _, err := m.store.Execution(t.Context(), ids[1])
		return err == nil && e.Status == store.StatusRequested && p.pace.stock(1) == 0
	})
	if e, _, err := m.store.Execution(t.Context(), ids[1]); err != nil || e.Attempt != 0 {
		t.Errorf("%+v %v", e, err)
	}
	if err := os.WriteFile(filepath.Join(m.state, "data", "p", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.await(ids[1])
	e, attempts, err := m.store.Execution(t.Context(), ids[1])
	if err != nil || e.Status != store.StatusSucceeded || len(attempts) != 1 {
		t.Errorf("%+v %v %v", e, attempts, err)
	}
}

// A daemon is killed while attempts wait for a slot. The claim has recorded that they begin, and yet they are
// not lost: the next run knows that they have not. What runs is lost, and what has ended is over.
func TestWhatHasNotBegunOutlivesItsDaemon(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.prepare = func(p *Pool) { p.patience = time.Hour } // or those that wait go back while they are looked at
	m.action("short", "echo short\n")
	m.action("long", "echo >\"$ATTUNE_DATA_DIR/runs\"; while [ ! -e \"$ATTUNE_DATA_DIR/go\" ]; do sleep 0.05; done\n")
	p := m.run(func(o *Options) { o.Workers = 1 })
	m.want(m.do("p.short", `{}`), store.StatusSucceeded, "") // from now on its files are known to be there
	for range paceSamples {
		p.pace.took(time.Millisecond)
	}
	ids := m.enqueue(
		store.NewExecution{Action: "p.long"},
		store.NewExecution{Action: "p.short"},
		store.NewExecution{Action: "p.short"},
	)
	eventually(t, "the first runs", func() bool { return exists(m.file("data/p/runs")) })
	var tokens []string
	eventually(t, "the others are claimed", func() bool {
		tokens, _ = readUnbegun(m.file("spool"))
		return len(tokens) == 2
	})
	for _, id := range ids[1:] {
		if _, attempts := m.execution(id); len(attempts) != 1 || attempts[0].StartedAt == nil {
			t.Errorf("execution %d is not recorded as begun: %+v", id, attempts)
		}
	}
	// As a daemon does that comes after one that was killed.
	p.StopClaiming()
	if err := FlushSpool(t.Context(), m.store, m.file("spool"), m.logger()); err != nil {
		t.Fatal(err)
	}
	if _, lost, err := m.store.LoseNode(t.Context(), p.opts.Node); err != nil || len(lost) != 1 || lost[0] != ids[0] {
		t.Errorf("lost %v: %v", lost, err)
	}
	if err := os.WriteFile(m.file("data/p/go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.stop()
	if exists(m.file("spool/" + unbegunFile)) {
		t.Error("notes are left after a clean end")
	}
	m.run()
	for _, id := range ids[1:] {
		e := m.await(id)
		m.want(e, store.StatusSucceeded, "")
		if _, attempts := m.execution(id); len(attempts) != 1 || e.Attempt != 1 {
			t.Errorf("attempt %d of %+v", e.Attempt, attempts)
		}
	}
}

// Notes of another boot say nothing: what they were worth was never on the disk.
func TestUnbegun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := func(when string, tokens ...string) {
		t.Helper()
		got, err := readUnbegun(dir)
		if err != nil || !slices.Equal(got, tokens) {
			t.Errorf("%s: %v %v", when, got, err)
		}
	}
	want("without a file")
	var n unbegun
	if err := n.note("nobody's"); err != nil {
		t.Error(err)
	}
	if err := n.open(dir); err != nil {
		t.Fatal(err)
	}
	want("empty")
	var tokens []string
	for range 4 {
		tokens = append(tokens, uuid.NewString())
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for _, token := range tokens[:3] {
		check(n.note(token))
	}
	check(n.begins(tokens[1]))
	check(n.begins(tokens[1]))
	check(n.begins(tokens[3]))
	want("one of three has begun", tokens[0], tokens[2])
	check(n.note(tokens[3]))
	want("the place is used again", tokens[0], tokens[3], tokens[2])
	path := filepath.Join(dir, unbegunFile)
	text := read(t, path)
	if err := os.WriteFile(path, []byte(uuid.NewString()+text[unbegunRecord:]), 0o600); err != nil {
		t.Fatal(err)
	}
	want("of another boot")
	n.close()
	if exists(path) {
		t.Error("the file is still there")
	}
}
