package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// fakeLife is a process that ends when the test says so.
type fakeLife struct {
	key     string
	pid     int
	started time.Time
	stopFor time.Duration // how long Stop takes
	stopErr error
	leaves  bool // what it left behind does not end, when it is stopped

	mu   sync.Mutex
	told int
	exit child.Exit
	done chan struct{}
	gone chan struct{} // closed with done, unless something outlives it
}

func (f *fakeLife) PID() int              { return f.pid }
func (f *fakeLife) StartedAt() time.Time  { return f.started }
func (f *fakeLife) Done() <-chan struct{} { return f.done }
func (f *fakeLife) Exit() child.Exit      { <-f.done; return f.exit }
func (f *fakeLife) Gone() <-chan struct{} { return f.gone }

func (f *fakeLife) Stop(time.Duration) error {
	sleep(f.stopFor)
	if f.stopErr != nil {
		return f.stopErr
	}
	f.end(child.Exit{Code: -1, Signal: "SIGTERM", Outlived: f.leaves})
	return nil
}

func (f *fakeLife) Tell([]store.TriggerInstance) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told++
}

func (f *fakeLife) end(exit child.Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.done:
	default:
		exit.EndedAt = time.Now()
		f.exit = exit
		if !exit.Outlived {
			close(f.gone)
		}
		close(f.done)
	}
}

// stage is a sensor with fake processes, inside a synctest bubble.
type stage struct {
	t      *testing.T
	sensor *sensor
	end    context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	lives   []*fakeLife
	starts  []time.Duration // since the beginning
	begin   time.Time
	failing error                 // of the next starts
	each    func(*fakeLife)       // what a new process does
	before  func(context.Context) // what happens during a start
}

// failOnPanic fails a test in which a panic was contained that it does not expect.
type failOnPanic struct {
	slog.Handler
	t        *testing.T
	expected *atomic.Int64
	shown    func() Info // nil: nobody looks what is shown while something is logged
}

func (h *failOnPanic) Enabled(context.Context, slog.Level) bool { return true }

func (h *failOnPanic) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h *failOnPanic) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "sensor's supervision panicked" {
		if h.expected != nil {
			h.expected.Add(1)
			return nil
		}
		r.Attrs(func(a slog.Attr) bool { h.t.Error(a.Value); return true })
	}
	if h.shown != nil {
		if i := h.shown(); (i.State == StateRunning) != (i.PID != 0) {
			h.t.Errorf("with %q it shows %+v", r.Message, i)
		}
	}
	return nil
}

func newStage(t *testing.T, slots chan struct{}) *stage {
	s := &Supervisor{slots: slots, logger: slog.New(&failOnPanic{t: t, Handler: slog.DiscardHandler}), opts: Options{StopGrace: time.Second}}
	s.metrics = newMetrics(nil, nil)
	st := &stage{t: t, sensor: newSensor("p.s", s), ended: make(chan struct{}), begin: time.Now()}
	st.sensor.back.random = func() float64 { return 0.5 }
	st.sensor.launch = st.launch
	ctx, cancel := context.WithCancel(t.Context())
	st.end = cancel
	go func() {
		defer close(st.ended)
		st.sensor.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-st.ended
	})
	return st
}

func (s *stage) launch(ctx context.Context, _ *sensor, t *target) (life, error) {
	if s.before != nil {
		s.before(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts = append(s.starts, time.Since(s.begin))
	if s.failing != nil {
		return nil, s.failing
	}
	f := &fakeLife{key: t.key, pid: 100 + len(s.lives), started: time.Now(), done: make(chan struct{}), gone: make(chan struct{})}
	s.lives = append(s.lives, f)
	if s.each != nil {
		s.each(f)
	}
	return f, nil
}

// last is the newest process.
func (s *stage) last() *fakeLife {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lives[len(s.lives)-1]
}

func (s *stage) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lives)
}

func (s *stage) expect(want State) {
	s.t.Helper()
	synctest.Wait()
	if got := s.sensor.state(); got != want {
		s.t.Fatalf("state %s, want %s", got, want)
	}
}

// aim sets the target and lets everything settle.
func (s *stage) aim(t *target) {
	s.sensor.aim(t)
	synctest.Wait()
}

