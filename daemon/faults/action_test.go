package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// rude is a pack of actions that behave badly.
const rude = `
-- rude/pack.yaml --
ref: rude
version: 1.0.0
-- rude/actions/fine.yaml --
name: fine
entry_point: fine.sh
-- rude/actions/fine.sh --
echo fine
-- rude/actions/binary.yaml --
name: binary
entry_point: binary.sh
-- rude/actions/binary.sh --
echo begin; head -c 80M /dev/urandom; echo; echo end
-- rude/actions/deaf.yaml --
name: deaf
entry_point: deaf.sh
parameters: {text: {type: string}}
-- rude/actions/deaf.sh --
echo did not listen
-- rude/actions/count.yaml --
name: count
entry_point: count.sh
parameters: {text: {type: string}}
-- rude/actions/count.sh --
echo "$ATTUNE_PARAMETER_DELIVERY ${#ATTUNE_ACTION_TEXT} $(wc -c)"
-- rude/actions/closed.yaml --
name: closed
entry_point: closed.sh
-- rude/actions/closed.sh --
exec <&- >&- 2>&-; sleep 0.2; exit 7
-- rude/actions/daemonize.yaml --
name: daemonize
entry_point: daemonize.sh
parameters: {pidfile: {type: string}}
-- rude/actions/daemonize.sh --
nohup setsid sh -c 'setsid sleep 9999 & echo $! >"$0.new"; mv "$0.new" "$0"; wait' "$ATTUNE_ACTION_PIDFILE" >/dev/null 2>&1 &
while [ ! -e "$ATTUNE_ACTION_PIDFILE" ]; do sleep 0.01; done
-- rude/actions/detach.yaml --
name: detach
entry_point: daemonize.sh
detach: true
parameters: {pidfile: {type: string}}
-- rude/actions/stubborn.yaml --
name: stubborn
entry_point: stubborn.sh
timeout: 1
-- rude/actions/stubborn.sh --
trap '' TERM INT HUP
(trap '' TERM; setsid sleep 9999) &
while :; do sleep 0.1; done
-- rude/actions/wait.yaml --
name: wait
entry_point: wait.sh
parameters: {for: {type: string}}
-- rude/actions/wait.sh --
until [ -e "$ATTUNE_ACTION_FOR" ]; do sleep 0.05; done; echo done
-- rude/actions/hang.yaml --
name: hang
entry_point: hang.sh
retry: {max_attempts: 2, delay: 0}
-- rude/actions/hang.sh --
echo $$; sleep 9999
-- rude/actions/result.yaml --
name: result
entry_point: result.py
parameters: {kind: {type: string}, file: {type: boolean}}
-- rude/actions/result.py --
import os, sys
kind = os.environ["ATTUNE_ACTION_KIND"]
out = open(os.environ["ATTUNE_RESULT_FILE"], "wb") if os.environ["ATTUNE_ACTION_FILE"] == "true" else sys.stdout.buffer
out.write({
    "nul": b'{"a": "x\\u0000y\x00z"}', "latin": b'{"a": "\xe9\xff"}', "surrogate": b'{"a": "\\ud800"}', "number": b'{"a": 1e200000}',
    "deep": b'[' * 20000 + b']' * 20000, "huge": b'{"a": "' + b'x' * 30000000 + b'"}', "half": b'{"a": ', "twice": b'{} {}',
}[kind])
out.flush()
`

func (n *node) execute(e api.NewExecution) *api.ExecutionDetail {
	n.Helper()
	queued, err := n.client.Execute(n.Context(), e)
	n.check(err)
	return n.finished(queued.ID)
}

// finished waits for the end of an execution.
func (n *node) finished(id int64) *api.ExecutionDetail {
	n.Helper()
	var e *api.ExecutionDetail
	n.until(fmt.Sprintf("execution %d has ended", id), func() bool {
		var err error
		e, err = n.client.Execution(n.Context(), id)
		return err == nil && e.Status.Final()
	})
	return e
}

func problem(e *api.ExecutionDetail) string {
	if e.Error == nil {
		return ""
	}
	return *e.Error
}

