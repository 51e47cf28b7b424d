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

	"github.com/attune-io/attune/daemon/api"
)

// sensors makes a pack whose sensors are these shell scripts, all on one trigger of their own.
func (y *yard) sensors(pack string, scripts map[string]string, keys ...string) {
	y.Helper()
	for name, script := range scripts {
		y.write(pack+"/sensors/"+name+".sh", script+"\n")
		y.write(pack+"/sensors/"+name+".yaml", fmt.Sprintf("name: %s\nrunner_type: shell\nentry_point: %s.sh\ntrigger_types: [%s.said]\n%s",
			name, name, pack, strings.Join(keys, "\n")))
	}
	y.write(pack+"/triggers/said.yaml", "name: said\n")
	y.replace(pack+"/pack.yaml", "ref: "+pack+"\nversion: 1.0.0\n")
}

// said gives what a sensor's events say, in the order in which they are stored.
func (y *yard) said(sensor string) []string {
	y.Helper()
	return y.query("SELECT payload->>'n' FROM attune.event WHERE source = $1 ORDER BY id", sensor)
}

// counts is what a sensor says that counts from 1, for ever or until it is stopped: each number is an
// event, and the last ones come after TERM.
const counts = `n=0
say() { n=$((n+1)); echo '{"event_id":"'$$-$n'","payload":{"n":'$n'}}'; }
trap 'say; say; exit 0' TERM
while :; do say; sleep 0.05 & wait; done`

// now gives what is known of a sensor; where nothing is, all of it is zero.
func (n *node) now(ref string) api.Sensor {
	if s := n.sensor(ref); s != nil {
		return *s
	}
	return api.Sensor{}
}

// long waits like until, for what hundreds of processes have to do.
func (y *yard) long(what string, condition func() bool) {
	y.Helper()
	if !y.comes(5*patience, condition) {
		y.Fatalf("waited in vain until %s\n%s", what, y.logs())
	}
}

// inOrder complains unless the numbers are 1, 2, 3 … once each; a new process begins at 1 again.
func inOrder(t *testing.T, numbers []string) (processes int) {
	t.Helper()
	want := 1
	for _, text := range numbers {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("no number: %q", text)
		}
		if n == 1 {
			want = 1
			processes++
		}
		if n != want {
			t.Fatalf("%d follows %d", n, want-1)
		}
		want++
	}
	return processes
}

// F33 to F36: sensors that are killed, that end at once, and that are mended while they wait.
func TestF33KilledF34F36EndingF35Mended(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.sensors("ending", map[string]string{
		"killed": "while :; do sleep 1; done",
		"beside": "while :; do sleep 1; done",
		"fails":  "echo no such host >&2; exit 1",
		"ends":   "exit 0",
	})
	killed, beside := n.sensorPID("ending.killed"), n.sensorPID("ending.beside")
	n.check(syscall.Kill(killed, syscall.SIGKILL))
	n.until("it is back", func() bool {
		s := n.now("ending.killed")
		return s.State == "running" && s.PID != nil && *s.PID != killed
	})
	if n.metric("attune_sensor_restarts_total", `sensor="ending.killed"`, `reason="signal"`) < 1 {
		t.Error("the restart is not counted as one after a signal")
	}
	for _, name := range []string{"fails", "ends"} {
		n.until(name+" waits longer each time", func() bool {
			s := n.now("ending." + name)
			return s.State == "backoff" && s.Restarts >= 2 && s.NextStart != nil
		})
	}
	// Each start comes at its time after the one before: 50 ms, then a second, and a quarter less at most.
	for _, name := range []string{"fails", "ends"} {
		begun := n.told("sensor started", "ending."+name)
		if again, third := begun[1].Sub(begun[0]), begun[2].Sub(begun[1]); again < 37*time.Millisecond || third < 750*time.Millisecond {
			t.Errorf("%s was started again after %v, and then after %v", name, again, third)
		}
	}
	fails := n.now("ending.fails")
	if !slices.Contains(fails.Stderr, "no such host") || !strings.Contains(fails.LastExit, "1") {
		t.Errorf("it is shown with the exit %q and the words %q", fails.LastExit, fails.Stderr)
	}
	// Mended, it does not wait for its time, and its failures are forgotten.
	n.replace("ending/sensors/fails.sh", "while :; do sleep 1; done\n") // in one step: others have this node scan at any moment
	mended := n.sensorPID("ending.fails")
	if n.metric("attune_sensor_restarts_total", `sensor="ending.fails"`, `reason="changed"`) < 1 {
		t.Error("its start is not counted as one for a change")
	}
	n.check(syscall.Kill(mended, syscall.SIGKILL))
	n.until("it is back", func() bool {
		s := n.now("ending.fails")
		return s.State == "running" && s.PID != nil && *s.PID != mended
	})
	ends := n.log.lines("sensor ended")
	ends = slices.DeleteFunc(ends, func(l map[string]any) bool { return l["sensor"] != "ending.fails" })
	if wait := moment(t, ends[len(ends)-1], "next_start").Sub(moment(t, ends[len(ends)-1], "time")); wait > 500*time.Millisecond {
		t.Errorf("after it was mended it waits for %v", wait)
	}
	if now := n.sensorPID("ending.beside"); now != beside {
		t.Errorf("its neighbour was restarted: %d, then %d", beside, now)
	}
}