func wanted(key string, change ...func(*manifest.Sensor)) *target {
	spec := &manifest.Sensor{TriggerTypes: []string{"p.t"}}
	for _, c := range change {
		c(spec)
	}
	return &target{
		record: &store.Record{Ref: "p.s", Pack: "p", Enabled: true, Present: true, TreeDigest: "tree"},
		spec:   spec, want: hWanted, key: key, list: "list",
	}
}

func unwanted() *target {
	t := wanted("")
	t.want, t.reason = hUnwanted, "disabled by alice"
	return t
}

func unneeded() *target {
	t := wanted("")
	t.want, t.reason = hUnneeded, "no enabled rule wants its triggers"
	return t
}

func crash(f *fakeLife) { go f.end(child.Exit{Code: 1}) }

func TestACrashingSensorIsStartedForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.sensor.logger = slog.New(&failOnPanic{t: t, Handler: slog.DiscardHandler, shown: s.sensor.info})
		s.each = crash
		s.aim(wanted("1"))
		s.expect(StateBackoff)
		sleep(4 * time.Minute)
		s.expect(StateBackoff)
		var gaps []time.Duration
		s.mu.Lock()
		for i, at := range s.starts {
			if i > 0 {
				gaps = append(gaps, at-s.starts[i-1])
			}
		}
		s.mu.Unlock()
		want := []time.Duration{50 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute}
		if diff := cmp.Diff(want, gaps); diff != "" {
			t.Error(diff)
		}
		info := s.sensor.info()
		if info.LastExit != "exit 1" || info.Problem != "exit 1" || info.NextStart == nil || info.PID != 0 || info.Restarts != 9 {
			t.Errorf("it shows %+v", info)
		}

		// A fix is taken at once, and forgets the failures.
		s.mu.Lock()
		s.each = nil
		s.mu.Unlock()
		s.aim(wanted("2"))
		s.expect(StateRunning)
		if info := s.sensor.info(); info.Problem != "" || info.PID == 0 || info.NextStart != nil {
			t.Errorf("it shows %+v", info)
		}
		before := time.Now()
		s.last().end(child.Exit{Code: 1})
		s.expect(StateBackoff)
		if wait := s.sensor.info().NextStart.Sub(before); wait != 50*time.Millisecond {
			t.Errorf("the wait after the fix is %s", wait)
		}
	})
}

func TestHealthForgetsFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.aim(wanted("1"))
		for i, ran := range []time.Duration{0, 59 * time.Second, 61 * time.Second} {
			sleep(ran)
			before := time.Now()
			s.last().end(child.Exit{Code: -1, Signal: "SIGKILL"})
			s.expect(StateBackoff)
			want := []time.Duration{50 * time.Millisecond, time.Second, 50 * time.Millisecond}[i]
			if wait := s.sensor.info().NextStart.Sub(before); wait != want {
				t.Errorf("after %s: wait %s, want %s", ran, wait, want)
			}
			sleep(want)
			s.expect(StateRunning)
		}
	})
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	poll := func(m *manifest.Sensor) { m.PollInterval = manifest.Duration(10 * time.Second) }
	tests := []struct {
		name   string
		exit   child.Exit
		change []func(*manifest.Sensor)
		want   State
		wait   time.Duration
		shown  string
	}{
		{name: "0 of a sensor that should stay", want: StateBackoff, wait: 50 * time.Millisecond, shown: "exit 0"},
		{name: "0 of a sensor that polls", change: []func(*manifest.Sensor){poll}, want: StateWaiting, wait: 10 * time.Second},
		{name: "1 of a sensor that polls", exit: child.Exit{Code: 1}, change: []func(*manifest.Sensor){poll}, want: StateBackoff, wait: 50 * time.Millisecond, shown: "exit 1"},
		{name: "memory", exit: child.Exit{Code: -1, Signal: "SIGKILL", OOM: true}, want: StateBackoff, wait: 50 * time.Millisecond, shown: "killed for memory"},
		{name: "78", exit: child.Exit{Code: 78}, want: StateFailed, shown: "exit 78: waits for a change of its configuration"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, make(chan struct{}, 1))
				s.aim(wanted("1", test.change...))
				s.last().end(test.exit)
				s.expect(test.want)
				info := s.sensor.info()
				if info.Problem != test.shown {
					t.Errorf("problem %q, want %q", info.Problem, test.shown)
				}
				if test.wait == 0 {
					sleep(24 * time.Hour)
					s.expect(test.want)
					s.aim(wanted("1", test.change...)) // the same again is no change
					s.expect(test.want)
					s.aim(wanted("2", test.change...))
					s.expect(StateRunning)
					return
				}
				sleep(test.wait - time.Millisecond)
				s.expect(test.want)
				sleep(time.Millisecond)
				s.expect(StateRunning)
			})
		})
	}
}

func TestOnlyAnotherKeyRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.aim(wanted("1"))
		first := s.last()
		same := wanted("1")
		same.record.RevisionID, same.record.TreeDigest = 7, "another"
		s.aim(same)
		s.expect(StateRunning)
		if s.last() != first {
			t.Fatal("restarted without need")
		}
		s.aim(wanted("2"))
		s.expect(StateRunning)
		if s.count() != 2 || s.last().key != "2" {
			t.Fatalf("%d processes, the last with key %s", s.count(), s.last().key)
		}
		if info := s.sensor.info(); info.Restarts != 1 {
			t.Errorf("%d restarts", info.Restarts)
		}
	})
}

func TestManyEditsDuringOneStopStartTheNewest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.each = func(f *fakeLife) { f.stopFor = 5 * time.Second }
		s.aim(wanted("0"))
		s.aim(wanted("1"))
		s.expect(StateStopping)
		for i := 2; i <= 20; i++ {
			sleep(100 * time.Millisecond)
			s.aim(wanted(fmt.Sprint(i)))
			s.expect(StateStopping)
		}
		if s.count() != 1 {
			t.Fatal("started while the old one lives")
		}
		sleep(10 * time.Second)
		s.expect(StateRunning)
		if s.count() != 2 || s.last().key != "20" {
			t.Fatalf("%d processes, the last with key %s", s.count(), s.last().key)
		}
	})
}

// TestNothingRevivesWhatIsNotWanted takes a sensor away in every state that it can be in.
func TestNothingRevivesWhatIsNotWanted(t *testing.T) {
	t.Parallel()
	poll := func(m *manifest.Sensor) { m.PollInterval = manifest.Duration(time.Second) }
	states := map[State]func(*stage){
		StateIdle:    func(s *stage) { s.aim(unneeded()) },
		StateRunning: func(s *stage) { s.aim(wanted("1")) },
		StateStarting: func(s *stage) {
			s.before = func(context.Context) { sleep(time.Second) }
			s.aim(wanted("1"))
		},
		StateStopping: func(s *stage) {
			s.each = func(f *fakeLife) { f.stopFor = time.Second }
			s.aim(wanted("1"))
			s.aim(wanted("2"))
		},
		StateBackoff: func(s *stage) {
			s.each = crash
			s.aim(wanted("1"))
		},
		StateWaiting: func(s *stage) {
			s.aim(wanted("1", poll))
			s.last().end(child.Exit{})
		},
		StateFailed: func(s *stage) {
			s.aim(wanted("1"))
			s.last().end(child.Exit{Code: 78})
		},
		StateUnkillable: func(s *stage) {
			s.each = func(f *fakeLife) {
				f.stopErr = child.ErrUnkillable
				go func() { sleep(2 * time.Second); f.end(child.Exit{Code: -1, Signal: "SIGKILL"}) }()
			}
			s.aim(wanted("1"))
			s.aim(wanted("2"))
		},
	}
	for state, reach := range states {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, make(chan struct{}, 1))
				reach(s)
				s.expect(state)
				s.aim(unwanted())
				sleep(time.Minute)
				s.expect(StateStopped)
				if info := s.sensor.info(); info.Problem != "disabled by alice" || info.PID != 0 || info.NextStart != nil {
					t.Errorf("it shows %+v", info)
				}
				started := s.count()
				sleep(time.Hour)
				s.expect(StateStopped)
				if s.count() != started {
					t.Fatal("a timer revived it")
				}
				s.mu.Lock()
				s.each, s.before = nil, nil
				s.mu.Unlock()
				s.aim(wanted("3"))
				s.expect(StateRunning)
			})
		})
	}
}

