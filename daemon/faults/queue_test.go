package faults

import (
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/store"
)

// waiting are packs whose actions wait behind one that ends when a file is there.
const waiting = `
-- gate/pack.yaml --
ref: gate
version: 1.0.0
-- gate/actions/gate.yaml --
name: gate
entry_point: gate.sh
parameters: {file: {type: string}}
-- gate/actions/gate.sh --
while [ ! -e "$ATTUNE_ACTION_FILE" ]; do sleep 0.05; done
-- edited/pack.yaml --
ref: edited
version: 1.0.0
-- edited/actions/say.yaml --
name: say
entry_point: say.sh
-- edited/actions/say.sh --
echo old
-- removed/pack.yaml --
ref: removed
version: 1.0.0
-- removed/actions/say.yaml --
name: say
entry_point: say.sh
-- removed/actions/say.sh --
echo removed
`

// F63 and F64: while executions wait, the script of one is edited and the pack of another is removed. The
// first runs what is in force when it starts, and says which revision that was; the second fails and says
// why.
func TestF63EditedF64RemovedWhileQueued(t *testing.T) {
	t.Parallel()
	y := newYard(t, waiting)
	n := y.node("exec.workers = 1").start()
	gate := filepath.Join(y.dir, "gate")
	queue := func(action string, parameters map[string]any) int64 {
		queued, err := n.client.Execute(t.Context(), api.NewExecution{Action: action, Parameters: parameters})
		y.check(err)
		return queued.ID
	}
	first := queue("gate.gate", map[string]any{"file": gate})
	n.until("the only worker is busy", func() bool {
		e, err := n.client.Execution(t.Context(), first)
		return err == nil && e.Status == store.StatusRunning
	})
	edited, removed := queue("edited.say", nil), queue("removed.say", nil)
	before := n.pack("edited").Digest
	y.replace("edited/actions/say.sh", "echo new\n")
	y.remove("removed")
	n.until("both changes are in force", func() bool {
		return y.query("SELECT enabled FROM attune.pack WHERE ref = 'removed'")[0] == "false" && n.pack("edited").Digest != before
	})
	y.write("../gate", "")
	if e := n.finished(edited); e.Status != store.StatusSucceeded || e.Stdout != "new\n" || e.Revision == nil || *e.Revision != n.pack("edited").Digest {
		t.Errorf("the edited one is %s (%s), printed %q, of revision %v", e.Status, problem(e), e.Stdout, e.Revision)
	}
	if e := n.finished(removed); e.Status != store.StatusFailed || !strings.Contains(problem(e), "action no longer exists") {
		t.Errorf("the removed one is %s (%s)", e.Status, problem(e))
	}
}

// F65: one pack has queued very much at once, and another's one waits for no more of it than was claimed or looked
// up when it came.
func TestF65ManyQueued(t *testing.T) {
	t.Parallel()
	y := newYard(t, load, strings.ReplaceAll(waiting, "say", "greet"))
	y.node("exec.workers = 2").start()
	l := y.ledger()
	count := 400
	if long {
		count = 10_000
	}
	l.enqueue("book", count)
	ids, err := l.store.Enqueue(t.Context(), []store.NewExecution{{Action: "edited.greet"}})
	y.check(err)
	y.empties()
	if odd := y.query("SELECT id, status FROM attune.execution WHERE status <> 'succeeded'"); len(odd) > 0 {
		t.Errorf("not succeeded: %q", odd)
	}
	// What one look found, eight times what is claimed at once, was claimed before it, and what was claimed already.
	const slots, stock = 2, 2 * 16
	const most = (8 + 1) * (slots + stock)
	before, err := strconv.Atoi(y.query(`SELECT count(*) FROM attune.execution, (SELECT created_at, started_at FROM attune.execution WHERE id = $1) AS other
		WHERE action_ref = 'load.book' AND execution.started_at > other.created_at AND execution.started_at < other.started_at`, ids[0])[0])
	y.check(err)
	if before > most {
		t.Errorf("the other pack's execution has waited for %d of these, expected at most %d", before, most)
	}
	if n := len(l.starts()); n != count {
		t.Errorf("%d of %d have begun", n, count)
	}
}

// F90: signals in numbers end nothing; SIGINT ends the daemon as SIGTERM does, and a second one hurries.
func TestF90Signals(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	n := y.node(`exec.drain = "1h"`).start()
	for range 100 {
		for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP} {
			n.signal(sig)
		}
	}
	y.write("load/actions/new.yaml", "name: new\nentry_point: new.sh\n")
	y.write("load/actions/new.sh", "echo new\n")
	y.until("it goes on", func() bool { return n.prints("load.new", "new\n") })
	if code := n.stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	n.start()
	l := y.ledger()
	l.enqueue("hold", 1)
	y.until("it runs", func() bool { return len(l.starts()) == 1 })
	n.mayEnd = true
	n.signal(syscall.SIGINT)
	y.until("it drains", func() bool { return n.log.count("stop asked for, running actions may finish") == 2 })
	pause(3 * time.Second) // longer than what counts as an echo of the first
	if n.hasEnded() {
		t.Error("it did not drain")
	}
	n.signal(syscall.SIGTERM)
	if code := n.ended(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	y.until("its children are gone", func() bool { return len(n.children()) == 0 })
}