// told gives the times of a sensor's lines of the log.
func (n *node) told(message, ref string) (times []time.Time) {
	n.Helper()
	for _, line := range n.log.lines(message) {
		if line["sensor"] == ref {
			times = append(times, moment(n, line, "time"))
		}
	}
	return times
}

// moment reads a time of a line of the log.
func moment(t testing.TB, line map[string]any, key string) time.Time {
	t.Helper()
	text, _ := line[key].(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatalf("no %s in %v", key, line)
	}
	return at
}

// F37 to F40: sensors that do not want to end, and those that leave somebody behind.
func TestF37IgnoresTermF38StoppedF39DaemonsF40KeptOutput(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.sensors("rude", map[string]string{
		"stays":   "trap '' TERM\necho one >&2\nwhile :; do sleep 1; done",
		"frozen":  "while :; do echo '{\"type\":\"heartbeat\"}'; sleep 0.2; done",
		"forks":   "( setsid sh -c 'sleep 9999 & sleep 9999' & )\nwhile :; do sleep 1; done",
		"keeps":   "sleep 9999 &\nexit 1",
		"healthy": "while :; do sleep 1; done",
	}, "watchdog: 3s")
	// Only one of them has consented to be watched.
	for _, name := range []string{"stays", "forks", "keeps", "healthy"} {
		manifest := strings.ReplaceAll(y.read("rude/sensors/"+name+".yaml"), "watchdog: 3s", "")
		y.write("rude/sensors/"+name+".yaml", manifest)
	}
	n := y.node().start()

	// F40: an exit is one, whoever holds the output.
	n.until("the exit is noticed, more than once", func() bool {
		s := n.now("rude.keeps")
		return s.Restarts >= 2
	})

	// F38: a process that was stopped says nothing, and can be ended nevertheless.
	frozen := n.sensorPID("rude.frozen")
	n.check(syscall.Kill(frozen, syscall.SIGSTOP))
	n.until("it is restarted", func() bool {
		s := n.now("rude.frozen")
		return s.State == "running" && s.PID != nil && *s.PID != frozen
	})
	if n.metric("attune_sensor_restarts_total", `sensor="rude.frozen"`, `reason="watchdog"`) < 1 {
		t.Error("the restart is not counted as the watchdog's")
	}
	if isAlive(frozen) {
		t.Error("the stopped process is still there")
	}

	// F37: the new one starts after the old one is dead.
	old := n.sensorPID("rude.stays")
	n.replace("rude/sensors/stays.sh", fmt.Sprintf("kill -0 %d 2>/dev/null && echo both >&2\necho two >&2\nwhile :; do sleep 1; done\n", old))
	n.until("the new one runs", func() bool { return strings.Contains(n.must("sensor", "logs", "rude.stays"), "two\n") })
	if logs := n.must("sensor", "logs", "rude.stays"); strings.Contains(logs, "both") {
		t.Errorf("old and new ran together:\n%s", logs)
	}

	// F39: with the sensor goes all that it ever started.
	n.sensorPID("rude.forks")
	n.until("there is a process in a session of its own", func() bool { return len(n.children()) > 5 })
	n.remove("rude")
	n.until("nothing is left", func() bool { return len(n.children()) == 0 })
	if found := n.log.lines("killed a process that had outlived its child"); len(found) > 0 {
		t.Errorf("what sensors left behind was only found later: %v", found)
	}
}

