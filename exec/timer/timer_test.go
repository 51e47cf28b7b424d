package timer

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

// TestMain fixes the seed of the property tests, so that a run tells the same twice; -rapid.seed tries
// others.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.seed": "1", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

const (
	intervalTimer = "core.intervaltimer"
	cronTimer     = "core.crontimer"
	dateTimer     = "core.datetimetimer"
)

// event is a line as it is read back, with how late it was printed.
type event struct {
	Trigger  string         `json:"trigger"`
	Instance string         `json:"instance"`
	EventID  string         `json:"event_id"`
	Due      time.Time      `json:"due"`
	JitterMS int64          `json:"jitter_ms"`
	Payload  map[string]any `json:"payload"`

	printed time.Time
}

// recorder is the daemon's side of stdout.
type recorder struct {
	now func() time.Time

	mu     sync.Mutex
	events []event
	gate   chan struct{} // a write waits for it to be closed; nil: open
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range bytes.Lines(b) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil || line[len(line)-1] != '\n' {
			panic(fmt.Sprintf("bad line %q: %v", line, err))
		}
		e.printed = r.now()
		r.events = append(r.events, e)
	}
	return len(b), nil
}

func (r *recorder) take() []event {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func (r *recorder) block() (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = make(chan struct{})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		close(r.gate)
		r.gate = nil
	}
}

// bench is an engine in a bubble, whose clock can be set.
type bench struct {
	*Engine
	out    *recorder
	offset atomic.Int64 // nanoseconds that the wall clock is ahead
}

// run calls f in a bubble with a running engine of these instances; their ids are their places.
func run(t *testing.T, f func(b *bench, start time.Time), instances func(start time.Time) []Instance) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		b := newBench()
		if err := b.Set(instances(start)); err != nil {
			t.Fatal(err)
		}
		defer b.start(t)()
		synctest.Wait() // what is due at the start is fired by now, not whenever the engine comes to run
		f(b, start)
	})
}

func newBench() *bench {
	b := &bench{}
	b.out = &recorder{now: b.clock}
	b.Engine = New(defaultSensor, b.out)
	b.Engine.now = b.clock
	return b
}

func (b *bench) clock() time.Time { return wallClock().Add(time.Duration(b.offset.Load())) }

func (b *bench) setClock(ahead time.Duration) { b.offset.Store(int64(ahead)) }

func (b *bench) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// pass lets time pass, and gives what was fired meanwhile.
func (b *bench) pass(d time.Duration) []event {
	time.Sleep(d) //nolint:forbidigo // the bubble's time, which takes none
	synctest.Wait()
	return b.out.take()
}

func every(start time.Time, seconds int, more ...any) Instance {
	return instance(intervalTimer, start, append([]any{"interval", seconds}, more...)...)
}

func instance(trigger string, since time.Time, pairs ...any) Instance {
	parameters := map[string]any{}
	for pair := range slices.Chunk(pairs, 2) {
		parameters[pair[0].(string)] = pair[1]
	}
	return Instance{Trigger: trigger, Instance: trigger + "#1", Parameters: parameters, Since: since}
}

func (i Instance) withLast(at time.Time) Instance {
	i.Last = &at
	return i
}

func (i Instance) named(id string) Instance {
	i.Instance = id
	return i
}

// offsets gives the due times of events in seconds after a time.
func offsets(events []event, start time.Time) []float64 {
	list := []float64{}
	for _, e := range events {
		list = append(list, e.Due.Sub(start).Seconds())
	}
	return list
}

func wantOffsets(t *testing.T, events []event, start time.Time, want ...float64) {
	t.Helper()
	if want == nil {
		want = []float64{}
	}
	if diff := cmp.Diff(want, offsets(events, start)); diff != "" {
		t.Errorf("due times after the start (-want +got):\n%s", diff)
	}
}

