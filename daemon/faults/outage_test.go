package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// patient is load with an action that books its start and ends when the test says so.
const patient = load + `
-- load/actions/wait.yaml --
name: wait
entry_point: wait.sh
parameters: {ledger: {type: string}}
-- load/actions/wait.sh --
echo "$ATTUNE_EXECUTION_ID $ATTUNE_ATTEMPT" >>"$ATTUNE_ACTION_LEDGER"
until [ -e "$ATTUNE_ACTION_LEDGER.go" ]; do sleep 0.05; done
echo "result of $ATTUNE_EXECUTION_ID"
`

// reopen connects the ledger anew.
func (l *ledger) reopen() {
	l.Helper()
	l.store.Close()
	l.store = storetest.Open(l, l.ledgerURL())
}

// letGo ends what waits.
func (l *ledger) letGo() {
	l.Helper()
	l.check(os.WriteFile(l.path+".go", nil, 0o644))
}

// answer is the status code of a path on the node's own address.
func (n *node) answer(path string) int {
	response, err := http.Get(n.address + path)
	if err != nil {
		return 0
	}
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	return response.StatusCode
}

// F69: the database is stopped, in order and by a crash. The daemon lives and says that it is not ready;
// what runs ends meanwhile, and its result is stored afterwards.
func TestF69ServerStopped(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]syscall.Signal{"fast": syscall.SIGINT, "immediate": syscall.SIGQUIT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y, s := withServer(t, patient)
			n := y.node().start()
			l := y.ledger()
			l.enqueue("wait", 3)
			y.until("they run", func() bool { return len(l.starts()) == 3 })
			s.end(how)
			y.until("the node says that it is not ready", func() bool { return n.answer("/-/ready") == http.StatusServiceUnavailable })
			l.letGo()
			y.until("what ran has ended", func() bool { return len(n.working()) == 0 })
			if code := n.answer("/-/healthy"); code != http.StatusOK {
				t.Errorf("alive: %d", code)
			}
			s.start()
			y.until("the node is ready", func() bool { return n.answer("/-/ready") == http.StatusOK })
			l.reopen()
			l.enqueue("book", 5)
			l.settle()
			// Their results were made while there was nowhere to store them.
			rows := y.query("SELECT e.status, e.attempt, starts_with(o.text, 'result of ' || e.id) FROM attune.execution e JOIN attune.output o ON o.execution_id = e.id")
			if want := []string{"succeeded 1 true", "succeeded 1 true", "succeeded 1 true"}; !slices.Equal(rows, want) {
				t.Errorf("results: %q", rows)
			}
		})
	}
}

// working gives the processes of actions; sensors are children, too.
func (n *node) working() []int {
	var pids []int
	for _, pid := range n.children() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && strings.Contains(string(text), "ATTUNE_EXECUTION_ID=") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// F76: others have taken all connections. The node waits, says why, and goes on when there is room.
func TestF76NoConnectionsLeft(t *testing.T) {
	t.Parallel()
	// Enough for the node and for the test together, so that only the crowd takes all of them.
	const most = 2*store.ConnectionsOfNode + 4
	y, s := withServer(t, load, fmt.Sprintf("max_connections=%d", most), "superuser_reserved_connections=0")
	n := y.node().start()
	l := y.ledger()
	l.enqueue("book", 3)
	l.settle()
	// While the node is frozen its connections go, and others take them all.
	n.signal(syscall.SIGSTOP)
	s.end(syscall.SIGINT)
	s.start()
	var crowd []interface{ Close(context.Context) error }
	y.until("others have all connections", func() bool {
		conn, err := storetest.TryConnect(t.Context(), s.url())
		if err == nil {
			crowd = append(crowd, conn)
		}
		return len(crowd) == most
	})
	n.signal(syscall.SIGCONT)
	y.until("the log says why", func() bool { return strings.Contains(n.log.String(), "too many clients") })
	y.until("it is not ready", func() bool { return n.answer("/-/ready") == http.StatusServiceUnavailable })
	for _, conn := range crowd {
		y.check(conn.Close(t.Context()))
	}
	y.until("it is ready", n.ready)
	l.reopen()
	l.enqueue("book", 5)
	l.settle()
}

// F81: the password is changed, then put right; the database is dropped. Errors say so and quote no
// password.
func TestF81PasswordChanged(t *testing.T) {
	t.Parallel()
	y, s := withServer(t, load)
	const secret, other = "Correct-Horse-1", "Battery-Staple-2"
	y.exec("CREATE ROLE worker LOGIN SUPERUSER PASSWORD '" + secret + "'")
	hba := s.data + "/pg_hba.conf"
	text, err := os.ReadFile(hba)
	y.check(err)
	y.check(os.WriteFile(hba, append([]byte("local all worker scram-sha-256\n"), text...), 0o600))
	y.exec("SELECT pg_reload_conf()")
	n := y.node()
	n.env = append(n.env, "ATTUNE_DATABASE_URL="+s.urlOf("worker", secret))
	n.start()
	l := y.ledger()
	terminate := func() {
		y.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'")
	}
	y.exec("ALTER ROLE worker PASSWORD '" + other + "'")
	terminate()
	y.until("the log says why", func() bool { return strings.Contains(n.log.String(), "password authentication failed") })
	y.until("it is not ready", func() bool { return n.answer("/-/ready") == http.StatusServiceUnavailable })
	y.exec("ALTER ROLE worker PASSWORD '" + secret + "'")
	y.until("it is ready", n.ready)
	l.enqueue("book", 3)
	l.settle()
	for _, word := range []string{secret, other} {
		if strings.Contains(n.log.String(), word) {
			t.Errorf("the log quotes the password:\n%s", n.log)
		}
	}
}

// F82: the server goes, and one comes back in its place that knows less. Nobody gets a number again that
// something had, the log says what is lost, and the folder rules again.
func TestF82OlderCopy(t *testing.T) {
	t.Parallel()
	y, s := withServer(t, load)
	n := y.node(`reconcile.resync = "2s"`).start()
	l := y.ledger()
	l.enqueue("book", 3)
	l.settle()
	s.tool("pg_basebackup", "--pgdata="+s.sockets+"/copy", "--host="+s.sockets, "--username=postgres", "--checkpoint=fast", "--no-sync")
	lost := l.enqueue("book", 5)
	l.settle()
	l.enqueue("hold", 1)
	y.until("it runs", func() bool { return len(l.starts()) == 9 })
	y.write("load/actions/new.yaml", "name: new\nentry_point: book.sh\n")
	y.until("it is in force", func() bool { return len(y.query("SELECT 1 FROM attune.action WHERE ref = 'load.new'")) == 1 })
	s.end(syscall.SIGQUIT)
	s.data = s.sockets + "/copy"
	s.start()
	y.until("it is ready", n.ready)
	y.until("the log says what is lost", func() bool {
		return n.log.count("the database is older than it was, what was stored since is lost") > 0
	})
	y.until("what runs and is known to nobody is dead", func() bool { return len(n.working()) == 0 })
	l.reopen()
	fresh := l.enqueue("book", 5)
	if least := slices.Min(fresh); least <= slices.Max(lost)+1 {
		t.Errorf("number %d was given again", least)
	}
	y.empties()
	for _, id := range fresh {
		if rows := y.query("SELECT status FROM attune.execution WHERE id = " + strconv.FormatInt(id, 10)); !slices.Equal(rows, []string{"succeeded"}) {
			t.Errorf("execution %d: %q", id, rows)
		}
	}
	y.until("the folder is in force again", func() bool { return len(y.query("SELECT 1 FROM attune.action WHERE ref = 'load.new'")) == 1 })
}
