package rule

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// house is a real store with packs in it.
type house struct {
	*store.Store
	url string

	mu     sync.Mutex
	newest *store.Catalog
	loads  int
}

func newHouse(t testing.TB) *house {
	url := storetest.NewURL(t)
	return &house{Store: storetest.Open(t, url), url: url}
}

// apply puts the packs of an archive into force.
func (h *house) apply(t testing.TB, archive string) (generation int64) {
	t.Helper()
	var changes []store.PackChange
	for folder, files := range packsOf(archive) {
		bundle := manifest.Parse(folder, files)
		if bundle.Errors.HasErrors() {
			t.Fatal(bundle.Errors)
		}
		change := store.PackChange{
			Ref: folder, Directory: "/packs", Manifest: bundle.Pack,
			Revision: &store.NewRevision{Digest: fmt.Sprintf("%064x", time.Now().UnixNano()), Version: "1.0.0", Cause: "test"},
		}
		for _, component := range bundle.Components() {
			change.Put = append(change.Put, store.PutComponent{Spec: component, Digest: recordOf(t, component).Digest, FilesDigest: "f"})
		}
		changes = append(changes, change)
	}
	generation, err := h.Apply(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

// Catalog gives what it has, as long as that is new enough.
func (h *house) Catalog(ctx context.Context, generation int64) (*store.Catalog, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.newest != nil && h.newest.Generation >= generation {
		return h.newest, nil
	}
	c, err := h.Store.Catalog(ctx, h.newest)
	if err != nil {
		return nil, err
	}
	h.newest = c
	h.loads++
	return c, nil
}

func (h *house) intake(t testing.TB) *Intake {
	t.Helper()
	i := New(Options{Store: h.Store, Catalogs: h, Logger: quiet()})
	h.run(t, i)
	return i
}

// run runs an intake until the test ends.
func (h *house) run(t testing.TB, i *Intake) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := i.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

func TestFromEventToQueue(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.apply(t, pack+"-- p/rules/r.yaml --\ntrigger: t\nwhen: event.payload.n > 2\naction: {ref: a, parameters: {message: 'n is {{ event.payload.n }}', token: '{{ secret.key }}'}}\n")
	i := h.intake(t)
	if _, err := i.Submit(t.Context(), store.NewEvent{Trigger: "p.t", Source: "p.s", Payload: json.RawMessage(`{"n":1}`)}); err != nil {
		t.Fatal(err)
	}
	stored, err := i.Submit(t.Context(), store.NewEvent{Trigger: "p.t", Source: "p.s", EventID: "e", Payload: json.RawMessage(`{"n":3}`)})
	if err != nil {
		t.Fatal(err)
	}
	again, err := i.Submit(t.Context(), store.NewEvent{Trigger: "p.t", Source: "p.s", EventID: "e", Payload: json.RawMessage(`{"n":3}`)})
	if err != nil {
		t.Fatal(err)
	}
	if !again.Duplicate || again.ID != stored.ID {
		t.Errorf("a replay gave %+v", again)
	}
	_, enforcements, err := h.Event(t.Context(), stored.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(enforcements) != 1 || enforcements[0].Rule != "p.r" || enforcements[0].Status != store.EnforcementMatched {
		t.Fatalf("enforcements %+v", enforcements)
	}
	executions, err := h.ListExecutions(t.Context(), store.ExecutionFilter{})
	if err != nil {
		t.Fatal(err)
	}
	if len(executions) != 1 || executions[0].Action != "p.a" || *executions[0].EventID != stored.ID {
		t.Fatalf("executions %+v", executions)
	}
	claimed, err := h.Claim(t.Context(), "node", 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(claimed) != 1 {
		t.Fatalf("%d claimed", len(claimed))
	}
	var parameters map[string]any
	if err := json.Unmarshal(claimed[0].Parameters, &parameters); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"message": "n is 3"}, parameters); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"/token": "key"}, claimed[0].Secrets); diff != "" {
		t.Error(diff)
	}
}

// TestEventsMeetTheRulesInForce changes the rules behind the back of a running intake.
func TestEventsMeetTheRulesInForce(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.apply(t, pack+"-- p/rules/r.yaml --\ntrigger: t\naction: b\n")
	i := h.intake(t)
	for _, test := range []struct {
		archive string
		want    string
	}{
		{want: "p.r matched p.b.0.0{}"},
		{archive: pack + "-- p/rules/r.yaml --\ntrigger: t\naction: a\n", want: `p.r matched p.a.0.0{"message":"hello"}`},
		{archive: pack + "-- p/rules/r.yaml --\ntrigger: t\naction: a\nwhen: event.payload.n == 1\n"},
	} {
		if test.archive != "" {
			h.apply(t, test.archive)
		}
		stored, err := i.Submit(t.Context(), store.NewEvent{Trigger: "p.t", Source: "api"})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		if test.want != "" {
			want = []string{test.want}
		}
		if diff := cmp.Diff(want, summary(stored.Matches)); diff != "" {
			t.Error(diff)
		}
	}
	if h.loads != 3 {
		t.Errorf("the catalog was loaded %d times for 3 generations", h.loads)
	}
}