func TestADay(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench, start time.Time) {
		events := b.pass(24 * time.Hour)
		counts := map[string]int{}
		ids := map[string]bool{}
		for _, e := range events {
			counts[e.Instance]++
			if late := e.printed.Sub(e.Due); late < 0 || late > 20*time.Millisecond {
				t.Errorf("%s is %v late", e.EventID, late)
			}
			if want := e.Instance + "@" + e.Due.UTC().Format(time.RFC3339); e.EventID != want {
				t.Errorf("event_id is %s, want %s", e.EventID, want)
			}
			if ids[e.EventID] {
				t.Errorf("%s was fired twice", e.EventID)
			}
			ids[e.EventID] = true
		}
		want := map[string]int{"7s": 86400 / 7, "5m": 288, "quarter": 96, "night": 1, "once": 1}
		if diff := cmp.Diff(want, counts); diff != "" {
			t.Errorf("firings of a day (-want +got):\n%s", diff)
		}
	}, func(start time.Time) []Instance {
		return []Instance{
			every(start, 7).named("7s"),
			every(start, 5, "unit", "minutes").named("5m"),
			instance(cronTimer, start, "expression", "*/15 * * * *").named("quarter"),
			instance(cronTimer, start, "expression", "30 3 * * *", "timezone", "Europe/Berlin").named("night"),
			instance(dateTimer, start, "fire_at", start.Add(90*time.Minute).Format(time.RFC3339)).named("once"),
			instance(dateTimer, start, "fire_at", "2099-01-01T00:00:00Z").named("far"),
		}
	})
}

func TestPayloads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC() // 2000-01-01T00:00:00Z, a Saturday
		b := newBench()
		err := b.Set([]Instance{
			every(start.Add(300*time.Millisecond), 90, "unit", "seconds").named("a"),
			instance(cronTimer, start, "expression", "@hourly").named("b"),
			instance(dateTimer, start, "fire_at", "2000-01-01T03:00", "timezone", "Europe/Berlin").named("c"),
		})
		if err != nil {
			t.Fatal(err)
		}
		stop := b.start(t)
		events := b.pass(2*time.Hour + time.Second)
		stop()
		got := map[string]map[string]any{}
		for _, e := range events {
			got[e.Instance] = e.Payload
		}
		want := map[string]map[string]any{
			"a": {
				"type": "interval", "fired_at": "2000-01-01T02:00:00Z", "scheduled_at": "2000-01-01T02:00:00Z",
				"next_fire_at": "2000-01-01T02:01:30Z", "delay_ms": 0.0, "count": 80.0, "execution_count": 80.0,
				"sensor_ref": defaultSensor, "interval_seconds": 90.0,
			},
			"b": {
				"type": "cron", "fired_at": "2000-01-01T02:00:00Z", "scheduled_at": "2000-01-01T02:00:00Z",
				"next_fire_at": "2000-01-01T03:00:00Z", "delay_ms": 0.0, "count": 2.0, "execution_count": 2.0,
				"sensor_ref": defaultSensor, "expression": "@hourly", "timezone": "UTC",
			},
			"c": {
				"type": "datetime", "fired_at": "2000-01-01T02:00:00Z", "scheduled_at": "2000-01-01T02:00:00Z",
				"next_fire_at": nil, "delay_ms": 0.0, "count": 1.0, "execution_count": 1.0,
				"sensor_ref": defaultSensor, "fire_at": "2000-01-01T03:00", "timezone": "Europe/Berlin",
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("newest payloads (-want +got):\n%s", diff)
		}
	})
}

func TestMakeUp(t *testing.T) {
	t.Parallel()
	// The engine starts at 0; all instances are of a day before, on a 600 s grid with 100 s to go.
	grid := func(start time.Time) time.Time { return start.Add(-24*time.Hour - 500*time.Second) }
	last := func(start time.Time, seconds int) *time.Time {
		at := start.Add(time.Duration(seconds) * time.Second)
		return &at
	}
	tests := []struct {
		name       string
		last       int // seconds; 0: none
		parameters []any
		want       []float64 // in 150 s
	}{
		{"nothing missed", -500, nil, []float64{100}},
		{"latest", -1700, nil, []float64{-500, 100}},
		{"latest of a day", 0, nil, []float64{-500, 100}},
		{"latest outside the window", -1700, []any{"misfire_window", "8m"}, []float64{100}},
		{"all", -2300, []any{"misfire", "all"}, []float64{-1700, -1100, -500, 100}},
		{"all within the window", 0, []any{"misfire", "all", "misfire_window", 1200}, []float64{-1100, -500, 100}},
		{"none", -1700, []any{"misfire", "none"}, []float64{100}},
		{"no window", -1700, []any{"misfire", "all", "misfire_window", 0}, []float64{100}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			run(t, func(b *bench, start time.Time) {
				wantOffsets(t, b.pass(150*time.Second), start, test.want...)
			}, func(start time.Time) []Instance {
				i := every(grid(start), 600, test.parameters...)
				if test.last != 0 {
					i.Last = last(start, test.last)
				}
				return []Instance{i}
			})
		})
	}
}