// F55 to F61: whatever an action does, it ends, is told of, and leaves nothing.
func TestF55ToF61RudeActions(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude)
	n := y.node(`exec.stop_grace = "1s"`).start()
	run := func(action string, parameters map[string]any) *api.ExecutionDetail {
		return n.execute(api.NewExecution{Action: "rude." + action, Parameters: parameters})
	}
	expect := func(e *api.ExecutionDetail, status store.Status, stdout, problems string) {
		t.Helper()
		if e.Status != status || stdout != "*" && e.Stdout != stdout || !strings.Contains(problem(e), problems) {
			t.Errorf("%s is %s (%s), want %s (%s); stdout %q, stderr %q", e.Action, e.Status, problem(e), status, problems, e.Stdout, e.Stderr)
		}
	}
	run("fine", nil) // so that what comes once has been taken
	before := n.rss(n.pid())

	// F57: 80 MB of noise.
	e := run("binary", nil)
	expect(e, store.StatusSucceeded, "*", "")
	if !e.StdoutTruncated || !strings.HasPrefix(e.Stdout, "begin\n") || !strings.HasSuffix(e.Stdout, "\nend\n") || !strings.Contains(e.Stdout, "bytes left out") {
		t.Errorf("of binary output %d bytes were kept, truncated %v", len(e.Stdout), e.StdoutTruncated)
	}
	// F58: results that are none.
	for _, kind := range []string{"nul", "latin", "surrogate", "number", "deep", "huge", "half", "twice"} {
		for _, file := range []bool{false, true} {
			e := run("result", map[string]any{"kind": kind, "file": file})
			if !e.Status.Final() || e.ExitCode == nil || *e.ExitCode != 0 || strings.ContainsRune(e.Stdout, 0) {
				t.Errorf("result %s, by file %v: %s, %s", kind, file, e.Status, problem(e))
			}
			if file && slices.Contains([]string{"deep", "huge", "half", "twice"}, kind) {
				expect(e, store.StatusFailed, "", "cannot use the result file: ")
			}
		}
	}
	// F59 and F60: input that is not read, and more than an environment holds.
	text := strings.Repeat("x", 900_000)
	expect(run("deaf", map[string]any{"text": text}), store.StatusSucceeded, "did not listen\n", "")
	expect(run("count", map[string]any{"text": text}), store.StatusSucceeded, "stdin 0 "+strconv.Itoa(len(text)+len(`{"text":""}`+"\n"))+"\n", "")
	expect(run("count", map[string]any{"text": "x"}), store.StatusSucceeded, "both 1 13\n", "")
	_, err := n.client.Execute(t.Context(), api.NewExecution{Action: "rude.count", Parameters: map[string]any{"text": strings.Repeat("x", 10<<20)}})
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("10 MB of parameters: %.1000v", err)
	}
	// Streams that are closed say nothing about the end.
	e = run("closed", nil)
	if expect(e, store.StatusFailed, "", "exit 7"); e.ExitCode == nil || *e.ExitCode != 7 {
		t.Errorf("with closed streams the exit code is %v", e.ExitCode)
	}
	// F61: who backgrounds a process that should live on has to say so.
	for action, lives := range map[string]bool{"daemonize": false, "detach": true} {
		file := filepath.Join(y.dir, action)
		expect(run(action, map[string]any{"pidfile": file}), store.StatusSucceeded, "", "")
		content, err := os.ReadFile(file)
		y.check(err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
		y.check(err)
		if isAlive(pid) != lives {
			t.Errorf("%s: process %d lives: %v, want %v", action, pid, !lives, lives)
		}
		if lives {
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		}
	}
	detached := len(n.children())
	// F55: time is up for one that does not want to go.
	e = run("stubborn", nil)
	if expect(e, store.StatusTimedOut, "", "timed out after 1s"); e.Signal == nil || *e.Signal != "SIGKILL" {
		t.Errorf("the stubborn one ended by %v", e.Signal)
	}
	// F56: a kill by somebody else, twice.
	queued, err := n.client.Execute(t.Context(), api.NewExecution{Action: "rude.hang"})
	y.check(err)
	for attempt := 1; attempt <= 2; attempt++ {
		pid := 0
		n.until(fmt.Sprintf("attempt %d runs", attempt), func() bool {
			for _, p := range n.children() {
				environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p))
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
				if err == nil && strings.Contains(string(environ), "ATTUNE_ATTEMPT="+strconv.Itoa(attempt)+"\x00") && strings.Contains(string(cmdline), "hang.sh") {
					pid = p
				}
			}
			return pid != 0
		})
		y.check(syscall.Kill(pid, syscall.SIGKILL))
	}
	e = n.finished(queued.ID)
	if expect(e, store.StatusFailed, "*", "killed by SIGKILL, which Attune did not send"); len(e.Attempts) != 2 || e.Signal == nil || *e.Signal != "SIGKILL" {
		t.Errorf("after two kills: %+v", e.Attempts)
	}

	n.until("nothing is left of them", func() bool { return len(n.children()) <= detached })
	if grown := n.rss(n.pid()) - before; grown > 150<<20 {
		t.Errorf("the daemon has grown by %d MiB", grown>>20)
	}
	expect(run("fine", nil), store.StatusSucceeded, "fine\n", "")
}

