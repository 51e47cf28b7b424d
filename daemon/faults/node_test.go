package faults

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// load is a pack whose actions book their starts in a ledger, and whose sensors only live.
const load = `
-- load/pack.yaml --
ref: load
version: 1.0.0
-- load/actions/book.yaml --
name: book
entry_point: book.sh
on_lost: retry
parameters: {ledger: {type: string}}
-- load/actions/book.sh --
echo "$ATTUNE_EXECUTION_ID $ATTUNE_ATTEMPT" >>"$ATTUNE_ACTION_LEDGER"
-- load/actions/hold.yaml --
name: hold
entry_point: hold.sh
parameters: {ledger: {type: string}}
-- load/actions/hold.sh --
echo "$ATTUNE_EXECUTION_ID $ATTUNE_ATTEMPT" >>"$ATTUNE_ACTION_LEDGER"; sleep 9999
-- load/actions/again.yaml --
name: again
entry_point: again.sh
on_lost: retry
parameters: {ledger: {type: string}}
-- load/actions/again.sh --
echo "$ATTUNE_EXECUTION_ID $ATTUNE_ATTEMPT" >>"$ATTUNE_ACTION_LEDGER"
if [ "$ATTUNE_ATTEMPT" = 1 ]; then sleep 9999; fi
-- load/triggers/never.yaml --
name: never
-- load/sensors/a.yaml --
name: a
entry_point: live.sh
runner_type: shell
trigger_types: [load.never]
-- load/sensors/b.yaml --
name: b
entry_point: live.sh
runner_type: shell
trigger_types: [load.never]
-- load/sensors/c.yaml --
name: c
entry_point: live.sh
runner_type: shell
trigger_types: [load.never]
-- load/sensors/live.sh --
while :; do sleep 1; done
`

// ledger is where the actions of a test book.
type ledger struct {
	*yard
	path  string
	store *store.Store
	ids   []int64
}

func (y *yard) ledger() *ledger {
	y.Helper()
	return &ledger{yard: y, path: filepath.Join(y.dir, "ledger"), store: storetest.Open(y, y.ledgerURL())}
}

// ledgerURL has a name of its own, by which the sessions of the daemons are told from those of the test.
func (y *yard) ledgerURL() string {
	u, err := url.Parse(y.url)
	y.check(err)
	query := u.Query()
	query.Set("application_name", "ledger")
	u.RawQuery = query.Encode()
	return u.String()
}

// enqueue queues executions of an action of load, behind the daemons' back.
func (l *ledger) enqueue(action string, n int) []int64 {
	l.Helper()
	parameters, err := json.Marshal(map[string]string{"ledger": l.path})
	l.check(err)
	list := make([]store.NewExecution, n)
	for i := range list {
		list[i] = store.NewExecution{Action: "load." + action, Parameters: parameters}
	}
	ids, err := l.store.Enqueue(l.Context(), list)
	l.check(err)
	l.ids = append(l.ids, ids...)
	return ids
}

