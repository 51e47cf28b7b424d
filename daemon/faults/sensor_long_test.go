//go:build faults

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// F33: a killed sensor is back within two seconds, and nobody else is touched.
func TestF33BackInTwoSeconds(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	scripts := map[string]string{}
	for i := range 8 {
		scripts[fmt.Sprintf("s%d", i)] = "while :; do sleep 1; done"
	}
	y.sensors("many", scripts)
	n := y.node().start()
	pids := map[string]int{}
	for name := range scripts {
		pids[name] = n.sensorPID("many." + name)
	}
	for i := range 4 {
		name := fmt.Sprintf("s%d", i)
		killed := time.Now()
		n.check(syscall.Kill(pids[name], syscall.SIGKILL))
		n.until(name+" is back", func() bool {
			s := n.now("many." + name)
			return s.State == "running" && s.PID != nil && *s.PID != pids[name]
		})
		if s := n.now("many." + name); s.StartedAt.Sub(killed) > 2*time.Second {
			t.Errorf("%s came back after %v", name, s.StartedAt.Sub(killed))
		}
		if count := n.metric("attune_sensor_restarts_total", fmt.Sprintf("sensor=%q", "many."+name), `reason="signal"`); count != 1 {
			t.Errorf("%s: %v restarts are counted", name, count)
		}
	}
	for i := 4; i < 8; i++ {
		name := fmt.Sprintf("s%d", i)
		if now := n.sensorPID("many." + name); now != pids[name] {
			t.Errorf("%s was restarted", name)
		}
	}
}

// F41: floods on both streams double nobody's latency.
func TestF41LatencyBesideAFlood(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	const clock = `while :; do echo '{"payload":{"n":'$(date +%s%N)'}}'; sleep 0.05; done`
	y.sensors("flood", map[string]string{"clock": clock})
	n := y.node().start()
	// median gives the middle of the latest hundred times from a line to its event, in milliseconds.
	median := func() float64 {
		before := len(y.said("flood.clock"))
		n.until("a hundred more came", func() bool { return len(y.said("flood.clock")) >= before+100 })
		var list []float64
		for _, text := range y.query(`SELECT (EXTRACT(EPOCH FROM created_at)::float8 * 1000 - (payload->>'n')::float8 / 1000000)::text
			FROM attune.event WHERE source = 'flood.clock' ORDER BY id DESC LIMIT 100`) {
			value, err := strconv.ParseFloat(text, 64)
			y.check(err)
			list = append(list, value)
		}
		slices.Sort(list)
		return list[len(list)/2]
	}
	quiet := median()
	y.sensors("flood", map[string]string{"clock": clock, "out": "exec yes not an event", "err": "exec yes nonsense >&2"})
	n.sensorPID("flood.out")
	n.sensorPID("flood.err")
	n.until("the flood is read", func() bool {
		return n.metric("attune_sensor_bytes_total", `sensor="flood.out"`, `stream="stdout"`) > 20_000 &&
			n.metric("attune_sensor_bytes_total", `sensor="flood.err"`, `stream="stderr"`) > 10<<20
	})
	// Of a millisecond twice as much is nobody's latency.
	if loud := median(); loud > 2*max(quiet, 5) {
		t.Errorf("a line takes %.1f ms, %.1f beside a flood", quiet, loud)
	}
}

