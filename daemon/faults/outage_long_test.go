//go:build faults

package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// F70: all processes of the server are frozen. Statements end by their time-outs, nothing piles up, and
// the work goes on when it thaws.
func TestF70ServerFrozen(t *testing.T) {
	t.Parallel()
	y, s := withServer(t, load)
	n := y.node().start()
	l := y.ledger()
	l.enqueue("book", batch())
	l.settle()
	before := n.metric("go_goroutines")
	s.signal(syscall.SIGSTOP)
	y.within(20*time.Second, "the node says that it is not ready", func() bool { return n.answer("/-/ready") == 503 })
	most := 0.0
	for began := time.Now(); time.Since(began) < 20*time.Second; pause(time.Second) {
		most = max(most, n.metric("go_goroutines"))
	}
	if most > before+50 {
		t.Errorf("%v goroutines while nothing is answered, %v before", most, before)
	}
	s.signal(syscall.SIGCONT)
	y.until("it is ready", n.ready)
	l.reopen()
	l.enqueue("book", batch())
	l.settle()
	if n.metric("attune_db_failures_total", `reason="timeout"`) == 0 {
		t.Error("no time-out is counted")
	}
}

// fill writes a file until the disk is full, and gives it.
func (y *yard) fill(dir string) string {
	y.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	y.check(err)
	defer f.Close()
	for _, size := range []int{1 << 20, 4096, 1} {
		block := make([]byte, size)
		for err = nil; err == nil; _, err = f.Write(block) {
		}
		if !strings.Contains(err.Error(), "no space left") {
			y.Fatal(err)
		}
	}
	return name
}

// F74: the server's disk is full, so that it cannot even write its log of changes. What ran meanwhile is
// stored when there is space.
func TestF74ServersDiskFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	y := emptyYard(t)
	y.unpack(patient)
	disk := filepath.Join(y.dir, "disk")
	y.check(os.Mkdir(disk, 0o755))
	y.mount("tmpfs", disk, "tmpfs", "size=220m,mode=755")
	s := newServer(y, filepath.Join(disk, "server"), "max_wal_size=64MB", "min_wal_size=32MB", "wal_recycle=off")
	y.url = s.url()
	s.start()
	n := y.node().start()
	l := y.ledger()
	l.enqueue("wait", 3)
	y.until("they run", func() bool { return len(l.starts()) == 3 })
	filler := y.fill(disk)
	// Others write, too, until the log of changes has no room.
	for range 100 {
		if conn, err := storetest.TryConnect(t.Context(), s.url()); err == nil {
			_, _ = conn.Exec(t.Context(), "SELECT pg_logical_emit_message(FALSE, 'filler', repeat('x', 1000000)) FROM generate_series(1, 20)")
			_ = conn.Close(t.Context())
		}
		if s.hasEnded() {
			break
		}
		pause(100 * time.Millisecond)
	}
	if !s.hasEnded() {
		t.Fatal("the server has survived it")
	}
	l.letGo()
	y.until("what ran has ended", func() bool { return len(n.working()) == 0 })
	pause(2 * time.Second) // in which it tries to store the results
	if code := n.answer("/-/healthy"); code != 200 {
		t.Errorf("alive: %d", code)
	}
	y.check(os.Remove(filler))
	s.start()
	y.until("it is ready", n.ready)
	l.reopen()
	l.enqueue("book", 5)
	l.settle()
	if rows := y.query("SELECT count(*) FROM attune.execution e JOIN attune.output o ON o.execution_id = e.id WHERE status = 'succeeded' AND e.attempt = 1 AND starts_with(o.text, 'result of')"); rows[0] != "3" {
		t.Errorf("%s of 3 results are stored", rows[0])
	}
}