func TestDatetimeInThePast(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		ago   time.Duration
		fired bool
		more  []any
		want  int
	}{
		{"within the window", 59 * time.Minute, false, nil, 1},
		{"outside", 61 * time.Minute, false, nil, 0},
		{"a wider window", 3 * 24 * time.Hour, false, []any{"misfire_window", "4d"}, 1},
		{"fired before", 10 * time.Minute, true, nil, 0},
		{"none", time.Minute, false, []any{"misfire", "none"}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			run(t, func(b *bench, start time.Time) {
				if got := len(b.pass(48 * time.Hour)); got != test.want {
					t.Errorf("fired %d times, want %d", got, test.want)
				}
			}, func(start time.Time) []Instance {
				at := start.Add(-test.ago)
				i := instance(dateTimer, start, append([]any{"fire_at", at.Format(time.RFC3339)}, test.more...)...)
				if test.fired {
					i.Last = &at
				}
				return []Instance{i}
			})
		})
	}
}

// A restart, with whatever the database has, neither loses nor doubles.
func TestRestarts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		stops := rapid.SliceOfN(rapid.IntRange(1, 5000), 1, 8).Draw(rt, "run for ms")
		pauses := rapid.SliceOfN(rapid.IntRange(1, 5000), len(stops), len(stops)).Draw(rt, "rest for ms")
		forget := rapid.SliceOfN(rapid.IntRange(0, 2), len(stops), len(stops)).Draw(rt, "events not stored")
		synctest.Test(t, func(t *testing.T) {
			start := time.Now().UTC()
			i := every(start, 1, "misfire", "all")
			fired := map[string]int{}
			var newest time.Time
			for n, ms := range stops {
				b := newBench()
				if err := b.Set([]Instance{i}); err != nil {
					rt.Fatal(err)
				}
				stop := b.start(t)
				events := b.pass(time.Duration(ms) * time.Millisecond)
				stop()
				// The daemon may have died before it stored the last ones.
				events = events[:max(0, len(events)-forget[n])]
				for _, e := range events {
					fired[e.EventID]++
					newest = e.Due
					i = i.withLast(e.Due)
				}
				b.pass(time.Duration(pauses[n]) * time.Millisecond)
			}
			want := int(newest.Sub(start) / time.Second)
			if newest.IsZero() {
				want = 0
			}
			if len(fired) != want {
				rt.Errorf("stored %d due times until %v, want %d", len(fired), newest, want)
			}
			for id, n := range fired {
				if n != 1 {
					rt.Errorf("%s was stored %d times", id, n)
				}
			}
		})
	})
}

func TestUpdateWhileWaiting(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench, start time.Time) {
		slow := every(start, 3600).named("slow")
		wantOffsets(t, b.pass(10*time.Minute), start)

		// A shorter one comes while the engine sleeps; the other keeps its place.
		quick := every(start.Add(10*time.Minute), 10).named("quick")
		if err := b.Set([]Instance{slow, quick}); err != nil {
			t.Fatal(err)
		}
		wantOffsets(t, b.pass(25*time.Second), start, 610, 620)

		// Its count goes on over an update that only tells of what was stored.
		if err := b.Set([]Instance{slow.withLast(start), quick.withLast(start.Add(620 * time.Second))}); err != nil {
			t.Fatal(err)
		}
		events := b.pass(10 * time.Second)
		wantOffsets(t, events, start, 630)
		if got := events[0].Payload["count"]; got != 3.0 {
			t.Errorf("count is %v, want 3", got)
		}

		// Another misfire policy is not another place.
		quick.Parameters = map[string]any{"interval": 10, "misfire": "all"}
		if err := b.Set([]Instance{slow, quick}); err != nil {
			t.Fatal(err)
		}
		wantOffsets(t, b.pass(10*time.Second), start, 640)

		if err := b.Set([]Instance{slow}); err != nil {
			t.Fatal(err)
		}
		wantOffsets(t, b.pass(time.Hour), start, 3600)
		if err := b.Set(nil); err != nil {
			t.Fatal(err)
		}
		wantOffsets(t, b.pass(3*time.Hour), start)
	}, func(start time.Time) []Instance { return []Instance{every(start, 3600).named("slow")} })
}