// F41: a sensor that floods stdout, and one that floods stderr, take nothing from the others, and do not
// fill the daemon's memory.
func TestF41Flood(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.sensors("flood", map[string]string{"counts": counts})
	n := y.node().start()
	n.until("it counts", func() bool { return len(y.said("flood.counts")) > 20 })
	// What the race detector keeps beside the heap grows with whatever is done: without it all that the process has
	// counts, with it what Go has taken for the program.
	memory := func() int64 {
		if long {
			return n.rss(n.pid())
		}
		return int64(n.metric("go_memstats_heap_inuse_bytes") + n.metric("go_memstats_stack_inuse_bytes"))
	}
	before := memory()
	y.sensors("flood", map[string]string{"counts": counts, "out": "exec yes not an event", "err": "exec yes nonsense >&2"})
	n.sensorPID("flood.out")
	n.sensorPID("flood.err")
	n.until("the flood is counted", func() bool {
		return n.metric("attune_sensor_lines_total", `sensor="flood.out"`, `outcome="bad"`) > 3000 &&
			n.metric("attune_sensor_bytes_total", `sensor="flood.out"`, `stream="stdout"`) > 3000*13 &&
			n.metric("attune_sensor_bytes_total", `sensor="flood.err"`, `stream="stderr"`) > 0
	})
	have := len(y.said("flood.counts"))
	n.until("its neighbour counts on", func() bool { return len(y.said("flood.counts")) > have+20 })
	inOrder(t, y.said("flood.counts"))
	if grown := memory() - before; grown > 20<<20 {
		t.Errorf("the daemon has grown by %d MiB", grown>>20)
	}
	if logged := n.log.count("sensor printed no event"); logged > 50 {
		t.Errorf("it was logged %d times", logged)
	}
}

// F42 and F43: lines that are too long, that are not JSON, not text, not whole, too deep, or hold what
// PostgreSQL cannot: they are counted, and the events between them are stored.
func TestF42LongLinesF43BadLines(t *testing.T) {
	t.Parallel()
	y := newYard(t) // its events are counted
	n := y.node().start()
	size := 20 << 20
	if long {
		size = 100 << 20
	}
	n.sensors("lines", map[string]string{"bad": fmt.Sprintf(`
good() { echo '{"payload":{"n":'$1'}}'; }
good 1
head -c %d /dev/zero | tr '\0' x; echo
good 2
echo 'oops {'
good 3
printf '{"payload":{"t":"\377\376"}}\n'
good 4
printf '{"payload":{"t":"a\\u0000b","n":5}}\n'
printf '{"payload":{"t":"\\ud800","n":6}}\n'
printf '{"payload":{"big":1e999999,"n":7}}\n'
{ printf '{"payload":{"n":8,"deep":'; head -c 20000 /dev/zero | tr '\0' '['; head -c 20000 /dev/zero | tr '\0' ']'; echo '}}'; }
good 9
printf '\000\000\n'
good 10
exec sleep 9999`, size), "half": `printf '{"payload":{"n":1'; exit 78`})
	n.until("the last good one is stored", func() bool {
		return slices.Contains(n.said("lines.bad"), "10")
	})
	// What PostgreSQL cannot store of a good line is replaced; what is too deep is no good line.
	if said, want := n.said("lines.bad"), []string{"1", "2", "3", "4", "5", "6", "7", "9", "10"}; !slices.Equal(said, want) {
		t.Errorf("stored are %v, want %v", said, want)
	}
	if n.metric("attune_sensor_lines_total", `sensor="lines.bad"`, `outcome="too_long"`) != 1 {
		t.Error("the long line is not counted")
	}
	// No JSON, no text, too deep, NUL; and what ends in the middle of a line.
	n.until("each bad line is counted", func() bool {
		m := n.metrics()
		return m.sum("attune_sensor_lines_total", `sensor="lines.bad"`, `outcome="bad"`) == 4 &&
			m.sum("attune_sensor_lines_total", `sensor="lines.half"`, `outcome="bad"`) == 1
	})
	var logged []any // the first three, by their numbers
	for _, line := range n.log.lines("sensor printed no event") {
		if line["sensor"] == "lines.bad" {
			logged = append(logged, line["line"])
		}
	}
	if want := []any{2.0, 4.0, 6.0}; !slices.Equal(logged, want) {
		t.Errorf("logged are lines %v, want %v", logged, want)
	}
	if s := n.now("lines.bad"); s.State != "running" || s.Restarts != 0 {
		t.Errorf("it is %s after %d restarts", s.State, s.Restarts)
	}
}