// F75: the daemon's own disk is full. It lives, says so, and works again when there is space.
func TestF75DaemonsDiskFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	y := newYard(t, load)
	n := y.node()
	y.check(os.MkdirAll(n.state, 0o755))
	y.mount("tmpfs", n.state, "tmpfs", "size=32m,mode=755")
	n.start()
	l := y.ledger()
	l.enqueue("book", 3)
	l.settle()
	filler := y.fill(n.state)
	ids := l.enqueue("book", 20)
	y.write("load/actions/new.yaml", "name: new\nentry_point: new.sh\n")
	y.write("load/actions/new.sh", "echo new\n")
	y.until("it is counted", func() bool { return n.metric("attune_reconcile_total", `outcome="failed"`) > 0 })
	y.until("the log says why", func() bool { return strings.Contains(n.log.String(), "no space left on device") })
	pause(5 * time.Second)
	if n.hasEnded() {
		t.Fatalf("the daemon has ended\n%s", y.logs())
	}
	if lines := strings.Count(n.log.String(), "no space left on device"); lines > 200 {
		t.Errorf("%d lines say so", lines)
	}
	y.check(os.Remove(filler))
	l.settle()
	for _, id := range ids {
		if rows := y.query("SELECT status FROM attune.execution WHERE id = " + strconv.FormatInt(id, 10)); !slices.Equal(rows, []string{"succeeded"}) {
			t.Errorf("execution %d: %q", id, rows)
		}
	}
	y.until("the edit is in force", func() bool { return n.prints("load.new", "new\n") })
}

// F77: somebody's transaction stays open, so that nothing can be cleaned up. The work goes on, and a
// metric tells of it.
func TestF77LongTransaction(t *testing.T) {
	t.Parallel()
	y, _ := withServer(t, load)
	n := y.node().start()
	l := y.ledger()
	conn := storetest.Connect(y, y.url)
	_, err := conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ")
	y.check(err)
	_, err = conn.Exec(t.Context(), "SELECT count(*) FROM attune.queue")
	y.check(err)
	for range 5 {
		l.enqueue("book", batch())
		l.settle()
	}
	y.until("it is told", func() bool { return n.metric("attune_db_oldest_xact_seconds") > 5 })
	_, err = conn.Exec(t.Context(), "COMMIT")
	y.check(err)
	y.until("it is over", func() bool { return n.metric("attune_db_oldest_xact_seconds") < 5 })
}

// F77: of what goes through, 70 % is left beside what nobody could clean up for ten minutes, told by the processor
// time that an execution takes of everybody: of the server, the daemon and its child.
func TestF77ThroughputBesideALongTransaction(t *testing.T) {
	t.Parallel()
	y, server := withServer(t, rude, "autovacuum=off") // whose time is nobody's
	n := y.node("exec.workers = 4")
	n.start()
	l := y.ledger()
	c := counted{yard: y, store: l.store, action: "rude.fine", parameters: `{}`}
	took := func() time.Duration {
		const count = 2000
		n.must("run", "rude.fine") // all is there that comes once
		before := server.processorTime() + n.processorTime()
		c.enqueue(count)
		l.empties()
		return (server.processorTime() + n.processorTime() - before) / count
	}
	alone := took()
	n.stop()
	c.count()
	conn := storetest.Connect(y, y.url)
	_, err := conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM attune.queue")
	y.check(err)
	const ended = 200 * 10 * 60 // in ten minutes of the load that a fault is under
	c.enqueue(ended)
	c.touched(ended, 400)
	n.start()
	beside := took()
	t.Logf("an execution takes %v, beside the transaction %v", alone, beside)
	if float64(alone) < 0.7*float64(beside) {
		t.Errorf("an execution takes %v, beside the transaction %v: too little is left of what goes through", alone, beside)
	}
	_, err = conn.Exec(t.Context(), "COMMIT")
	y.check(err)
}

// processorTime is what the server's sessions that live have taken.
func (s *server) processorTime() (sum time.Duration) {
	s.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.cmd.Process.Pid))
	if err != nil {
		s.Fatal(err)
	}
	for pid := range strings.FieldsSeq(string(children)) {
		var ran int64
		if text, err := os.ReadFile("/proc/" + pid + "/schedstat"); err == nil {
			if _, err := fmt.Sscan(string(text), &ran); err != nil {
				s.Fatal(err)
			}
		}
		sum += time.Duration(ran)
	}
	return sum
}

