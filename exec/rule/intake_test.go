package rule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
)

var (
	errPassing = errors.New("the server is starting")
	errLasting = errors.New("permission denied")
)

// database is a stand-in for the store where its failures are the point.
type database struct {
	mu      sync.Mutex
	batches [][]store.NewEvent // stored
	tries   int
	fail    func(try int, events []store.NewEvent) (stored int, err error)
	hold    chan struct{} // a commit waits for it
}

func (d *database) commit(ctx context.Context, events []store.NewEvent, match store.Matcher) ([]store.StoredEvent, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tries++
	if d.hold != nil {
		d.mu.Unlock()
		select {
		case <-d.hold:
		case <-ctx.Done():
		}
		d.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	n := len(events)
	var err error
	if d.fail != nil {
		if n, err = d.fail(d.tries, events); err == nil {
			n = len(events)
		}
	}
	stored := make([]store.StoredEvent, n)
	for i := range stored {
		stored[i].EventID = events[i].EventID
		stored[i].Problem = events[i].Problem
	}
	if n > 0 {
		d.batches = append(d.batches, events[:n])
	}
	return stored, err
}

func (d *database) ids() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for _, batch := range d.batches {
		for _, e := range batch {
			ids = append(ids, e.EventID)
		}
	}
	return ids
}

// rig is an Intake on a stand-in, with its Run.
type rig struct {
	*Intake
	database *database
	end      context.CancelFunc
	ended    chan struct{}
}

func newRig(t *testing.T, c *store.Catalog, d *database) *rig {
	t.Helper()
	i := New(Options{Catalogs: fixed(c), Logger: quiet()})
	i.commit = d.commit
	// What these tests are about is the way where something is wrong.
	i.begin = func(context.Context, []store.NewEvent, bool, func()) (begun, error) { return nil, errPassing }
	i.isTransient = func(err error) bool { return errors.Is(err, errPassing) || errors.Is(err, context.DeadlineExceeded) }
	ctx, cancel := context.WithCancel(t.Context())
	r := &rig{Intake: i, database: d, end: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		if err := i.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-r.ended
	})
	return r
}

func numbered(n int) store.NewEvent {
	return store.NewEvent{Trigger: "p.t", Source: "p.s", EventID: fmt.Sprint(n)}
}

// fates collects what done was called with, by number.
type fates struct {
	mu     sync.Mutex
	order  []string
	errors map[string]error
}

func (f *fates) of(n int) func(store.StoredEvent, error) {
	return func(_ store.StoredEvent, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.order = append(f.order, fmt.Sprint(n))
		if err != nil {
			if f.errors == nil {
				f.errors = map[string]error{}
			}
			f.errors[fmt.Sprint(n)] = err
		}
	}
}

func upTo(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	return ids
}

func TestEventsAreGroupedInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{hold: make(chan struct{})}
		r := newRig(t, catalogOf(t, 1, pack), d)
		var f fates
		for n := range 900 {
			if err := r.SubmitAsync(t.Context(), numbered(n), f.of(n)); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				synctest.Wait() // the first goes at once, alone
			}
		}
		close(d.hold)
		synctest.Wait()
		if diff := cmp.Diff(upTo(900), d.ids()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(upTo(900), f.order); diff != "" {
			t.Error(diff)
		}
		if len(d.batches) != 2 || len(d.batches[0]) != 1 {
			t.Errorf("%d commits, the first of %d events", len(d.batches), len(d.batches[0]))
		}
	})
}

func TestAFullQueueHoldsBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		payload   string
		all, most int
	}{
		"events": {payload: "{}", all: 3000, most: maxQueueEvents},
		"bytes":  {payload: `{"x":"` + strings.Repeat("y", 1<<20) + `"}`, all: 30, most: 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := &database{hold: make(chan struct{})}
				r := newRig(t, catalogOf(t, 1, pack), d)
				var f fates
				taken := 0
				submit := func(n int) {
					e := numbered(n)
					e.Payload = json.RawMessage(test.payload)
					if err := r.SubmitAsync(t.Context(), e, f.of(n)); err != nil {
						t.Error(err)
					}
					taken = n + 1
				}
				submit(0)
				synctest.Wait()
				go func() {
					for n := 1; n < test.all; n++ {
						submit(n)
					}
				}()
				synctest.Wait()
				if taken != test.most+1 { // and the one that is being committed
					t.Errorf("%d were taken", taken)
				}
				close(d.hold)
				synctest.Wait()
				if diff := cmp.Diff(upTo(test.all), d.ids()); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestAnOutageLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		d := &database{fail: func(int, []store.NewEvent) (int, error) {
			if time.Since(begin) < 10*time.Minute {
				return 0, errPassing
			}
			return 0, nil
		}}
		r := newRig(t, catalogOf(t, 1, pack), d)
		var f fates
		for n := range 50 {
			if err := r.SubmitAsync(t.Context(), numbered(n), f.of(n)); err != nil {
				t.Fatal(err)
			}
		}
		sleep(10*time.Minute + 2*retryMost)
		synctest.Wait()
		if diff := cmp.Diff(upTo(50), d.ids()); diff != "" {
			t.Error(diff)
		}
		if d.tries < 90 || d.tries > 180 {
			t.Errorf("%d tries in ten minutes", d.tries)
		}
		if got := testutil.ToFloat64(r.metrics.retries); got != float64(d.tries-2) && got != float64(d.tries-1) {
			t.Errorf("%v retries counted of %d tries", got, d.tries)
		}
	})
}

func TestOneEventThatCannotBeStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{hold: make(chan struct{})}
		d.fail = func(_ int, events []store.NewEvent) (int, error) {
			if slices.ContainsFunc(events, func(e store.NewEvent) bool { return e.EventID == "37" }) {
				return 0, errLasting
			}
			return 0, nil
		}
		r := newRig(t, catalogOf(t, 1, pack), d)
		var f fates
		for n := range 100 {
			if err := r.SubmitAsync(t.Context(), numbered(n), f.of(n)); err != nil {
				t.Fatal(err)
			}
		}
		close(d.hold)
		sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff(upTo(100), f.order); diff != "" {
			t.Errorf("the order of fates: %s", diff)
		}
		if len(f.errors) != 1 || f.errors["37"] == nil || !strings.Contains(f.errors["37"].Error(), "permission denied") {
			t.Errorf("refused: %v", f.errors)
		}
		if len(d.ids()) != 99 {
			t.Errorf("%d stored", len(d.ids()))
		}
	})
}

func TestAnAnswerForTheFirstOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{hold: make(chan struct{})}
		d.fail = func(try int, events []store.NewEvent) (int, error) {
			if try == 2 {
				return 3, errPassing
			}
			return 0, nil
		}
		r := newRig(t, catalogOf(t, 1, pack), d)
		var f fates
		for n := range 10 {
			if err := r.SubmitAsync(t.Context(), numbered(n), f.of(n)); err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				synctest.Wait()
			}
		}
		close(d.hold)
		sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff(upTo(10), d.ids()); diff != "" {
			t.Errorf("stored twice or not at all: %s", diff)
		}
		if diff := cmp.Diff(upTo(10), f.order); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPanicsAreContained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{hold: make(chan struct{})}
		d.fail = func(_ int, events []store.NewEvent) (int, error) {
			if slices.ContainsFunc(events, func(e store.NewEvent) bool { return e.EventID == "3" }) {
				panic("number three")
			}
			return 0, nil
		}
		r := newRig(t, catalogOf(t, 1, pack), d)
		var f fates
		for n := range 10 {
			done := f.of(n)
			if n == 5 {
				done = func(store.StoredEvent, error) { panic("my own fault") }
			}
			if err := r.SubmitAsync(t.Context(), numbered(n), done); err != nil {
				t.Fatal(err)
			}
		}
		close(d.hold)
		sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"0", "1", "2", "3", "4", "6", "7", "8", "9"}, f.order); diff != "" {
			t.Error(diff)
		}
		if len(f.errors) != 1 || f.errors["3"] == nil {
			t.Errorf("refused: %v", f.errors)
		}
	})
}

func TestTheEndStoresWhatWasTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{hold: make(chan struct{})}
		r := newRig(t, catalogOf(t, 1, pack), d)
		var f fates
		for n := range 20 {
			if err := r.SubmitAsync(t.Context(), numbered(n), f.of(n)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		r.end()
		synctest.Wait()
		close(d.hold)
		<-r.ended
		if diff := cmp.Diff(upTo(20), d.ids()); diff != "" {
			t.Error(diff)
		}
		if err := r.SubmitAsync(t.Context(), numbered(20), f.of(20)); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestTheEndWaitsForTheDatabaseOnlySoLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{fail: func(int, []store.NewEvent) (int, error) { return 0, errPassing }}
		r := newRig(t, catalogOf(t, 1, pack), d)
		var f fates
		const handedOver = 4 * maxQueueEvents // far more than there is room for
		refused := make(chan error, handedOver)
		var handing sync.WaitGroup
		for n := range handedOver {
			handing.Go(func() {
				if err := r.SubmitAsync(t.Context(), numbered(n), f.of(n)); err != nil {
					refused <- err
				}
			})
		}
		synctest.Wait()
		begin := time.Now()
		r.end()
		<-r.ended
		if took := time.Since(begin); took != drainTime {
			t.Errorf("the end took %s", took)
		}
		handing.Wait()
		close(refused)
		n := 0
		for err := range refused {
			n++
			if !errors.Is(err, ErrClosed) {
				t.Errorf("refused with %v", err)
			}
		}
		for id, err := range f.errors {
			n++
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v", id, err)
			}
		}
		if n != handedOver {
			t.Errorf("%d of %d were told that they are not stored", n, handedOver)
		}
	})
}

func TestSubmitWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &database{hold: make(chan struct{})}
		r := newRig(t, catalogOf(t, 1, pack), d)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Submit(ctx, numbered(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the database is away: %v", err)
		}
		close(d.hold)
		stored, err := r.Submit(t.Context(), numbered(2))
		if err != nil || stored.EventID != "2" {
			t.Errorf("got %+v, %v", stored, err)
		}
	})
}

func TestEventsAreAdmitted(t *testing.T) {
	t.Parallel()
	const triggers = pack + `
-- p/triggers/keep.yaml --
payload_schema: {degrees: {type: number, required: true}}
-- p/triggers/refuse.yaml --
payload_schema: {degrees: {type: number, required: true}}
on_invalid: refuse
-- p/triggers/off.yaml --
enabled: false
-- p/triggers/gone.yaml --
enabled: true
`
	for _, test := range []struct {
		name, trigger, payload string
		err                    error
		text                   string
		problem                string
		reason                 string
	}{
		{name: "anything where there is no schema", trigger: "p.t", payload: `{"x":1}`},
		{name: "no payload", trigger: "p.t"},
		{name: "a payload that fits", trigger: "p.refuse", payload: `{"degrees":1.5}`},
		{name: "one that does not, kept", trigger: "p.keep", payload: `{"degrees":"hot"}`, problem: `/degrees: found "hot", expected number`},
		{name: "one that does not, refused", trigger: "p.refuse", payload: `{"degrees":"hot"}`, err: ErrInvalidPayload, reason: rejectInvalid, text: `cannot take an event of "p.refuse": the payload does not fit the trigger: /degrees: found "hot", expected number`},
		{name: "a list", trigger: "p.t", payload: ` [1]`, err: ErrInvalidPayload, reason: rejectInvalid},
		{name: "no JSON", trigger: "p.keep", payload: `{x`, problem: "cannot read the payload: invalid character 'x' looking for beginning of object key string"},
		{name: "unknown", trigger: "p.nobody", err: ErrUnknownTrigger, reason: rejectUnknown, text: `cannot take an event of "p.nobody": no such trigger`},
		{name: "gone", trigger: "p.gone", err: ErrUnknownTrigger, reason: rejectUnknown},
		{name: "disabled", trigger: "p.off", err: ErrDisabledTrigger, reason: rejectDisabled},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := catalogOf(t, 1, triggers, func(c *store.Catalog) { c.Triggers["p.gone"].Present = false })
			r := newRig(t, c, &database{})
			stored, err := r.Submit(t.Context(), store.NewEvent{Trigger: test.trigger, Payload: json.RawMessage(test.payload)})
			if !errors.Is(err, test.err) || test.text != "" && err.Error() != test.text {
				t.Errorf("error %v, want %v %s", err, test.err, test.text)
			}
			if stored.Problem != test.problem {
				t.Errorf("problem %q, want %q", stored.Problem, test.problem)
			}
			for _, reason := range []string{rejectUnknown, rejectDisabled, rejectInvalid, rejectStore, rejectClosed} {
				want := 0.0
				if reason == test.reason {
					want = 1
				}
				if got := testutil.ToFloat64(r.metrics.rejected.WithLabelValues(reason)); got != want {
					t.Errorf("rejected as %s: %v, want %v", reason, got, want)
				}
			}
		})
	}
}