func TestClockIsSet(t *testing.T) {
	t.Parallel()
	perMinute := func(start time.Time) []Instance { return []Instance{every(start, 60)} }
	t.Run("forward", func(t *testing.T) {
		t.Parallel()
		run(t, func(b *bench, start time.Time) {
			wantOffsets(t, b.pass(90*time.Second), start, 60)
			b.setClock(30*time.Minute + 15*time.Second) // the machine was suspended, say
			events := b.pass(31 * time.Second)
			wantOffsets(t, events, start, 1920)
			if late := events[0].printed.Sub(start.Add(31*time.Minute + 45*time.Second)); late > longestSleep {
				t.Errorf("the step was noticed after %v", late)
			}
			wantOffsets(t, b.pass(time.Minute), start, 1980)
		}, perMinute)
	})
	t.Run("back", func(t *testing.T) {
		t.Parallel()
		run(t, func(b *bench, start time.Time) {
			wantOffsets(t, b.pass(150*time.Second), start, 60, 120)
			b.setClock(-2 * time.Minute) // it is 0:30 now
			wantOffsets(t, b.pass(2*time.Minute), start)
			wantOffsets(t, b.pass(31*time.Second), start, 180)
		}, perMinute)
	})
	t.Run("far back", func(t *testing.T) {
		t.Parallel()
		run(t, func(b *bench, start time.Time) {
			const year = 365 * 24 * time.Hour
			synctest.Wait()
			b.setClock(year)
			wantOffsets(t, b.pass(90*time.Second), start, year.Seconds(), (year + 60*time.Second).Seconds())
			b.setClock(0)
			wantOffsets(t, b.pass(2*time.Minute), start, 180)
		}, perMinute)
	})
	t.Run("back between two runs", func(t *testing.T) {
		t.Parallel()
		run(t, func(b *bench, start time.Time) {
			wantOffsets(t, b.pass(3*time.Minute), start, 180)
		}, func(start time.Time) []Instance {
			return []Instance{every(start, 60).withLast(start.Add(2 * time.Minute))}
		})
	})
	t.Run("far back between two runs", func(t *testing.T) {
		t.Parallel()
		run(t, func(b *bench, start time.Time) {
			wantOffsets(t, b.pass(time.Minute), start, 60)
		}, func(start time.Time) []Instance {
			return []Instance{every(start, 60).withLast(start.Add(48 * time.Hour))}
		})
	})
}

// A reader that does not read holds the engine back, and loses only what the policy says.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string][]float64{
		"latest": {10, 100},
		"all":    {10, 20, 30, 40, 50, 60, 70, 80, 90, 100},
		"none":   {10, 100}, // 100 is due just then
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			run(t, func(b *bench, start time.Time) {
				release := b.out.block()
				wantOffsets(t, b.pass(100*time.Second), start)
				release()
				wantOffsets(t, b.pass(0), start, want...)
			}, func(start time.Time) []Instance { return []Instance{every(start, 10, "misfire", policy)} })
		})
	}
}

func TestLateIsNotMissed(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"latest", "all", "none"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			run(t, func(b *bench, start time.Time) {
				b.pass(500 * time.Millisecond)
				release := b.out.block()
				b.pass(3 * time.Second) // the write of 1 s hangs until 3.5 s
				release()
				wantOffsets(t, b.pass(time.Second), start, 1, 2, 3, 4)
			}, func(start time.Time) []Instance { return []Instance{every(start, 1, "misfire", policy)} })
		})
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	fired := func() (delays []float64) {
		run(t, func(b *bench, start time.Time) {
			for _, e := range b.pass(time.Hour) {
				delays = append(delays, e.printed.Sub(e.Due).Seconds())
				if late := e.printed.Sub(e.Due).Milliseconds(); e.JitterMS != late {
					t.Errorf("jitter_ms is %d, want %d", e.JitterMS, late)
				}
				if e.Payload["delay_ms"] != float64(e.printed.Sub(e.Due).Milliseconds()) {
					t.Errorf("delay_ms is %v, want %v", e.Payload["delay_ms"], e.printed.Sub(e.Due))
				}
			}
		}, func(start time.Time) []Instance {
			return []Instance{every(start, 60, "jitter", "30s", "misfire", "none")}
		})
		return delays
	}
	delays := fired()
	if len(delays) < 58 {
		t.Fatalf("fired %d times in an hour", len(delays))
	}
	low, high := slices.Min(delays), slices.Max(delays)
	if low < 0 || low > 6 || high < 24 || high > 30 {
		t.Errorf("delays from %v to %v s, want them spread over 0 to 30 s", low, high)
	}
	if diff := cmp.Diff(delays, fired()); diff != "" {
		t.Errorf("another run delays otherwise (-first +second):\n%s", diff)
	}
}