// F79: the daemon's statements are what the server ends to break a deadlock.
func TestF79Deadlock(t *testing.T) {
	t.Parallel()
	y, _ := withServer(t, patient)
	n := y.node("exec.workers = 10").start()
	l := y.ledger()
	conn := storetest.Connect(y, y.url)
	_, err := conn.Exec(t.Context(), "SET deadlock_timeout = '1h'") // the other one is found first
	y.check(err)
	for round := 1; n.metric("attune_db_failures_total", `reason="deadlock"`) == 0; round++ {
		if round > 20 {
			t.Fatal("there was no deadlock")
		}
		y.check(os.RemoveAll(l.path + ".go"))
		started := len(l.starts())
		ids := l.enqueue("wait", 10)
		y.until("they run", func() bool { return len(l.starts()) == started+10 })
		lock := func(ids []int64) {
			// Of the queue, the daemon passes over what is locked; where the same history may come, it waits.
			_, err := conn.Exec(t.Context(), `INSERT INTO attune.execution (id, created_at, action_ref, pack_ref, status, finished_at, parameters)
				SELECT execution_id, created_at, action_ref, pack_ref, 'lost', now(), '{}' FROM attune.queue WHERE execution_id = ANY($1) ORDER BY execution_id`, ids)
			y.check(err)
		}
		_, err := conn.Exec(t.Context(), "BEGIN")
		y.check(err)
		lock(ids[5:])
		l.letGo()
		y.until("the daemon waits for a lock", func() bool {
			return y.query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'attune' AND wait_event_type = 'Lock'")[0] != "0"
		})
		lock(ids[:5])
		_, err = conn.Exec(t.Context(), "ROLLBACK")
		y.check(err)
		l.settle()
	}
}

// bouncer is a PgBouncer before a server.
type bouncer struct {
	server *server
	dir    string
	cmd    *exec.Cmd
}

func (s *server) bouncer() *bouncer {
	s.Helper()
	b := &bouncer{server: s, dir: filepath.Join(s.sockets, "bouncer")}
	config := fmt.Sprintf(`[databases]
postgres = host=%s dbname=postgres user=postgres
[pgbouncer]
pool_mode = transaction
auth_type = any
listen_addr =
unix_socket_dir = %s
default_pool_size = 10
max_client_conn = 100
`, s.sockets, b.dir)
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "ini"), []byte(config), 0o644); err != nil {
		s.Fatal(err)
	}
	if s.owner != nil {
		if err := os.Chown(b.dir, int(s.owner.Uid), int(s.owner.Gid)); err != nil {
			s.Fatal(err)
		}
	}
	s.Cleanup(b.end)
	return b
}

func (b *bouncer) url() string { return "postgres://postgres@/postgres?port=6432&host=" + b.dir }

func (b *bouncer) start() {
	b.server.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer"
	}
	b.cmd = exec.CommandContext(context.WithoutCancel(b.server.Context()), path, filepath.Join(b.dir, "ini"))
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: b.server.owner}
	b.cmd.Stdout, b.cmd.Stderr = b.server.out, b.server.out
	if err := b.cmd.Start(); err != nil {
		b.server.Fatal(err)
	}
}

func (b *bouncer) end() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		b.cmd = nil
	}
}

// F80: a pooler that hands out a connection for one transaction at a time, and is restarted under load.
func TestF80TransactionPooler(t *testing.T) {
	t.Parallel()
	y, s := withServer(t, load)
	b := s.bouncer()
	n := y.node()
	n.must("migrate") // past the pooler
	b.start()
	n.env = append(n.env, "ATTUNE_DATABASE_URL="+b.url(), "ATTUNE_DATABASE_POOLER=transaction")
	n.start()
	l := y.ledger()
	l.enqueue("book", batch())
	l.settle()
	l.enqueue("book", batch())
	for range 3 {
		b.end()
		pause(300 * time.Millisecond)
		b.start()
		l.enqueue("book", batch()/10)
		pause(time.Second)
	}
	l.settle()
	if lines := n.log.count("notifications do not pass a transaction pooler, polling instead"); lines != 1 {
		t.Errorf("%d lines tell of the pooler", lines)
	}
}