// F49: a fork bomb is bounded, and its sensor can be stopped; everybody else goes on.
func TestF49ForkBomb(t *testing.T) {
	t.Parallel()
	needRoot(t)
	y := newYard(t, rude, `
-- bomb/pack.yaml --
ref: bomb
version: 1.0.0
-- bomb/triggers/never.yaml --
name: never
-- bomb/sensors/bomb.yaml --
name: bomb
entry_point: bomb.sh
trigger_types: [never]
run_as: games
limits: {pids: 40}
-- bomb/sensors/bomb.sh --
# Unbounded it would take this machine with it.
if [ "$(ulimit -u)" != 40 ]; then echo "not bounded" >&2; sleep 9999; fi
b() { b | b & sleep 9999; }; b
`)
	n := y.node()
	y.check(os.Chmod(n.home, 0o755))
	n.start()
	n.until("the bomb has gone off", func() bool {
		return len(n.children()) >= 20 || strings.Contains(n.must("sensor", "logs", "bomb.bomb"), "fork")
	})
	if log := n.must("sensor", "logs", "bomb.bomb"); strings.Contains(log, "not bounded") {
		t.Fatal("the sensor is not bounded")
	}
	if out := n.must("run", "rude.fine"); out != "fine\n" {
		t.Errorf("beside the bomb the action printed %q", out)
	}
	y.remove("bomb/sensors/bomb.yaml")
	n.until("nothing is left of it", func() bool { return len(n.children()) == 0 })
}

// F95: without descriptors nothing is lost, and all goes on when there are some.
func TestF95FewDescriptors(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude)
	n := y.node(`exec.workers = 40`)
	n.wrap = []string{"prlimit", "--nofile=64:64"}
	n.start()
	const count = 40
	file := filepath.Join(y.dir, "go on")
	one := api.NewExecution{Action: "rude.wait", Parameters: map[string]any{"for": file}}
	_, err := n.client.ExecuteBatch(t.Context(), slices.Repeat([]api.NewExecution{one}, count))
	y.check(err)
	// None ends before there are too many, however slowly they start.
	const short = "cannot start children, nothing is claimed until that works again"
	n.until("descriptors are short", func() bool { return n.log.count(short) > 0 })
	y.check(os.WriteFile(file, nil, 0o644))
	n.until("it takes one more", func() bool { _, err := n.client.Execute(t.Context(), one); return err == nil })
	n.until("all have succeeded", func() bool {
		return slices.Equal(y.query("SELECT count(*) FROM execution WHERE status = 'succeeded'"), []string{strconv.Itoa(count + 1)})
	})
	if n.metric("attune_start_shortages_total", `shortage="files"`) == 0 {
		t.Error("no shortage was counted")
	}
	if n.log.count("children are started again") == 0 {
		t.Errorf("the log does not tell of it:\n%s", n.log)
	}
	if n.hasEnded() {
		t.Error("the daemon has ended")
	}
}

// F62: a cancel at any moment has one outcome.
func TestF62CancelAtAnyMoment(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude)
	n := y.node(`exec.workers = 4`).start()
	const count = cancelRounds
	var all sync.WaitGroup
	room := make(chan struct{}, 8)
	for range count {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			queued, err := n.client.Execute(t.Context(), api.NewExecution{Action: "rude.fine"})
			if err != nil {
				t.Error(err)
				return
			}
			pause(time.Duration(rand.N(60)) * time.Millisecond)
			if _, err := n.client.Cancel(t.Context(), queued.ID); err != nil {
				if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Code != api.CodeConflict {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	n.until("all have ended", func() bool {
		return slices.Equal(y.query("SELECT count(*) FROM execution WHERE finished_at IS NOT NULL"), []string{strconv.Itoa(count)})
	})
	if odd := y.query("SELECT id, status FROM execution WHERE status NOT IN ('succeeded', 'cancelled')"); len(odd) > 0 {
		t.Errorf("neither done nor cancelled: %q", odd)
	}
	if odd := y.query("SELECT execution_id FROM attempt GROUP BY execution_id HAVING count(*) > 1 OR count(*) FILTER (WHERE status = 'running') > 0"); len(odd) > 0 {
		t.Errorf("more than one outcome: %q", odd)
	}
	n.until("nothing is left of them", func() bool { return len(n.children()) == 0 })
}

// F93: a daemon that is killed while it migrates, or while it applies its first packs, leaves nothing
// that the next start cannot finish.
func TestF93KilledWhileStarting(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude)
	url := storetest.NewEmptyURL(t)
	n := y.node()
	n.env = append(n.env, "ATTUNE_DATABASE_URL="+url)
	for range 12 {
		n.launch()
		// No moment is known from outside: with many, each step is met.
		pause(time.Duration(rand.N(400)) * time.Millisecond)
		n.kill()
	}
	n.start()
	if out := n.must("run", "rude.fine"); out != "fine\n" {
		t.Errorf("the action printed %q", out)
	}
	conn := storetest.Connect(t, url)
	var revisions, versions int
	y.check(conn.QueryRow(context.WithoutCancel(t.Context()), "SELECT (SELECT count(*) FROM attune.revision), (SELECT count(DISTINCT version_id) FROM attune.schema_version)").Scan(&revisions, &versions))
	if revisions != 1 || versions < 2 {
		t.Errorf("%d revisions, %d migrations", revisions, versions)
	}
}
