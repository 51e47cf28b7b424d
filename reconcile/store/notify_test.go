package store_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// listen runs a listener for the length of the test.
func listen(t *testing.T, s *store.Store) *store.Listener {
	t.Helper()
	l := s.NewListener()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// next gives the next payload for which want is true.
func next(t *testing.T, payloads <-chan string, want func(string) bool) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case payload := <-payloads:
			if want(payload) {
				return payload
			}
		case <-timeout:
			t.Fatal("nobody was told")
		}
	}
}

func anything(string) bool    { return true }
func something(p string) bool { return p != "" }
func nothing(p string) bool   { return p == "" }

func TestListener(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	l := listen(t, s)
	queue, leaveQueue := l.Subscribe(store.ChannelQueue)
	defer leaveQueue()
	finished, leaveFinished := l.Subscribe(store.ChannelFinished)
	defer leaveFinished()
	cancels, leaveCancels := l.Subscribe(store.ChannelCancel)
	defer leaveCancels()
	catalogs, leaveCatalogs := l.Subscribe(store.ChannelCatalog)
	defer leaveCatalogs()
	waitListening(t, s, l)

	if got, want := fmt.Sprint(apply(t, s, whole("a"))), next(t, catalogs, something); got != want {
		t.Errorf("generation %s, told %s", got, want)
	}
	drain(queue)
	ids := enqueue(t, s, times(3, store.NewExecution{Action: "a.x"})...)
	next(t, queue, anything)
	claimed := claim(t, s, "n", 2)
	start(t, s, claimed...)
	if _, err := s.Cancel(t.Context(), ids[1], "alice"); err != nil {
		t.Fatal(err)
	}
	if got := next(t, cancels, something); got != fmt.Sprint(ids[1]) {
		t.Errorf("told to cancel %s", got)
	}
	finish(t, s,
		store.Outcome{Token: claimed[0].Token, Status: store.StatusSucceeded},
		store.Outcome{Token: claimed[1].Token, Status: store.StatusCancelled})
	if got := next(t, finished, something); got != fmt.Sprintf("%d,%d", ids[0], ids[1]) && got != fmt.Sprintf("%d,%d", ids[1], ids[0]) {
		t.Errorf("told %s", got)
	}
	drain(queue)
	c := claim(t, s, "n", 1)[0]
	if err := s.Release(t.Context(), []string{c.Token}); err != nil {
		t.Fatal(err)
	}
	next(t, queue, anything)
	c = claim(t, s, "n", 1)[0]
	drain(queue)
	start(t, s, c)
	finish(t, s, store.Outcome{Token: c.Token, Status: store.StatusFailed, RetryAt: new(time.Now())})
	next(t, queue, anything)
	drain(queue)
	commit(t, s, matchAll("a.x", 1), store.NewEvent{Trigger: "a.t", Source: "s"})
	next(t, queue, anything)
}

// waitListening waits until the listener hears, so that nothing is missed for want of it.
func waitListening(t *testing.T, s *store.Store, l *store.Listener) {
	t.Helper()
	heard, leave := l.Subscribe(store.ChannelNotice)
	defer leave()
	waitFor(t, func() bool {
		sql(t, s, "SELECT pg_notify('attune_notice', 'test')")
		for {
			select {
			case payload := <-heard:
				if payload == "test" {
					return true
				}
			default:
				return false
			}
		}
	})
}

func drain(payloads <-chan string) {
	for {
		select {
		case <-payloads:
		default:
			return
		}
	}
}

func TestManyFinishedFitNoPayload(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	sql(t, s, "ALTER SEQUENCE attune.execution_id RESTART WITH 1000000000000")
	enqueue(t, s, times(900, store.NewExecution{Action: "a.x"})...)
	l := listen(t, s)
	finished, leave := l.Subscribe(store.ChannelFinished)
	defer leave()
	waitListening(t, s, l)
	drain(finished)
	claimed := claim(t, s, "n", 900)
	var outcomes []store.Outcome
	for _, c := range claimed {
		outcomes = append(outcomes, store.Outcome{Token: c.Token, Status: store.StatusSucceeded})
	}
	finish(t, s, outcomes...)
	next(t, finished, nothing)
}