// starts are what was booked: execution and attempt.
func (l *ledger) starts() []string {
	text, err := os.ReadFile(l.path)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// settle waits until all has ended, and checks that nothing ran that is not recorded, that no attempt
// began twice, that what counts as succeeded has run, what holds of every database, and that no process is
// left of a daemon that has ended.
func (l *ledger) settle() {
	l.Helper()
	l.empties()
	recorded := map[string]bool{}
	for _, line := range l.query("SELECT execution_id, number FROM attune.attempt") {
		recorded[line] = true
	}
	seen := map[string]bool{}
	for _, start := range l.starts() {
		if seen[start] {
			l.Errorf("an attempt began twice: %s", start)
		}
		seen[start] = true
		if !recorded[start] {
			l.Errorf("an attempt began that is not recorded: %s", start)
		}
	}
	for _, line := range l.query("SELECT id, attempt FROM attune.execution WHERE status = 'succeeded'") {
		if !seen[line] {
			l.Errorf("what never began is said to have succeeded: %s", line)
		}
	}
	if n := l.query("SELECT count(*) FROM attune.execution WHERE finished_at IS NOT NULL")[0]; n != fmt.Sprint(len(l.ids)) {
		l.Errorf("%s of %d executions have ended", n, len(l.ids))
	}
	storetest.CheckInvariants(l, l.url)
	for _, n := range l.nodes {
		if n.hasEnded() {
			l.until("nothing is left of "+n.name+", which has ended", func() bool { return len(n.children()) == 0 })
		}
	}
}

// F86: a daemon is killed in the middle of its work. Its children die with it, what ran is lost, or tried
// again where its action says so, and what waited goes on.
func TestF86DaemonKilledWhileItWorks(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	n := y.node("exec.workers = 2").start()
	l := y.ledger()
	held, again := l.enqueue("hold", 1), l.enqueue("again", 1)
	y.until("both run", func() bool { return len(l.starts()) == 2 })
	waiting := l.enqueue("book", 20)
	n.kill()
	y.until("its children are gone", func() bool { return len(n.children()) == 0 })
	n.start()
	l.settle()
	status := func(id int64) string {
		return y.query("SELECT status, attempt FROM attune.execution WHERE id = $1", id)[0]
	}
	if got := status(held[0]); got != "lost 1" {
		t.Errorf("what held is %s", got)
	}
	if got := status(again[0]); got != "succeeded 2" {
		t.Errorf("what is tried again is %s", got)
	}
	for _, id := range waiting {
		if got := status(id); got != "succeeded 1" {
			t.Errorf("what waited is %s", got)
		}
	}
}

// leaders are the nodes that say that they lead.
func (y *yard) leaders() (leading []*node) {
	for _, n := range y.nodes {
		if !n.hasEnded() && n.metric("attune_leader") == 1 {
			leading = append(leading, n)
		}
	}
	return leading
}

// running gives the nodes that a sensor runs on.
func (y *yard) running(ref string) (on []*node) {
	for _, n := range y.nodes {
		if n.hasEnded() {
			continue
		}
		if s := n.sensor(ref); s != nil && s.PID != nil && *s.PID != 0 {
			on = append(on, n)
		}
	}
	return on
}

// spread says that each sensor runs on one node, and none has more than its share.
func (y *yard) spread(share int) bool {
	counts := map[*node]int{}
	for _, ref := range []string{"load.a", "load.b", "load.c"} {
		on := y.running(ref)
		if len(on) != 1 {
			return false
		}
		counts[on[0]]++
	}
	for _, n := range counts {
		if n > share {
			return false
		}
	}
	return true
}

// Several daemons on one database: one of them applies, each sensor runs on one of them, and when one
// leaves, the others take over at once.
func TestNodesShareTheWork(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	first := y.node().start()
	y.until("all sensors run", func() bool { return y.spread(3) })
	second := y.node().start()
	y.until("the sensors are spread", func() bool { return y.spread(2) })
	if leading := y.leaders(); len(leading) != 1 || leading[0] != first {
		t.Errorf("%d nodes lead, or the second does", len(leading))
	}
	y.write("load/actions/new.yaml", "name: new\nentry_point: new.sh\n")
	y.write("load/actions/new.sh", "echo new\n")
	y.until("the second node knows what the first applied", func() bool {
		_, _, code := second.run("action", "show", "load.new")
		return code == 0
	})
	if _, errors, code := second.run("pack", "reload"); code == 0 || !strings.Contains(errors, "another node leads") ||
		!strings.Contains(errors, "ask the daemon of node") {
		t.Errorf("the second node reloads: %s", errors)
	}
	second.signal(syscall.SIGHUP)
	y.until("the second node says what its signal came to", func() bool {
		return second.log.count("packs compared with what is in force, and not applied: this node follows") == 1
	})
	// The first node does what the second is asked for.
	second.must("pack", "rollback", "load", "1", "--reason", "new is bad")
	y.write("load/actions/new.sh", "echo newer\n")
	first.must("pack", "reload")
	if row := y.query("SELECT revision.number, pinned_reason FROM attune.pack JOIN attune.revision ON revision.id = revision_id WHERE ref = 'load'"); row[0] != "3 new is bad" {
		t.Errorf("after the second node has rolled back: %v", row)
	}
	second.must("pack", "rollback", "load", "--unpin")
	if got := first.must("run", "load.new"); got != "newer\n" {
		t.Errorf("after the second node has unpinned, the folder's action prints %q", got)
	}
	if code := first.stop(); code != 0 {
		t.Errorf("the first node ended with %d", code)
	}
	y.until("the second node leads, and runs every sensor", func() bool {
		leading := y.leaders()
		return len(leading) == 1 && leading[0] == second && y.spread(3)
	})
	if n := y.query("SELECT count(*) FROM attune.revision")[0]; n != "4" {
		t.Errorf("%s revisions came of three versions and a rollback", n)
	}
}

// F32: two nodes with different trees. What the leader has is in force, nothing flaps, and the other node
// says that it differs; when it comes to lead, it takes nobody back.
func TestF32DifferentTrees(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	behind := filepath.Join(y.dir, "behind")
	y.check(os.CopyFS(behind, os.DirFS(y.packs)))
	first := y.node().start()
	second := y.node(fmt.Sprintf("packs.directory = %q", behind)).start()
	y.write("load/actions/new.yaml", "name: new\nentry_point: new.sh\n")
	y.write("load/actions/new.sh", "echo new\n")
	y.until("the edit is in force", func() bool {
		_, _, code := first.run("action", "show", "load.new")
		return code == 0
	})
	drift := func(n *node) string {
		if s := n.status(); s != nil && len(s.Reconcile.Drift) == 1 {
			return s.Reconcile.Drift[0].Why
		}
		return ""
	}
	y.until("the second node says that it differs", func() bool { return strings.Contains(drift(second), "another node leads") })
	if long {
		y.comes(2*time.Minute, func() bool { return second.metric("attune_pack_hash_mismatch") == 1 })
		if second.metric("attune_pack_hash_mismatch") != 1 || first.metric("attune_pack_hash_mismatch") != 0 {
			t.Error("the metric does not tell which node differs")
		}
	}
	if code := first.stop(); code != 0 {
		t.Errorf("the first node ended with %d", code)
	}
	y.until("the second node leads, and holds its older files", func() bool {
		return len(y.leaders()) == 1 && strings.Contains(drift(second), "those of revision 1")
	})
	if n := y.query("SELECT count(*) FROM attune.revision")[0]; n != "2" {
		t.Errorf("%s revisions came of two versions", n)
	}
	second.must("pack", "reload", "load", "--force")
	if s := second.must("action", "list", "-o", "name"); strings.Contains(s, "load.new") {
		t.Errorf("by force, the older files do not rule: %s", s)
	}
}