// F85: the server's clock is an hour off, or is put an hour forward or back while everybody works. Leases
// are counted by one clock, and nobody's is taken who is seen to live by another: none is found to be over.
func TestF85ServersClock(t *testing.T) {
	t.Parallel()
	libraries, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(libraries) == 0 {
		t.Fatal("there is no libfaketime: run contrib/setup.sh test")
	}
	for name, hours := range map[string]struct{ at, then int }{
		"ahead": {1, 1}, "behind": {-1, -1}, "put forward": {0, 1}, "put back": {0, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := emptyYard(t)
			y.unpack(load)
			s := newServer(y, filepath.Join(y.dir, "server"))
			clock := filepath.Join(s.sockets, "clock")
			set := func(hours int) {
				y.check(os.WriteFile(clock+".new", fmt.Appendf(nil, "%+dh\n", hours), 0o600))
				y.check(os.Chmod(clock+".new", 0o644)) // the server's user reads it, whatever the umask of the tests is
				y.check(os.Rename(clock+".new", clock))
			}
			shows := func(hours int) {
				y.until("the server's clock is as set", func() bool {
					return y.query("SELECT round(extract(epoch FROM now() - $1::timestamptz) / 3600)::int", time.Now().Format(time.RFC3339Nano))[0] == strconv.Itoa(hours)
				})
			}
			set(hours.at)
			s.env = []string{"LD_PRELOAD=" + libraries[0], "FAKETIME_TIMESTAMP_FILE=" + clock, "FAKETIME_CACHE_DURATION=1"}
			y.url = s.url()
			s.start()
			shows(hours.at)
			first, second := y.node().start(), y.node().start()
			pids := map[string]int{}
			y.until("the sensors run, on both", func() bool {
				running := map[*node]int{}
				for _, ref := range []string{"load.a", "load.b", "load.c"} {
					for _, n := range []*node{first, second} {
						if state := n.sensor(ref); state != nil && state.PID != nil && state.State == "running" && slices.Contains(n.children(), *state.PID) {
							pids[ref] = *state.PID
							running[n]++
						}
					}
				}
				return running[first]+running[second] == 3 && len(running) == 2
			})
			l := y.ledger()
			held := l.enqueue("hold", 1)
			l.enqueue("book", 20)
			y.until("it runs", func() bool { return len(l.starts()) == 21 })
			set(hours.then)
			shows(hours.then)
			pause(50 * time.Second) // longer than any lease
			if rows := y.query("SELECT status, attempt FROM attune.queue WHERE execution_id = $1", held[0]); !slices.Equal(rows, []string{"running 1"}) {
				t.Errorf("what runs is %q", rows)
			}
			for ref, pid := range pids {
				if !isAlive(pid) {
					t.Errorf("sensor %s was stopped", ref)
				}
			}
			first.must("execution", "cancel", strconv.FormatInt(held[0], 10))
			l.settle()
		})
	}
}

// F89: a daemon is told to stop while it works. What ends in time has ended, the rest is queued again as
// if it had not been tried.
func TestF89StoppedWhileItWorks(t *testing.T) {
	t.Parallel()
	y := newYard(t, patient)
	n := y.node("exec.workers = 4").start()
	l := y.ledger()
	wait, hold := l.enqueue("wait", 2), l.enqueue("hold", 1)
	y.until("they run", func() bool { return len(l.starts()) == 3 })
	n.mayEnd = true
	n.signal(syscall.SIGTERM)
	y.until("it says so", func() bool { return strings.Contains(n.log.String(), "drain") })
	late := l.enqueue("book", 1) // nobody takes it
	l.letGo()
	if code := n.ended(); code != 0 {
		t.Errorf("exit %d", code)
	}
	for _, id := range wait {
		if rows := y.query("SELECT status, attempt FROM attune.execution WHERE id = $1", id); !slices.Equal(rows, []string{"succeeded 1"}) {
			t.Errorf("what ended in time: %q", rows)
		}
	}
	for _, id := range append(hold, late...) {
		if rows := y.query("SELECT status, attempt - spared FROM attune.queue WHERE execution_id = $1", id); !slices.Equal(rows, []string{"requested 0"}) {
			t.Errorf("what did not end in time: %q", rows)
		}
	}
	if left := n.children(); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

// beating is a sensor that writes down when it lived.
const beating = load + `
-- load/sensors/beat.yaml --
name: beat
entry_point: beat.sh
runner_type: shell
trigger_types: [load.never]
-- load/sensors/beat.sh --
while :; do echo "$(date +%s%3N) $$" >>/proc/$PPID/cwd/../beats; sleep 0.2; done
`

// F91: three nodes are restarted in turn under load. Nothing is lost or done twice, and the sensor runs on
// one node at a time, with short gaps.
func TestF91RollingRestart(t *testing.T) {
	t.Parallel()
	y := newYard(t, beating)
	nodes := []*node{y.node(), y.node(), y.node()}
	for _, n := range nodes {
		n.start()
	}
	l := y.ledger()
	beats := filepath.Join(y.dir, "beats")
	y.until("the sensor lives", func() bool { return exists(beats) })
	for round := range 20 {
		n := nodes[round%len(nodes)]
		l.enqueue("book", 20)
		if code := n.stop(); code != 0 {
			t.Errorf("exit %d", code)
		}
		l.enqueue("book", 20)
		n.start()
	}
	l.settle()
	text, err := os.ReadFile(beats)
	y.check(err)
	var last int64
	var pid string
	gone := map[string]bool{}
	longest := int64(0)
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		at, err := strconv.ParseInt(words[0], 10, 64)
		y.check(err)
		if words[1] != pid {
			gone[pid] = true
			pid = words[1]
		}
		if gone[pid] {
			t.Fatalf("two of the sensor ran at once: %s", line)
		}
		if last != 0 {
			longest = max(longest, at-last)
		}
		last = at
	}
	t.Logf("%d processes of the sensor, longest gap %d ms", len(gone), longest)
	if longest > 5000 {
		t.Errorf("the sensor did not run for %d ms", longest)
	}
}