func TestListenerComesBack(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	s, err := store.Open(t.Context(), storetest.NewURL(t), store.Options{Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	l := listen(t, s)
	queue, leave := l.Subscribe(store.ChannelQueue)
	defer leave()
	for round := 1; round <= 3; round++ {
		waitListening(t, s, l)
		drain(queue)
		sql(t, s, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = '-- ping')")
		next(t, queue, nothing) // woken to look, because something may have been missed
		waitListening(t, s, l)
		drain(queue)
		enqueue(t, s, store.NewExecution{Action: "a.x"})
		next(t, queue, anything)
	}
	if _, err := testutil.GatherAndLint(registry); err != nil {
		t.Error(err)
	}
	want := "# HELP attune_db_reconnects_total Times that a lost connection to the database was made anew.\n# TYPE attune_db_reconnects_total counter\nattune_db_reconnects_total 3\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "attune_db_reconnects_total"); err != nil {
		t.Error(err)
	}
}

func TestSlowSubscriberBlocksNobody(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	l := listen(t, s)
	slow, leave := l.Subscribe(store.ChannelQueue)
	marks, leaveMarks := l.Subscribe(store.ChannelCancel)
	defer leaveMarks()
	waitListening(t, s, l)
	for range 200 {
		sql(t, s, "SELECT pg_notify('attune_queue', 'x')")
	}
	// What was sent before has been delivered, too: a full one of quick's would lose what it waits for.
	sql(t, s, "SELECT pg_notify('attune_cancel', 'mark')")
	next(t, marks, func(p string) bool { return p == "mark" })
	quick, leaveQuick := l.Subscribe(store.ChannelQueue)
	defer leaveQuick()
	sql(t, s, "SELECT pg_notify('attune_queue', 'y')")
	next(t, quick, func(p string) bool { return p == "y" })
	next(t, slow, anything)
	leave()
	drain(slow)
	sql(t, s, "SELECT pg_notify('attune_queue', 'z')")
	next(t, quick, func(p string) bool { return p == "z" })
	select {
	case p := <-slow:
		t.Errorf("%q was delivered after leaving", p)
	default:
	}
}

func TestListenerOfATransactionPoolerPolls(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s, err := store.Open(t.Context(), url, store.Options{Pooler: store.PoolerTransaction})
	if err != nil {
		t.Fatal(err)
	}
	// No goroutine of the pool may be in the bubble below.
	s.Close()
	synctest.Test(t, func(t *testing.T) {
		l := s.NewListener()
		payloads, leave := l.Subscribe(store.ChannelFinished)
		defer leave()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		begun := time.Now()
		go func() { done <- l.Run(ctx) }()
		for range 4 {
			if p := <-payloads; p != "" {
				t.Errorf("told %q", p)
			}
		}
		if took := time.Since(begun); took != 6*time.Second {
			t.Errorf("four looks took %v", took)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestEverythingWorksThroughATransactionPooler(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s, err := store.Open(t.Context(), url, store.Options{Pooler: store.PoolerTransaction})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	apply(t, s, whole("a"))
	commit(t, s, matchAll("a.echo", 1), store.NewEvent{Trigger: "a.t", Source: "a.s", EventID: "1", Cursor: object(t, 1), Instance: "x"})
	c := claim(t, s, "n", 10)
	start(t, s, c...)
	if _, err := s.Renew(t.Context(), "n"); err != nil {
		t.Error(err)
	}
	if !finish(t, s, store.Outcome{Token: c[0].Token, Status: store.StatusSucceeded, ExitCode: new(0)})[0] {
		t.Error("refused")
	}
	maintain(t, s, store.Retention{Events: time.Hour, Executions: time.Hour, Revisions: 1})
	if _, err := s.ListExecutions(t.Context(), store.ExecutionFilter{}); err != nil {
		t.Error(err)
	}
	if n := one[int](t, s, "SELECT count(*) FROM pg_prepared_statements"); n != 0 {
		t.Errorf("%d prepared statements", n)
	}
	if _, _, err := s.Migrate(t.Context()); err != nil {
		t.Errorf("nothing to migrate: %v", err)
	}
	empty, err := store.Open(t.Context(), storetest.NewEmptyURL(t), store.Options{Pooler: store.PoolerTransaction})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(empty.Close)
	if _, _, err := empty.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "attune migrate") {
		t.Errorf("got %v", err)
	}
}