// F45: of fifty sensors one is edited, and that one is restarted, once; for a comment none is.
func TestF45OneOfFiftyEdited(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	const total = 50
	scripts := map[string]string{}
	for i := range total {
		scripts[fmt.Sprintf("s%d", i)] = "while :; do sleep 5; done"
	}
	y.sensors("many", scripts)
	n := y.node().start()
	pids := map[string]int{}
	for name := range scripts {
		pids[name] = n.sensorPID("many." + name)
	}
	restarted := func() (names []string) {
		for name, pid := range pids {
			s := n.now("many." + name)
			if s.State != "running" || s.PID == nil || *s.PID != pid || s.Restarts != 0 {
				names = append(names, fmt.Sprintf("%s (%d restarts)", name, s.Restarts))
			}
		}
		return names
	}
	// Comments, and what is written another way: in force, and nobody is restarted for it.
	y.write("many/sensors/s7.yaml", "# A comment.\n"+strings.Replace(y.read("many/sensors/s7.yaml"), "runner_type: shell", "runner_type: \"shell\"", 1))
	n.must("pack", "reload", "many")
	if names := restarted(); len(names) > 0 {
		t.Errorf("for a comment %v were restarted", names)
	}
	y.write("many/sensors/s7.sh", "while :; do sleep 6; done\n")
	n.must("pack", "reload", "many")
	n.until("s7 is another", func() bool {
		s := n.now("many.s7")
		return s.State == "running" && s.PID != nil && *s.PID != pids["s7"]
	})
	if names := restarted(); len(names) != 1 || names[0] != "s7 (1 restarts)" {
		t.Errorf("for an edit of one %v were restarted", names)
	}
}

// F54: thousands of starts of sensors, in order and after crashes, leave nothing behind in the daemon.
func TestF54SensorsLeaveNothing(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.sensors("polls", map[string]string{
		"a": `echo '{"payload":{"n":1}}'; echo done >&2`,
		"b": `sleep 100 & echo '{"payload":{"n":2}}'`,
	}, "poll_interval: 100ms")
	y.sensors("crash", map[string]string{"c": "echo no >&2; kill -SEGV $$", "d": "sleep 100 & exit 1"})
	n := y.node().start()
	starts := func() int { return len(y.said("polls.a")) + len(y.said("polls.b")) }
	measure := func() (fds, goroutines float64, rss int64) {
		m := n.metrics()
		return m.sum("process_open_fds"), m.sum("go_goroutines"), n.rss(n.pid())
	}
	y.long("both have run", func() bool { return starts() > 50 })
	fds, goroutines, rss := measure()
	for starts() < 1000 {
		have := starts()
		for _, name := range []string{"c", "d"} { // forgets its backoff
			n.must("sensor", "restart", "crash."+name)
		}
		n.until("they run on", func() bool { return starts() > have+5 })
	}
	n.until("descriptors and goroutines are what they were", func() bool {
		nowFDs, nowGoroutines, _ := measure()
		return nowFDs <= fds+10 && nowGoroutines <= goroutines+10
	})
	if _, _, now := measure(); now > rss+rss/2 {
		t.Errorf("the daemon has grown from %d to %d MiB", rss>>20, now>>20)
	}
}

// F50: a sensor that is killed for memory is told as that. It runs alone: without a cgroup of its own the kernel's count
// of such kills tells, which is the machine's, and others kill by hand.
func TestF50OutOfMemory(t *testing.T) { //nolint:paralleltest // see above
	needRoot(t)
	group := filepath.Join("/sys/fs/cgroup/memory", "attune-faults-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("no memory cgroup may be made here: %v", err)
	}
	t.Cleanup(func() { os.Remove(group) })
	if err := os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), []byte("50000000"), 0o600); err != nil {
		t.Skip(err)
	}
	y := newYard(t, rude, `
-- fat/pack.yaml --
ref: fat
version: 1.0.0
-- fat/triggers/never.yaml --
name: never
-- fat/sensors/fat.yaml --
name: fat
entry_point: fat.py
trigger_types: [never]
-- fat/sensors/fat.py --
import os
open("`+group+`/cgroup.procs", "w").write(str(os.getpid()))
bytearray(200 << 20)
`)
	n := y.node().start()
	n.until("it was killed for memory", func() bool { return n.metric("attune_sensor_restarts_total", `reason="oom"`) > 0 })
	if out := n.must("run", "rude.fine"); out != "fine\n" {
		t.Errorf("beside it the action printed %q", out)
	}
	y.remove("fat")
}