// F71 and F88: the network swallows everything and ends nothing. The node notices, kills what it can no
// longer answer for before its leases end, and goes on when the network is back.
func TestF71F88NodeCutOff(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	n, p := y.behindProxy()
	l := y.ledger()
	l.enqueue("hold", 1)
	y.until("it runs", func() bool { return len(l.starts()) == 1 })
	p.blackhole(true)
	y.within(20*time.Second, "the node says that it is not ready", func() bool { return !n.ready() })
	y.within(30*time.Second, "what it can no longer answer for is dead", func() bool { return len(n.children()) == 0 })
	if n.metric("attune_self_fence_total") == 0 {
		t.Error("it is not counted")
	}
	p.blackhole(false)
	l.enqueue("book", 5)
	l.settle()
}

// F87: a node is frozen for longer than its leases last, and goes on. Others have taken over; its
// children were killed first, and what it has to say changes nothing.
func TestF87FrozenNode(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	frozen := y.node("exec.workers = 1").start()
	l := y.ledger()
	l.enqueue("again", 1)
	y.until("it runs", func() bool { return len(l.starts()) == 1 })
	began := time.Now()
	frozen.signal(syscall.SIGSTOP)
	awake := y.node("exec.workers = 1")
	awake.launch()
	y.until("its children are gone", func() bool { return len(frozen.children()) == 0 })
	if took := time.Since(began); took > store.LeaseDuration {
		t.Errorf("its children lived %v", took)
	}
	y.until("another node has taken over", func() bool { return len(l.starts()) == 2 })
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("another node took over after %v", took)
	}
	y.until("the other leads, and runs every sensor", func() bool { return awake.metric("attune_leader") == 1 })
	frozen.signal(syscall.SIGCONT)
	l.settle()
	y.until("the first is back, and one leads", func() bool { return len(y.leaders()) == 1 && y.spread(2) })
}

// F83: the database's schema is newer than the binary, or older. A daemon refuses the newer one with both
// versions, whatever runs there goes on; the older one it brings up to date.
func TestF83OtherSchema(t *testing.T) {
	t.Parallel()
	y := newYard(t, load)
	y.url = storetest.NewEmptyURL(t)
	first, second := y.node().start(), y.node()
	known := y.query("SELECT max(version_id) FROM attune.schema_version")[0]
	if known == "0" {
		t.Error("an empty database was not brought up to date")
	}
	y.exec("INSERT INTO attune.schema_version (version_id, is_applied) VALUES (9999, TRUE)")
	second.launch()
	if code := second.ended(); code != 1 {
		t.Errorf("the older daemon ended with %d", code)
	}
	for _, text := range []string{"newer than this binary", "has version 9999", "knows up to " + known} {
		if !strings.Contains(second.log.String(), text) {
			t.Errorf("the older daemon does not say %q: %s", text, second.log)
		}
	}
	l := y.ledger()
	l.enqueue("book", 5)
	l.settle()
	if first.hasEnded() {
		t.Error("the one that ran has ended")
	}
	y.exec("DELETE FROM attune.schema_version WHERE version_id = 9999")
	second.start()
}

