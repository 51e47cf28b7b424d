package faults

import (
	"bytes"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store/storetest"
)

// batch is how many executions these tests queue at once.
func batch() int {
	if long {
		return 1000
	}
	return 100
}

// behindProxy starts a node whose way to the database is the test's to break.
func (y *yard) behindProxy() (*node, *proxy) {
	y.Helper()
	p, through := newProxy(y, y.url)
	n := y.node()
	n.env = append(n.env, "ATTUNE_DATABASE_URL="+through)
	return n.start(), p
}

// F66 and F67: sessions end by somebody's hand, all of them, again and again.
func TestF66F67SessionsTerminated(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	n := y.node().start()
	l := y.ledger()
	rounds := 5
	if long {
		rounds = 100
	}
	for range rounds {
		l.enqueue("book", batch()/rounds+1)
		y.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'attune' AND backend_start < now() - INTERVAL '10 milliseconds'")
		pause(200 * time.Millisecond)
	}
	l.settle()
	y.until("the reconnects are counted", func() bool { return n.metric("attune_db_reconnects_total") > 0 })
}

// F68: only the connection for notifications is gone. What is queued meanwhile is found by polling.
func TestF68ListenerTerminated(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	y.node().start()
	l := y.ledger()
	for range 3 {
		y.until("it listens", func() bool { // or has made sure, by a ping, that it still can
			return y.query("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = '-- ping') AND application_name = 'attune' AND state = 'idle'")[0] != "0"
		})
		l.enqueue("book", 1)
		l.settle()
	}
}

// F72: the connection breaks just before or just after the server gets a statement that commits, again and
// again. Nobody knows then whether it is done; no attempt begins twice, and no result is lost.
func TestF72CutAtCommit(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	_, p := y.behindProxy()
	l := y.ledger()
	var sent, cuts atomic.Int64
	most := int64(6)
	if long {
		most = 200
	}
	// Statements commit by themselves where they end with a Sync; every eleventh meets its fate, so that it is
	// a claim's, a start's and an outcome's in turn.
	p.watch(func(message []byte) verdict {
		if !bytes.HasSuffix(message, []byte{'S', 0, 0, 0, 4}) || sent.Add(1)%11 != 0 || cuts.Load() >= most {
			return passOn
		}
		if cuts.Add(1)%2 == 0 {
			return cutBefore
		}
		return cutAfter
	})
	y.goesOn("enough commits have been cut", func() (string, bool) {
		l.enqueue("book", 5)
		pause(50 * time.Millisecond)
		n := cuts.Load()
		return strconv.FormatInt(n, 10), n >= most
	})
	l.settle()
}

// The network between the node and the database breaks at any moment.
func TestF72ConnectionsCut(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	_, p := y.behindProxy()
	l := y.ledger()
	rounds := 10
	if long {
		rounds = 200
	}
	for range rounds {
		l.enqueue("book", batch()/rounds+1)
		pause(50 * time.Millisecond)
		p.cut()
	}
	l.settle()
}

// F78: somebody locks the queue. Statements time out, nobody deadlocks, and the work goes on.
func TestF78QueueLocked(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	y.node().start()
	l := y.ledger()
	l.enqueue("book", batch())
	conn := storetest.Connect(y, y.url)
	tx, err := conn.Begin(t.Context())
	y.check(err)
	_, err = tx.Exec(t.Context(), "LOCK TABLE attune.queue")
	y.check(err)
	held := 2 * time.Second
	if long {
		held = 30 * time.Second
	}
	pause(held)
	y.check(tx.Commit(t.Context()))
	l.settle()
}

// F73: the server turns read-only, and back.
func TestF73ServerTurnsReadOnly(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	y.node().start()
	l := y.ledger()
	l.enqueue("book", 1)
	l.settle()
	setReadOnly := func(on string) {
		y.exec("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = " + on + "', current_database()); END $$")
	}
	setReadOnly("on")
	y.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'attune'")
	pause(time.Second)
	conn := storetest.Connect(y, y.url)
	_, err := conn.Exec(t.Context(), "SET default_transaction_read_only = off")
	y.check(err)
	_, err = conn.Exec(t.Context(), "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$")
	y.check(err)
	l.store.Close()
	l.store = storetest.Open(y, y.ledgerURL())
	l.enqueue("book", 5)
	l.settle()
}
