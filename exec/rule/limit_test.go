package rule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
)

// TestLimitsOfARule goes the whole way: from the manifest to what is stored.
func TestLimitsOfARule(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		rule     string
		payloads []string
		want     []string
	}{
		{
			name:     "throttle by key",
			rule:     "throttle: {max: 1, per: 1h, key: event.payload.host}\n",
			payloads: []string{`{"host":"a"}`, `{"host":"b"}`, `{"host":"a"}`, `{}`, `{}`},
			want: []string{
				"matched", "matched", `throttled: it has fired 1 times within 1h0m0s for key "a"`,
				"matched", "throttled: it has fired 1 times within 1h0m0s",
			},
		},
		{
			name:     "dedupe, and what cannot be told apart",
			rule:     "dedupe: {key: event.payload.id, window: 1h}\n",
			payloads: []string{`{"id":1}`, `{"id":1.0}`, `{"id":"2"}`, `{}`, `{}`},
			want: []string{
				"matched", "deduplicated: event * had the same key \"1\" and came less than 1h0m0s before", "matched",
				"matched [dedupe: the key event.payload.id has no value, so this event is like no other]",
				"matched [dedupe: the key event.payload.id has no value, so this event is like no other]",
			},
		},
		{
			name:     "dedupe of the whole payload",
			rule:     "dedupe: {window: 1h}\n",
			payloads: []string{`{"a":1,"b":[2]}`, `{"b":[2.0],"a":1}`, `{"a":1}`},
			want:     []string{"matched", "deduplicated: event * and came less than 1h0m0s before", "matched"},
		},
		{
			name:     "a key of any length",
			rule:     "dedupe: {key: event.payload.id, window: 1h}\n",
			payloads: []string{`{"id":"` + strings.Repeat("x", 10_000) + `"}`, `{"id":"` + strings.Repeat("x", 10_000) + `"}`, `{"id":"` + strings.Repeat("x", 9_999) + `"}`},
			want:     []string{"matched", "deduplicated: event * and came less than 1h0m0s before", "matched"},
		},
		{
			name:     "breaker counts executions",
			rule:     "for_each: event.payload.list\nbreaker: {executions: 3, pause: 1h}\n",
			payloads: []string{`{"list":[1,2]}`, `{"list":[1]}`, `{"list":[1]}`},
			want:     []string{"matched", "matched", "skipped: the breaker is open until *: it would lead to more than 3 executions within 1m0s"},
		},
		{
			name:     "debounce",
			rule:     "debounce: {window: 1h}\n",
			payloads: []string{`{"n":1}`, `{"n":2}`, `{"n":3}`},
			want: []string{
				"skipped: event * came before it was quiet for 1h0m0s", "skipped: event * came before it was quiet for 1h0m0s", "matched",
			},
		},
		{
			name:     "breaker of a rule that evaluates nothing",
			rule:     "breaker: {executions: 2, pause: 1h}\n",
			payloads: []string{`{}`, `{}`, `{}`, `{}`},
			want: []string{
				"matched", "matched", "skipped: the breaker is open until *: it would lead to more than 2 executions within 1m0s",
				"skipped: the breaker is open until *: it would lead to more than 2 executions within 1m0s",
			},
		},
		{
			name:     "for each counts once",
			rule:     "for_each: event.payload.list\nthrottle: {max: 1, per: 1h}\n",
			payloads: []string{`{"list":[]}`, `{"list":[1,2,3]}`, `{"list":[1]}`},
			want:     []string{"matched", "matched", "throttled: it has fired 1 times within 1h0m0s"},
		},
		{
			name:     "a key that fails",
			rule:     "throttle: {max: 1, per: 1h, key: event.payload.n > 3}\n",
			payloads: []string{`{"n":"many"}`, `{"n":4}`},
			want:     []string{`error: cannot apply throttle: cannot evaluate key "event.payload.n > 3": cannot compare "many" with 3 by order (at "event.payload.n > 3")`, "matched"},
		},
		{
			name:     "a condition that does not hold counts for none",
			rule:     "when: event.payload.n > 3\nthrottle: {max: 1, per: 1h}\n",
			payloads: []string{`{"n":1}`, `{"n":4}`, `{"n":1}`, `{"n":4}`},
			want:     []string{"", "matched", "", "throttled: it has fired 1 times within 1h0m0s"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.apply(t, pack+"-- p/rules/r.yaml --\ntrigger: t\naction: b\n"+test.rule)
			i := h.intake(t)
			var ids []int64
			for _, payload := range test.payloads {
				stored, err := i.Submit(t.Context(), store.NewEvent{Trigger: "p.t", Source: "p.s", Payload: json.RawMessage(payload)})
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, stored.ID)
			}
			var got []string
			for n, id := range ids {
				_, enforcements, err := h.Event(t.Context(), id)
				if err != nil {
					t.Fatal(err)
				}
				line := ""
				for _, e := range enforcements {
					if line = e.Status; e.Error != "" {
						line += ": " + e.Error
					}
					if len(e.Warnings) > 0 {
						line += fmt.Sprint(" ", e.Warnings)
					}
				}
				if n < len(test.want) && fits(test.want[n], line) {
					line = test.want[n]
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// fits says whether a line is as wanted, where * stands for anything.
func fits(want, line string) bool {
	before, after, star := strings.Cut(want, "*")
	return want == line || star && strings.HasPrefix(line, before) && strings.HasSuffix(line, after)
}

// TestAnOpenBreakerIsTold by metric, list and, once it is closed, by neither.
func TestAnOpenBreakerIsTold(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.apply(t, pack+"-- p/rules/r.yaml --\ntrigger: t\naction: b\nbreaker: {executions: 1, pause: 1h}\n")
	registry := prometheus.NewRegistry()
	i := New(Options{Store: h.Store, Catalogs: h, Logger: quiet(), Registerer: registry})
	h.run(t, i)
	for range 3 {
		if _, err := i.Submit(t.Context(), store.NewEvent{Trigger: "p.t", Source: "p.s"}); err != nil {
			t.Fatal(err)
		}
	}
	open := i.Breakers()
	if len(open) != 1 || open[0].Rule != "p.r" || open[0].Reason == "" || time.Until(open[0].OpenUntil) < 50*time.Minute {
		t.Fatalf("open: %+v", open)
	}
	gauge := func() float64 { return testutil.ToFloat64(i.metrics.breakerOpen.WithLabelValues("p.r")) }
	if gauge() != 1 || testutil.ToFloat64(i.metrics.breakerOpened.WithLabelValues("p.r")) != 1 {
		t.Error("the metrics do not tell it")
	}
	if n := testutil.ToFloat64(i.metrics.enforcements.WithLabelValues("p.r", store.EnforcementSkipped)); n != 2 {
		t.Errorf("%v enforcements skipped", n)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	if _, err := h.ResetRule(t.Context(), "p.r", "ada"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); len(i.Breakers()) > 0 || gauge() != 0; {
		if time.Now().After(deadline) {
			t.Fatal("a closed breaker is told as open")
		}
		select {
		case <-t.Context().Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