// counted is work on the queue of a server that nobody else uses, told by the blocks that it touches: how long they
// take depends on the machine and on who else is there.
type counted struct {
	*yard
	store  *store.Store
	action string
	// parameters are JSON.
	parameters string
	// queued, updated and ended are the rows that were written so far.
	queued, updated, ended int
}

func (c *counted) enqueue(count int) {
	c.Helper()
	const chunk = 20_000
	list := make([]store.NewExecution, min(count, chunk))
	for i := range list {
		list[i] = store.NewExecution{Action: c.action, Parameters: []byte(c.parameters)}
	}
	for ; count > 0; count -= len(list) {
		_, err := c.store.Enqueue(c.Context(), list[:min(count, chunk)])
		c.check(err)
		c.queued += min(count, chunk)
	}
}

// touched gives how many blocks of the queue an execution touches between its claim and its end, of so many that go
// through it between two vacuums, some together. The vacuum itself reads all that waits, by its nature: it is no part of
// this.
func (c *counted) touched(count, each int) float64 {
	c.Helper()
	conn := storetest.Connect(c, c.url)
	for _, statement := range []string{"VACUUM attune.queue", "SELECT pg_stat_force_next_flush()", "SELECT"} { // what it has touched is told at once
		_, err := conn.Exec(c.Context(), statement)
		c.check(err)
	}
	before := c.blocks()
	for range count / each {
		claimed, err := c.store.Claim(c.Context(), "test", each)
		c.check(err)
		if len(claimed) != each {
			c.Fatalf("claimed %d of %d", len(claimed), each)
		}
		outcomes := make([]store.Outcome, each)
		tokens := make([]string, each)
		for i, c := range claimed {
			outcomes[i], tokens[i] = store.Outcome{Token: c.Token, Status: store.StatusSucceeded}, c.Token
		}
		_, err = c.store.Start(c.Context(), tokens)
		c.check(err)
		_, err = c.store.Finish(c.Context(), outcomes)
		c.check(err)
		c.updated += 2 * each // the claim and the start
		c.ended += each
	}
	return (c.blocks() - before) / float64(count)
}

// count takes what was ended by others for its own.
func (c *counted) count() {
	c.Helper()
	var err error
	c.ended, err = strconv.Atoi(c.query("SELECT count(*) FROM attune.execution")[0])
	c.check(err)
	c.queued = c.ended
	c.updated, err = strconv.Atoi(c.query("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'queue'")[0])
	c.check(err)
}

func (c *counted) blocks() float64 {
	c.Helper()
	// Each session tells what it has touched up to ten seconds later, with the rows that it wrote.
	all := fmt.Sprintf("SELECT (n_tup_ins >= %d AND n_tup_upd >= %d AND n_tup_del >= %d)::integer FROM pg_stat_user_tables WHERE relname = 'queue'", c.queued, c.updated, c.ended)
	c.until("what was done is counted", func() bool { return c.query(all)[0] == "1" })
	n, err := strconv.ParseFloat(c.query("SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_user_tables WHERE relname = 'queue'")[0], 64)
	c.check(err)
	return n
}

// F84: a million wait, and autovacuum is off. A claim touches no more of the queue than it did when little
// waited: how long that takes depends on the machine, what it touches does not, where no time passes in which a look
// at the queue grows old.
func TestF84MillionQueuedNoVacuum(t *testing.T) {
	t.Parallel()
	y, _ := withServer(t, load, "autovacuum=off")
	y.node().start().stop()
	began := time.Now()
	standing := storetest.Open(y, y.ledgerURL(), func(o *store.Options) { o.Now = func() time.Time { return began } })
	c := counted{yard: y, store: standing, action: "load.book", parameters: `{"ledger": "x"}`}
	c.enqueue(7000)
	few := c.touched(5000, 20)
	c.enqueue(1_000_000)
	many := c.touched(5000, 20)
	t.Logf("an execution touches %.1f blocks where little waits, %.1f where a million does", few, many)
	const deeper = 1.25 // an index of a million is a level deeper than one of few
	if many > deeper*few {
		t.Errorf("an execution touches %.1f blocks where a million waits, %.1f where little does", many, few)
	}
}