// Also what waits for its turn to start, and what has it and waits a little longer than others, looks before it starts.
func TestWhatIsNotWantedTakesNoTurn(t *testing.T) {
	t.Parallel()
	for name, takeBack := range map[string]func(slots chan struct{}, s *stage){
		"before its turn": func(_ chan struct{}, s *stage) {
			s.aim(unwanted())
			s.expect(StateStopped)
		},
		"in its turn": func(slots chan struct{}, s *stage) {
			<-slots
			synctest.Wait()
			if len(slots) != 1 || s.sensor.state() != StateStarting {
				s.t.Fatal("it has not taken its turn, or does not wait in it")
			}
			s.aim(unwanted())
			sleep(startJitter)
			s.expect(StateStopped)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				slots := make(chan struct{}, 1)
				slots <- struct{}{}
				s := newStage(t, slots)
				s.aim(wanted("1"))
				s.expect(StateStarting)
				takeBack(slots, s)
				select {
				case <-slots:
				default:
				}
				sleep(time.Minute)
				if s.expect(StateStopped); s.count() != 0 || len(slots) != 0 {
					t.Errorf("%d processes were started, %d turns are kept", s.count(), len(slots))
				}
			})
		})
	}
}

func TestWorkThatIsDoneForgetsFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.aim(wanted("1", func(m *manifest.Sensor) { m.PollInterval = manifest.Duration(time.Second) }))
		for range 3 {
			s.last().end(child.Exit{Code: 1})
			s.expect(StateBackoff)
			if wait := time.Until(*s.sensor.info().NextStart); wait != 50*time.Millisecond {
				t.Errorf("wait %s", wait)
			}
			sleep(50 * time.Millisecond)
			s.expect(StateRunning)
			s.last().end(child.Exit{})
			s.expect(StateWaiting)
			sleep(time.Second)
			s.expect(StateRunning)
		}
	})
}

func TestAChangeThatIsTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 1)
		s := newStage(t, slots)
		s.aim(wanted("1"))
		slots <- struct{}{} // somebody else's turn
		s.aim(wanted("2"))
		s.expect(StateRunning)
		s.aim(wanted("1"))
		<-slots
		s.expect(StateRunning)
		if s.count() != 1 {
			t.Fatal("restarted for a change that was taken back before its turn")
		}
	})
}

func TestIdleUntilARuleWantsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.aim(unneeded())
		s.expect(StateIdle)
		s.aim(wanted("1"))
		s.expect(StateRunning)
		s.aim(unneeded())
		s.expect(StateIdle)
		if info := s.sensor.info(); info.Problem != "no enabled rule wants its triggers" {
			t.Errorf("problem %q", info.Problem)
		}
	})
}

func TestAskingForARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.aim(wanted("1"))
		s.sensor.ask()
		s.expect(StateRunning)
		if s.count() != 2 {
			t.Fatalf("%d processes after asking", s.count())
		}
		s.mu.Lock()
		s.each = func(f *fakeLife) { f.stopFor = time.Second }
		s.mu.Unlock()
		s.sensor.ask()
		sleep(time.Second)
		s.expect(StateRunning)
		for range 3 { // asked while it stops already: one start is enough for all
			s.sensor.ask()
			synctest.Wait()
		}
		sleep(time.Minute)
		s.expect(StateRunning)
		if s.count() != 4 {
			t.Fatalf("%d processes after asking again and again", s.count())
		}
		s.mu.Lock()
		s.each = crash
		s.mu.Unlock()
		s.last().end(child.Exit{Code: 1})
		sleep(10 * time.Second)
		s.expect(StateBackoff)
		s.mu.Lock()
		s.each = nil
		s.mu.Unlock()
		s.sensor.ask()
		s.expect(StateRunning)
		s.last().end(child.Exit{Code: 78})
		s.expect(StateFailed)
		s.sensor.ask()
		s.expect(StateRunning)
	})
}

func TestAStartThatFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		err   error
		want  State
		waits []time.Duration
	}{
		{"for a while", errors.New("cannot find it"), StateBackoff, []time.Duration{50 * time.Millisecond, time.Second, 2 * time.Second}},
		{"because of others", fmt.Errorf("%w: the database", errAway), StateBackoff, []time.Duration{time.Second, time.Second, time.Second}},
		{"until a change", fmt.Errorf("%w: bad entry point", errRefused), StateFailed, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, make(chan struct{}, 1))
				s.failing = test.err
				s.aim(wanted("1"))
				s.expect(test.want)
				if info := s.sensor.info(); info.Problem != test.err.Error() {
					t.Errorf("problem %q", info.Problem)
				}
				for _, wait := range test.waits {
					if got := time.Until(*s.sensor.info().NextStart); got != wait {
						t.Errorf("wait %s, want %s", got, wait)
					}
					sleep(wait)
					s.expect(test.want)
				}
				s.mu.Lock()
				s.failing = nil
				s.mu.Unlock()
				s.aim(wanted("2"))
				s.expect(StateRunning)
			})
		})
	}
}

func TestWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		s.aim(wanted("1", func(m *manifest.Sensor) { m.Watchdog = manifest.Duration(30 * time.Second) }))
		for range 10 { // signs of life keep it
			sleep(29 * time.Second)
			s.sensor.stats.alive(time.Now())
		}
		s.expect(StateRunning)
		s.sensor.stats.submitting(time.Now()) // held back by us: not its fault
		sleep(10 * time.Minute)
		s.sensor.stats.submitted(time.Now())
		s.expect(StateRunning)
		if s.count() != 1 {
			t.Fatalf("%d processes", s.count())
		}
		sleep(40 * time.Second)
		s.expect(StateRunning)
		if s.count() != 2 {
			t.Fatalf("%d processes after silence", s.count())
		}
		info := s.sensor.info()
		if !strings.Contains(info.LastExit, "watchdog") || info.Restarts != 1 {
			t.Errorf("it shows %+v", info)
		}
		s.sensor.ask() // what was its watchdog's is over
		s.expect(StateRunning)
		if s.count() != 3 {
			t.Fatalf("%d processes after asking", s.count())
		}
	})
}

func TestUpdatesAreToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		updates := func(m *manifest.Sensor) { m.Updates = true }
		s.aim(wanted("1", updates))
		s.aim(wanted("1", updates))
		told := func() int {
			f := s.last()
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.told
		}
		if told() != 0 {
			t.Fatalf("told %d times without a change", told())
		}
		other := wanted("1", updates)
		other.list = "another"
		s.aim(other)
		s.aim(other)
		if told() != 1 || s.count() != 1 {
			t.Fatalf("told %d times, %d processes", told(), s.count())
		}
	})
}

// TestAtMostFourChangeAtOnce changes many sensors at a time.
func TestAtMostFourChangeAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, maxStarts)
		var mu sync.Mutex
		busy, most := 0, 0
		change := func(by int) {
			mu.Lock()
			defer mu.Unlock()
			busy += by
			most = max(most, busy)
		}
		stages := make([]*stage, 50)
		for i := range stages {
			s := newStage(t, slots)
			s.before = func(context.Context) { change(1); sleep(50 * time.Millisecond); change(-1) }
			s.each = func(f *fakeLife) { f.stopFor = 50 * time.Millisecond }
			stages[i] = s
		}
		for _, key := range []string{"1", "2"} {
			for _, s := range stages {
				s.sensor.aim(wanted(key))
			}
			sleep(time.Minute)
			synctest.Wait()
			running := 0
			for _, s := range stages {
				if s.sensor.state() == StateRunning && s.last().key == key {
					running++
				}
			}
			if running != len(stages) {
				t.Errorf("%d of %d run with key %s after a minute", running, len(stages), key)
			}
		}
		if most != 4 {
			t.Errorf("%d started at once, want 4", most)
		}
		if len(slots) != 0 {
			t.Errorf("%d slots are still held", len(slots))
		}
	})
}