// TestOrderSurvivesLostSessions ends every session of the database again and again under load. Events without an id have
// their numbers before they are inserted, and may be stored again, with those that follow.
func TestOrderSurvivesLostSessions(t *testing.T) {
	t.Parallel()
	for name, named := range map[string]bool{"with ids": true, "plain": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			orderSurvivesLostSessions(t, named)
		})
	}
}

func orderSurvivesLostSessions(t *testing.T, named bool) {
	h := newHouse(t)
	h.apply(t, pack+"-- p/rules/r.yaml --\ntrigger: t\naction: b\n")
	i := h.intake(t)
	const sources, each = 4, 2000
	var handing, settling sync.WaitGroup
	twice := make(chan struct{}) // closed when the sessions were ended twice
	for s := range sources {
		handing.Go(func() {
			for n := range each {
				if n == each/2 {
					<-twice // however quick the machine is
				}
				settling.Add(1)
				e := store.NewEvent{
					Trigger: "p.t", Source: "p.s" + strconv.Itoa(s),
					Payload: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n)),
				}
				if named {
					e.EventID = strconv.Itoa(n)
				}
				err := i.SubmitAsync(t.Context(), e, func(_ store.StoredEvent, err error) {
					defer settling.Done()
					if err != nil {
						t.Errorf("event %d of source %d: %v", n, s, err)
					}
				})
				if err != nil {
					settling.Done()
					t.Error(err)
				}
			}
		})
	}
	handed := make(chan struct{})
	go func() {
		handing.Wait()
		settling.Wait()
		close(handed)
	}()
	breaker := storetest.Connect(t, h.url)
	broken := 0
	for busy := true; busy; {
		select {
		case <-handed:
			busy = false
		case <-time.After(20 * time.Millisecond):
			if broken == 50 {
				continue
			}
			broken++
			if _, err := breaker.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"); err != nil {
				t.Fatal(err)
			}
			if broken == 2 {
				close(twice)
			}
		}
	}
	rows, err := breaker.Query(t.Context(), "SELECT source, (payload->>'n')::int FROM attune.event ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	next := map[string]int{}
	again := 0
	for rows.Next() {
		var source string
		var n int
		if err := rows.Scan(&source, &n); err != nil {
			t.Fatal(err)
		}
		switch {
		case n == next[source]:
			next[source]++
		case n < next[source] && !named:
			again++
		default:
			t.Fatalf("source %s: event %d, want %d", source, n, next[source])
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for s := range sources {
		if got := next["p.s"+strconv.Itoa(s)]; got != each {
			t.Errorf("source %d: %d of %d events", s, got, each)
		}
	}
	var enforcements, executions int
	if err := breaker.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM attune.enforcement), (SELECT count(*) FROM attune.execution_now)").Scan(&enforcements, &executions); err != nil {
		t.Fatal(err)
	}
	if want := sources*each + again; enforcements != want || executions != want {
		t.Errorf("%d enforcements, %d executions, want %d of both", enforcements, executions, want)
	}
}

func BenchmarkIntake(b *testing.B) {
	for name, rules := range map[string]string{
		"no rule":  "",
		"one rule": "-- p/rules/r.yaml --\ntrigger: t\nwhen: event.payload.n >= 0\naction: {ref: a, parameters: {message: '{{ event.payload.n }}'}}\n",
	} {
		b.Run(name, func(b *testing.B) {
			h := newHouse(b)
			h.apply(b, pack+rules)
			i := h.intake(b)
			payload := json.RawMessage(`{"n":1,"text":"` + fmt.Sprintf("%0150d", 0) + `"}`)
			var settling sync.WaitGroup
			for b.Loop() {
				settling.Add(1)
				if err := i.SubmitAsync(b.Context(), store.NewEvent{Trigger: "p.t", Source: "p.s", Payload: payload}, func(store.StoredEvent, error) { settling.Done() }); err != nil {
					b.Fatal(err)
				}
			}
			settling.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkOneEvent is the time from hand-over to commit on an idle system.
func BenchmarkOneEvent(b *testing.B) {
	h := newHouse(b)
	h.apply(b, pack+"-- p/rules/r.yaml --\ntrigger: t\naction: b\n")
	i := h.intake(b)
	for b.Loop() {
		if _, err := i.Submit(b.Context(), store.NewEvent{Trigger: "p.t", Source: "api"}); err != nil {
			b.Fatal(err)
		}
	}
}
