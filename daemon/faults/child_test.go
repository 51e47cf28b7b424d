package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/daemon/api"
)

// F51: each reason why a program cannot be started is told for what it is, with its place, before
// anybody starts it.
func TestF51ProgramsThatCannotStart(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude, `
-- odd/pack.yaml --
ref: odd
version: 1.0.0
`)
	variants := []struct{ name, content, want string }{
		{"crlf", "#!/bin/sh\r\ntrue\r\n", "CRLF"},
		{"noshebang", "true\n", "#!"},
		{"empty", "", "empty"},
		{"nointerpreter", "#!/no/such/interpreter\n", "/no/such/interpreter"},
		{"bom", "\xef\xbb\xbf#!/bin/sh\n", "byte order mark"},
		{"noxbit", "#!/bin/sh\n", "x bit"},
		{"missing", "", "missing"},
	}
	for _, v := range variants {
		y.write("odd/actions/"+v.name+".yaml", "name: "+v.name+"\nrunner_type: native\nentry_point: "+v.name+"\n")
		if v.name == "missing" {
			continue
		}
		y.write("odd/actions/"+v.name, v.content)
		if v.name != "noxbit" {
			y.check(os.Chmod(y.path("odd/actions/"+v.name), 0o755))
		}
	}
	n := y.node().start()
	told := map[string]string{}
	for line := range strings.Lines(n.errorsOf("odd")) {
		for _, v := range variants {
			if strings.Contains(line, "odd/actions/"+v.name+".yaml:") {
				told[v.name] += line
			}
		}
	}
	seen := map[string]string{}
	for _, v := range variants {
		if !strings.Contains(told[v.name], v.want) {
			t.Errorf("%s: told %q, want a word of %q", v.name, told[v.name], v.want)
		}
		_, message, _ := strings.Cut(told[v.name], ": ")
		message = strings.ReplaceAll(message, v.name, "")
		if other, ok := seen[message]; ok {
			t.Errorf("%s and %s are told alike: %s", v.name, other, message)
		}
		seen[message] = v.name
	}
	if out := n.must("run", "rude.fine"); out != "fine\n" {
		t.Errorf("beside them the action printed %q", out)
	}
}