func TestBadInstances(t *testing.T) {
	t.Parallel()
	run(t, func(b *bench, start time.Time) {
		list := []Instance{
			every(start, 0).named("zero"),
			every(start, 10).named("good"),
			instance(cronTimer, start, "expression", "61 * * * *").named("minute"),
			instance("core.webhook", start).named("other"),
			every(start, 10, "misfire", "maybe").named("policy"),
		}
		err := b.Set(list)
		want := []string{
			"cannot fire zero: interval: found 0, expected a whole number of seconds, 1 or more",
			`cannot fire minute: expression: found "61 * * * *", whose minutes "61" is wrong: found 61, expected at most 59`,
			"cannot fire other: trigger core.webhook is none of core.intervaltimer, core.crontimer and core.datetimetimer",
			`cannot fire policy: misfire: found "maybe", expected latest, all or none`,
		}
		if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
		if err := b.Set(list); err != nil {
			t.Errorf("told twice: %v", err)
		}
		wantOffsets(t, b.pass(10*time.Second), start, 10)
	}, func(start time.Time) []Instance { return []Instance{every(start, 10).named("good")} })
}

func TestManyTimers(t *testing.T) {
	t.Parallel()
	const many = 10_000
	random := rand.New(rand.NewPCG(1, 2)) // the same each time
	run(t, func(b *bench, start time.Time) {
		events := b.pass(time.Minute)
		counts := map[string]int{}
		for i, e := range events {
			counts[e.Instance]++
			if i > 0 && e.Due.Before(events[i-1].Due) {
				t.Fatalf("%s comes after %s", e.EventID, events[i-1].EventID)
			}
		}
		for _, i := range b.timers {
			if want := int(time.Minute / (time.Duration(i.in.Parameters["interval"].(int)) * time.Second)); counts[i.in.Instance] != want {
				t.Fatalf("%s was fired %d times, want %d", i.in.Instance, counts[i.in.Instance], want)
			}
		}
	}, func(start time.Time) []Instance {
		list := make([]Instance, many)
		for n := range list {
			list[n] = every(start, 20+random.IntN(41)).named(fmt.Sprintf("core.intervaltimer#%05d", n))
		}
		return list
	})
}

func TestWriteFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, writer := io.Pipe()
		reader.Close()
		e := New(defaultSensor, writer)
		if err := e.Set([]Instance{every(time.Now(), 1)}); err != nil {
			t.Fatal(err)
		}
		if err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot print events") {
			t.Errorf("Run gave %v", err)
		}
	})
}

