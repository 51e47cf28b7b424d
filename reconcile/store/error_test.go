package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestIsTransient(t *testing.T) {
	t.Parallel()
	code := func(c string) error { return fmt.Errorf("cannot do it: %w", &pgconn.PgError{Code: c}) }
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{code("57P01"), true},
		{code("57P02"), true},
		{code("57P03"), true},
		{code("53300"), true},
		{code("53100"), true},
		{code("40001"), true},
		{code("40P01"), true},
		{code("25006"), true},
		{code("08006"), true},
		{code("57014"), true},
		{code("55P03"), true},
		{code("22P05"), false},
		{code("23505"), false},
		{code("42P01"), false},
		{code("28P01"), false},
		{code("3D000"), false},
		{code(""), false},
		{context.DeadlineExceeded, true},
		{context.Canceled, false},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), true},
		{io.EOF, true},
		{pgconn.ErrConnClosed, true},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		{store.ErrNotFound, false},
		{store.ErrSchemaNewer, false},
		{errors.New("x"), false},
	} {
		if got := store.IsTransient(test.err); got != test.want {
			t.Errorf("%v: %v", test.err, got)
		}
	}
	_, err := store.Open(t.Context(), "host=/nonexistent user=x dbname=x", store.Options{})
	if !store.IsTransient(err) {
		t.Errorf("a server that is not there yet: %v", err)
	}
}

// Every session ends, over and over, and the next call works or says that it may be tried again.
func TestTerminatedSessions(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	admin := storetest.Connect(t, url)
	kept := 0
	for range 10 {
		if _, err := admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); ; {
			_, err := s.Enqueue(t.Context(), []store.NewExecution{{Action: "a.x"}})
			if err == nil {
				kept++
				break
			}
			if !store.IsTransient(err) || time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue"); n < kept {
		t.Errorf("%d were queued and %d are there", kept, n)
	}
}

func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	name := one[string](t, s, "SELECT current_database()")
	enqueue(t, s, store.NewExecution{Action: "a.x"})
	// As after a failover, the sessions that are open learn it at their next write.
	sql(t, s, "ALTER DATABASE "+name+" SET default_transaction_read_only = on")
	sql(t, s, "SET default_transaction_read_only = on")
	_, err := s.Enqueue(t.Context(), []store.NewExecution{{Action: "a.x"}})
	if !store.IsTransient(err) {
		t.Fatalf("got %v", err)
	}
	admin := storetest.Connect(t, url)
	if _, err := admin.Exec(t.Context(), "SET default_transaction_read_only = off"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(t.Context(), "ALTER DATABASE "+name+" RESET default_transaction_read_only"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		_, err := s.Enqueue(t.Context(), []store.NewExecution{{Action: "a.x"}})
		return err == nil
	})
}

// expiring is a context whose deadline has come when over is closed.
type expiring struct {
	context.Context
	over chan struct{}
}

func (e expiring) Done() <-chan struct{} { return e.over }

func (e expiring) Err() error {
	select {
	case <-e.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// A statement that is given up does not happen later.
func TestTimedOutStatementIsCancelled(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	blocker := storetest.Connect(t, url)
	if _, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE attune.queue"); err != nil {
		t.Fatal(err)
	}
	ctx := expiring{t.Context(), make(chan struct{})}
	go func() { // its time is over when it waits for the table, however long it takes to get there
		defer close(ctx.over)
		waitFor(t, func() bool {
			return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 1
		})
	}()
	_, err := s.Enqueue(ctx, []store.NewExecution{{Action: "a.x"}})
	if err == nil || !store.IsTransient(err) {
		t.Errorf("got %v", err)
	}
	// Nobody but a person can end that, so it is told whose session it is.
	if want := fmt.Sprintf("session %d of ", blocker.PgConn().PID()); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "AccessExclusiveLock on attune.queue, in a transaction that has been open for 00:0") {
		t.Errorf("it is not told who holds the table: %v", err)
	}
	if _, err := blocker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()") == 0
	})
	if n := one[int](t, s, "SELECT count(*) FROM attune.queue"); n != 0 {
		t.Errorf("%d rows came later", n)
	}
}