// F52: a program that somebody still writes to in the packs folder runs all the same.
func TestF52ProgramOpenForWriting(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- busy/pack.yaml --
ref: busy
version: 1.0.0
-- busy/actions/act.yaml --
name: act
runner_type: native
entry_point: act
-- busy/actions/act --
#!/bin/sh
echo ran
`)
	y.check(os.Chmod(y.path("busy/actions/act"), 0o755))
	f, err := os.OpenFile(y.path("busy/actions/act"), os.O_WRONLY|os.O_APPEND, 0)
	y.check(err)
	defer f.Close()
	n := y.node().start()
	if out := n.must("run", "busy.act"); out != "ran\n" {
		t.Errorf("it printed %q", out)
	}
}

// F53: a pack's folder that is replaced under a running sensor: the next start is that of the new one.
func TestF53FolderReplacedUnderSensor(t *testing.T) {
	t.Parallel()
	y := newYard(t, `
-- moved/pack.yaml --
ref: moved
version: 1.0.0
-- moved/triggers/never.yaml --
name: never
-- moved/sensors/where.yaml --
name: where
entry_point: where.sh
trigger_types: [never]
-- moved/sensors/where.sh --
cat lib/version >&2; pwd >&2
while :; do sleep 1; done
-- moved/lib/version --
one
`)
	n := y.node().start()
	first := n.sensorPID("moved.where")
	n.until("it has said where it is", func() bool { return strings.Contains(n.must("sensor", "logs", "moved.where"), "one\n") })
	y.shell(`cp -r moved ../new && echo two >../new/lib/version && rm -r moved && mv ../new moved`)
	n.until("the new one runs", func() bool { return strings.Contains(n.must("sensor", "logs", "moved.where"), "two\n") })
	if isAlive(first) {
		t.Errorf("the old process %d lives", first)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", n.sensorPID("moved.where"))); err != nil || strings.HasSuffix(cwd, "(deleted)") || !strings.HasPrefix(cwd, n.state) {
		t.Errorf("it stands in %s, %v", cwd, err)
	}
}

// F54: as many starts as there may be leave nothing behind in the daemon.
func TestF54Leaks(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude, `
-- crash/pack.yaml --
ref: crash
version: 1.0.0
-- crash/actions/crash.yaml --
name: crash
entry_point: crash.sh
-- crash/actions/crash.sh --
echo $RANDOM; echo bad >&2; sleep 100 & kill -SEGV $$
`)
	n := y.node(`exec.workers = 4`).start()
	round := func(count int) {
		var all sync.WaitGroup
		room := make(chan struct{}, 8)
		for i := range count {
			room <- struct{}{}
			all.Go(func() {
				defer func() { <-room }()
				action := "crash.crash"
				if i%2 == 0 {
					action = "rude.closed"
				}
				if _, err := n.client.Execute(t.Context(), api.NewExecution{Action: action}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		n.until("all have ended", func() bool { return n.metric("attune_queue_depth") == 0 && len(n.children()) == 0 })
	}
	measure := func() (fds, goroutines float64, rss int64) {
		m := n.metrics()
		return m.sum("process_open_fds"), m.sum("go_goroutines"), n.rss(n.pid())
	}
	round(40)
	fds, goroutines, rss := measure()
	for left := leakRounds; left > 0; left -= 500 {
		round(min(left, 500))
	}
	n.until("descriptors and goroutines are back", func() bool {
		nowFDs, nowGoroutines, _ := measure()
		return nowFDs <= fds+10 && nowGoroutines <= goroutines+10
	})
	if _, _, now := measure(); now > rss+rss/2+50<<20 {
		t.Errorf("the daemon has grown from %d to %d MiB", rss>>20, now>>20)
	}
}

// F96: what a dead run left is ended at the next start, and no stranger that has one of its numbers.
func TestF96LeftoversOfADeadRun(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude)
	n := y.node().start()
	file := filepath.Join(y.dir, "pid")
	queued, err := n.client.Execute(t.Context(), api.NewExecution{Action: "rude.hang"})
	y.check(err)
	// A child alone may be an interpreter that waits for work.
	n.until("it runs", func() bool { return len(n.working()) > 0 })
	// The keeper would do it: it dies with the daemon here.
	var record struct {
		Keeper struct {
			PID int `json:"pid"`
		} `json:"keeper"`
	}
	run := filepath.Join(n.state, "run.json")
	content, err := os.ReadFile(run)
	y.check(err)
	y.check(json.Unmarshal(content, &record))
	n.signal(syscall.SIGSTOP) // or it would start another
	y.check(syscall.Kill(record.Keeper.PID, syscall.SIGKILL))
	n.kill()
	left := n.children()
	if len(left) == 0 {
		t.Fatal("nothing was left behind")
	}
	// A stranger with the keeper's number, by a record that was forged.
	stranger := y.background(`echo $$ >"$1"; exec sleep 9999`, file)
	y.check(os.WriteFile(run, []byte(strings.ReplaceAll(string(content), strconv.Itoa(record.Keeper.PID), strconv.Itoa(stranger))), 0o600))
	n.start()
	for _, pid := range left {
		if isAlive(pid) {
			t.Errorf("process %d of the dead run lives", pid)
		}
	}
	if !isAlive(stranger) {
		t.Error("a stranger was killed")
	}
	n.until("its execution is told as lost", func() bool {
		e, err := n.client.Execution(t.Context(), queued.ID)
		return err == nil && e.Status == "lost"
	})
}

// background starts a script that the test ends, and gives its process. It stays in the session of the tests, which
// look, too, after what runs their server: an orphan in another session is taken for what one of their children left.
func (y *yard) background(script, file string) int {
	y.Helper()
	y.tool("bash", "-c", `bash -c "$1" bash "$2" >/dev/null 2>&1 </dev/null &`, "bash", script, file)
	pid := 0
	y.until("the process runs", func() bool {
		content, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(content)))
		return err == nil
	})
	y.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	return pid
}

// F97: of two daemons with one state directory the second is refused, and told who is first.
func TestF97OneStateDirectory(t *testing.T) {
	t.Parallel()
	y := newYard(t, rude)
	n := y.node().start()
	began := time.Now()
	out, errs, code := n.run("daemon")
	if code != 1 || !strings.Contains(out+errs, fmt.Sprintf("(pid %d)", n.pid())) {
		t.Errorf("the second daemon: exit %d after %v\n%s%s", code, time.Since(began), out, errs)
	}
	if out := n.must("run", "rude.fine"); out != "fine\n" {
		t.Errorf("with the first one the action printed %q", out)
	}
}