// mainRun is Main in a bubble.
type mainRun struct {
	stdin  *io.PipeWriter
	out    *recorder
	stderr *lockedBuffer
	cancel context.CancelFunc
	code   chan int
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func startMain(t *testing.T, env map[string]string) *mainRun {
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	m := &mainRun{
		stdin: writer, out: &recorder{now: wallClock}, stderr: &lockedBuffer{}, cancel: cancel, code: make(chan int, 1),
	}
	go func() {
		m.code <- Main(ctx, reader, m.out, m.stderr, func(name string) string { return env[name] })
		reader.Close() // as the end of the process does
	}()
	return m
}

func (m *mainRun) say(t *testing.T, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.stdin.Write(append(text, '\n')); err != nil {
		t.Fatal(err)
	}
}

func TestMainCommand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		text, err := json.Marshal([]Instance{every(start, 10)})
		if err != nil {
			t.Fatal(err)
		}
		m := startMain(t, map[string]string{"ATTUNE_SENSOR_TRIGGERS": string(text), "ATTUNE_SENSOR_REF": "my.timers"})
		pass := func(d time.Duration) []event {
			time.Sleep(d) //nolint:forbidigo // the bubble's time, which takes none
			synctest.Wait()
			return m.out.take()
		}
		events := pass(15 * time.Second)
		wantOffsets(t, events, start, 10)
		if got := events[0].Payload["sensor_ref"]; got != "my.timers" {
			t.Errorf("sensor_ref is %v", got)
		}
		if _, err := m.stdin.Write([]byte("garbage\n\n{\"type\":\"news\"}\n")); err != nil {
			t.Fatal(err)
		}
		m.say(t, map[string]any{"type": "triggers", "instances": []Instance{every(start, 7), every(start, 0).named("bad")}})
		wantOffsets(t, pass(10*time.Second), start, 14, 21) // it was to fire at 14 s already
		m.stdin.Close()                                     // the daemon may close it; it is the keeper that ends us then
		wantOffsets(t, pass(7*time.Second), start, 28)
		m.cancel()
		if code := <-m.code; code != 0 {
			t.Errorf("exit code %d", code)
		}
		want := "cannot read a line of stdin: invalid character 'g' looking for beginning of value\n" +
			"cannot fire bad: interval: found 0, expected a whole number of seconds, 1 or more\n"
		if diff := cmp.Diff(want, m.stderr.String()); diff != "" {
			t.Errorf("stderr (-want +got):\n%s", diff)
		}
	})
}

func TestMainReadsFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "triggers.json")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UTC()
		text, err := json.Marshal([]Instance{every(start, 10)})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		m := startMain(t, map[string]string{"ATTUNE_SENSOR_TRIGGERS_FILE": file})
		time.Sleep(10 * time.Second) //nolint:forbidigo // the bubble's time, which takes none
		synctest.Wait()
		m.cancel()
		if code := <-m.code; code != 0 {
			t.Errorf("exit code %d: %s", code, m.stderr.String())
		}
		events := m.out.take()
		wantOffsets(t, events, start, 10)
		if got := events[0].Payload["sensor_ref"]; got != defaultSensor {
			t.Errorf("sensor_ref is %v", got)
		}
	})
}

func TestMainWithoutInstances(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, value, want string }{
		{"", "", "cannot find trigger instances: this command is started by the daemon"},
		{"ATTUNE_SENSOR_TRIGGERS", "{}", "cannot read trigger instances: json: cannot unmarshal object"},
		{"ATTUNE_SENSOR_TRIGGERS_FILE", "/nowhere", "cannot read trigger instances: open /nowhere"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var stderr bytes.Buffer
			code := Main(t.Context(), strings.NewReader(""), io.Discard, &stderr, func(name string) string {
				if name == test.name {
					return test.value
				}
				return ""
			})
			if code != exitConfig || !strings.HasPrefix(stderr.String(), test.want) {
				t.Errorf("exit code %d, %s", code, stderr.String())
			}
		})
	}
}

// The end does not wait for a reader that is gone for good.
func TestMainEndsThoughNobodyReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		text, err := json.Marshal([]Instance{every(time.Now(), 1)})
		if err != nil {
			t.Fatal(err)
		}
		m := startMain(t, map[string]string{"ATTUNE_SENSOR_TRIGGERS": string(text)})
		release := m.out.block()
		time.Sleep(3 * time.Second) //nolint:forbidigo // the bubble's time, which takes none
		m.cancel()
		if code := <-m.code; code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
		if !strings.Contains(m.stderr.String(), "nobody reads") {
			t.Errorf("stderr: %s", m.stderr.String())
		}
		release()
	})
}

func BenchmarkFire(b *testing.B) {
	const many = 10_000
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e := New(defaultSensor, io.Discard)
	e.now = func() time.Time { return now }
	list := make([]Instance, many)
	for n := range list {
		list[n] = every(now, 1).named(fmt.Sprintf("core.intervaltimer#%016d", n))
	}
	if err := e.Set(list); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		now = now.Add(time.Second)
		if _, err := e.fire(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/many, "ns/firing")
}