// F44: the database is away for a while. The sensor is held back, and all that it says arrives in order.
func TestF44DatabaseAway(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	// More than the daemon keeps for it while the database is away.
	y.sensors("counting", map[string]string{"counts": strings.ReplaceAll(counts, "do say;", "do for i in 1 2 3 4 5 6 7 8 9 10; do say; done;")})
	n, p := y.behindProxy()
	y.until("it counts", func() bool { return len(y.said("counting.counts")) > 20 })
	blocked := func() float64 { return n.metric("attune_sensor_blocked_seconds_total", `sensor="counting.counts"`) }
	before := blocked()
	away := 1.0
	if long {
		away = 30
	}
	p.blackhole(true)
	n.long("it is held back", func() bool { p.cut(); return blocked() > before+away })
	p.blackhole(false)
	have := len(y.said("counting.counts"))
	n.until("it counts on", func() bool { return len(y.said("counting.counts")) > have+50 })
	if processes := inOrder(t, y.said("counting.counts")); processes > 1 && !long {
		t.Errorf("it took %d processes", processes)
	}
}

// F46: all sensors change at once. At most four are stopped or started in one moment, and nothing of
// what they say is lost.
func TestF46AllChange(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	total := 12
	if long {
		total = 200
	}
	scripts := map[string]string{}
	for i := range total {
		scripts[fmt.Sprintf("s%d", i)] = `. "$ATTUNE_PACK_DIR/lib/say.sh"`
	}
	say := func(version int) string {
		return fmt.Sprintf(`say() { n=$((n+1)); echo '{"payload":{"n":'$n',"version":%d}}'; }
end() {
	mkdir -p "$ATTUNE_DATA_DIR/ending"; : >"$ATTUNE_DATA_DIR/ending/$$"
	ls "$ATTUNE_DATA_DIR/ending" | wc -l >>"$ATTUNE_DATA_DIR/together"
	say; sleep 0.2; say
	rm "$ATTUNE_DATA_DIR/ending/$$"; echo "$ATTUNE_SENSOR_REF $n" >>"$ATTUNE_DATA_DIR/said"
	exit 0
}
trap end TERM
while :; do say; sleep 0.5 & wait; done
`, version)
	}
	y.write("many/lib/say.sh", say(1))
	y.sensors("many", scripts)
	n := y.node(`exec.stop_grace = "1m"`).start() // each ends in peace, however slowly
	speaking := func(version int) func() bool {
		return func() bool {
			return y.query("SELECT count(DISTINCT source) FROM attune.event WHERE payload->>'version' = $1", fmt.Sprint(version))[0] == fmt.Sprint(total)
		}
	}
	y.long("all speak", speaking(1))
	y.replace("many/lib/say.sh", say(2))
	y.long("all speak the new version", speaking(2))
	for ref := range scripts {
		inOrder(t, y.said("many."+ref))
	}
	data, err := filepath.Glob(filepath.Join(n.state, "data", "*", "together"))
	if err != nil || len(data) != 1 {
		t.Fatalf("nobody was ended: %v, %v", data, err)
	}
	together, err := os.ReadFile(data[0])
	y.check(err)
	for count := range strings.FieldsSeq(string(together)) {
		if k, _ := strconv.Atoi(count); k > 4 {
			t.Errorf("%d ended together", k)
		}
	}
	said, err := os.ReadFile(filepath.Join(filepath.Dir(data[0]), "said"))
	y.check(err)
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	if len(lines) != total {
		t.Errorf("%d of %d ended in peace", len(lines), total)
	}
	for _, line := range lines {
		ref, count, _ := strings.Cut(line, " ")
		if stored := y.query("SELECT count(*) FROM attune.event WHERE source = $1 AND payload->>'version' = '1'", ref)[0]; stored != count {
			t.Errorf("%s said %s before it was changed, stored are %s", ref, count, stored)
		}
	}
}

// F47: a pack goes while its sensors wait, start and stop. They stay gone.
func TestF47RemovedInEveryState(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.sensors("going", map[string]string{
		"waits": "exit 1",
		"stops": "trap '' TERM\nwhile :; do sleep 1; done",
		"runs":  "while :; do sleep 1; done",
	})
	n := y.node().start()
	stops := n.sensorPID("going.stops")
	n.sensorPID("going.runs")
	n.until("one waits", func() bool { return n.now("going.waits").State == "backoff" })
	n.replace("going/sensors/stops.sh", "while :; do sleep 2; done\n")
	n.until("one is being stopped, or was", func() bool {
		s := n.now("going.stops")
		return s.State != "running" || s.PID == nil || *s.PID != stops
	})
	n.sensors("going", map[string]string{"starts": "while :; do sleep 3; done"})
	n.remove("going")
	n.until("all have stopped", func() bool {
		for _, name := range []string{"waits", "stops", "runs"} {
			if n.now("going."+name).State != "stopped" {
				return false
			}
		}
		return len(n.children()) == 0
	})
	pause(2 * time.Second) // for a timer that would revive one
	if left := n.children(); len(left) > 0 {
		t.Errorf("processes %v came back", left)
	}
}