// Nothing is started beside what a process left behind that does not die: that is told, and what the end of the process
// means holds once it is gone.
func TestWhatOutlivesASensor(t *testing.T) {
	t.Parallel()
	poll := func(m *manifest.Sensor) { m.PollInterval = manifest.Duration(time.Minute) }
	dog := func(m *manifest.Sensor) { m.Watchdog = manifest.Duration(10 * time.Second) }
	ends := func(code int) func(s *stage) {
		return func(s *stage) { s.last().end(child.Exit{Code: code, Outlived: true}) }
	}
	for name, c := range map[string]struct {
		change  func(*manifest.Sensor)
		end     func(s *stage)
		then    State
		problem string // after it
	}{
		"crash":    {nil, ends(1), StateBackoff, "exit 1"},
		"finished": {poll, ends(0), StateWaiting, ""},
		"refused":  {nil, ends(exitRefused), StateFailed, "exit 78: waits for a change of its configuration"},
		"silent":   {dog, func(*stage) { sleep(12500 * time.Millisecond) }, StateBackoff, "its watchdog found it silent"},
		"edited":   {nil, func(s *stage) { s.aim(wanted("2")) }, StateRunning, ""},
		"asked":    {nil, func(s *stage) { s.sensor.ask() }, StateRunning, ""},
		"panicked": {nil, nil, StateBackoff, "internal error, see the log"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, make(chan struct{}, 1))
				s.each = func(f *fakeLife) { f.leaves = true }
				first := wanted("1")
				if c.change != nil {
					first = wanted("1", c.change)
				}
				if c.end == nil {
					s.sensor.logger = slog.New(&failOnPanic{t: t, Handler: slog.DiscardHandler, expected: new(atomic.Int64)})
					s.sensor.stateChanged = func(now Change) {
						if now.State == StateRunning {
							panic("out of order")
						}
					}
				}
				s.aim(first)
				life := s.last()
				if c.end != nil {
					s.expect(StateRunning)
					c.end(s)
				}
				s.expect(StateUnkillable)
				if c.then == StateRunning {
					sleep(time.Hour) // the others would be over with what their end means
				}
				s.expect(StateUnkillable)
				info := s.sensor.info()
				if !strings.Contains(info.Problem, "it waits for what that left behind") || info.PID != 0 || info.NextStart != nil {
					t.Errorf("it shows %+v", info)
				}
				if n := testutil.ToFloat64(s.sensor.metrics.unkillable); n != 1 || s.count() != 1 {
					t.Errorf("%v are counted, %d started", n, s.count())
				}
				close(life.gone)
				s.expect(c.then)
				if info := s.sensor.info(); info.Problem != c.problem {
					t.Errorf("then it shows %+v", info)
				}
			})
		})
	}
}

func TestAPanicOfTheSupervisionIsContained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, make(chan struct{}, 1))
		var panics atomic.Int64
		s.sensor.logger = slog.New(&failOnPanic{t: t, Handler: slog.DiscardHandler, expected: &panics})
		s.before = func(context.Context) {
			if panics.Load() == 0 {
				panic("out of order")
			}
		}
		s.aim(wanted("1"))
		s.expect(StateBackoff)
		if info := s.sensor.info(); info.Problem != "internal error, see the log" || panics.Load() != 1 {
			t.Errorf("%d panics, it shows %+v", panics.Load(), info)
		}
		sleep(time.Second)
		s.expect(StateRunning)
	})
}

func TestTheEndStopsEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := make(chan struct{}, 1)
		running, waiting := newStage(t, slots), newStage(t, slots)
		running.aim(wanted("1"))
		waiting.each = crash
		waiting.aim(wanted("1"))
		for _, s := range []*stage{running, waiting} {
			s.end()
			<-s.ended
			if s.sensor.state() != StateStopped {
				t.Errorf("ended %s", s.sensor.state())
			}
		}
		select {
		case <-running.last().done:
		default:
			t.Error("a process still runs")
		}
	})
}

// What the database says of a lease holds at once, whatever this node still believes; under another lease
// it goes on.
func TestALostLeaseStopsTheSensor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := newStage(t, make(chan struct{}, 4))
		var told []string
		st.sensor.leaseLost = func(ref string) { told = append(told, ref) }
		under := func(lease string) *target {
			target := wanted("a")
			target.hold(lease, true)
			return target
		}
		st.aim(under("one"))
		st.expect(StateRunning)
		st.sensor.lose("one")
		st.sensor.lose("one")
		st.expect(StateStopped)
		if info := st.sensor.info(); info.Problem != reasonElsewhere || len(told) != 1 {
			t.Errorf("problem %q, told %v", info.Problem, told)
		}
		st.aim(under("one")) // a look that comes before the election
		st.expect(StateStopped)
		st.aim(under("two"))
		st.expect(StateRunning)
		st.sensor.lose("one") // the last words of the former process
		st.expect(StateRunning)
		// A process belongs to its lease, also where nothing was heard of the loss.
		st.aim(under("three"))
		st.expect(StateRunning)
		if got := st.count(); got != 3 {
			t.Errorf("%d processes", got)
		}
	})
}