// TestEventsOfALostSensor has the store leave out what another node's sensor is the source of.
func TestEventsOfALostSensor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		i := New(Options{Catalogs: fixed(catalogOf(t, 1, pack)), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		i.begin = func(context.Context, []store.NewEvent, bool, func()) (begun, error) { return nil, store.ErrNotHeld }
		i.commit = func(_ context.Context, events []store.NewEvent, _ store.Matcher) ([]store.StoredEvent, error) {
			stored := make([]store.StoredEvent, len(events))
			for n := range events {
				stored[n].Fenced = events[n].Lease == "old"
			}
			return stored, nil
		}
		var f fates
		for n, lease := range []string{"old", "new", "old"} {
			e := numbered(n)
			e.Lease = lease
			if err := i.SubmitAsync(t.Context(), e, f.of(n)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := i.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(f.errors["0"], store.ErrNotHeld) || f.errors["1"] != nil || !errors.Is(f.errors["2"], store.ErrNotHeld) {
			t.Errorf("fates %v", f.errors)
		}
		if got := testutil.ToFloat64(i.metrics.rejected.WithLabelValues(rejectFenced)); got != 2 {
			t.Errorf("%v events are counted", got)
		}
		if got := testutil.ToFloat64(i.metrics.events.WithLabelValues("p.t")); got != 1 {
			t.Errorf("%v events are counted as stored", got)
		}
		if strings.Count(log.String(), "sensor=p.s events=2") != 1 {
			t.Errorf("the log says\n%s", log.String())
		}
	})
}

// TestAMatcherFollowsTheGeneration shows the matcher a transaction that is newer than its index.
func TestAMatcherFollowsTheGeneration(t *testing.T) {
	t.Parallel()
	old := catalogOf(t, 1, pack+"-- p/rules/old.yaml --\ntrigger: t\naction: b\n")
	now := catalogOf(t, 2, pack+"-- p/rules/new.yaml --\ntrigger: t\naction: b\n")
	newest := old
	i := New(Options{Catalogs: catalogs{func() (*store.Catalog, error) { return newest, nil }}, Logger: quiet()})
	match := func(generation int64) string {
		t.Helper()
		got, err := i.match(t.Context(), generation, []store.Event{*event("{}")})
		if err != nil {
			return err.Error()
		}
		return got[0][0].Rule
	}
	if got := match(1); got != "p.old" {
		t.Errorf("generation 1: %s", got)
	}
	if got := match(2); got != "cannot load the rules: asked for generation 2, got 1" {
		t.Errorf("a catalog that is too old was taken: %s", got)
	}
	newest = now
	if got := match(1); got != "p.old" {
		t.Errorf("an index that is new enough was replaced: %s", got)
	}
	if got := match(2); got != "p.new" {
		t.Errorf("generation 2: %s", got)
	}
	newest = old // a database restored from a backup
	if _, err := i.newestIndex(t.Context()); err != nil {
		t.Error(err)
	}
	if got := match(1); got != "p.old" {
		t.Errorf("after a restore: %s", got)
	}
	newest = now
	if got := match(2); got != "p.new" {
		t.Errorf("after an older catalog: %s", got)
	}
}

func TestEventsWaitForTheFirstCatalog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		c := catalogOf(t, 1, pack)
		r := newRig(t, c, &database{})
		r.catalogs = catalogs{func() (*store.Catalog, error) {
			if time.Since(begin) < time.Minute {
				return nil, errPassing
			}
			return c, nil
		}}
		if _, err := r.Submit(t.Context(), numbered(1)); err != nil {
			t.Error(err)
		}
		if waited := time.Since(begin); waited < time.Minute || waited > time.Minute+2*retryMost {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestMetricsAreWellNamed(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	newMetrics(registry)
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}
