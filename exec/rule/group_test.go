package rule

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// withConditions makes a catalog of one rule for each condition.
func withConditions(t testing.TB, conditions ...string) *store.Catalog {
	t.Helper()
	c := catalogOf(t, 1, pack+"-- p/rules/r.yaml --\ntrigger: t\naction: b\n")
	model := c.Rules["p.r"]
	delete(c.Rules, "p.r")
	for i, when := range conditions {
		record := *model
		rule := *model.Spec.(*manifest.Rule)
		rule.Name = fmt.Sprintf("r%05d", i)
		rule.Ref, rule.When = "p."+rule.Name, when
		record.Ref, record.Digest, record.Spec = rule.Ref, model.Digest+rule.Ref+when, &rule
		c.Rules[record.Ref] = &record
	}
	return c
}

// TestTheIndexChangesNothing compares what an index finds with what evaluating every rule finds, for
// random rules and payloads.
func TestTheIndexChangesNothing(t *testing.T) {
	t.Parallel()
	values := rapid.SampledFrom([]string{`"a"`, `"b"`, `1`, `1.5`, `true`, `"1"`, `9007199254740993`})
	fields := rapid.SampledFrom([]string{"x", "y", "o.x"})
	condition := rapid.Custom(func(t *rapid.T) string {
		term := fmt.Sprintf("event.payload.%s == %s", fields.Draw(t, "field"), values.Draw(t, "value"))
		more := rapid.SampledFrom([]string{
			"", " and event.payload.y == 1", " or event.payload.y == 1", " and event.payload.x > 0", " and not (event.payload.y == 1 or false)",
			" ? true : event.payload.y", " and true or true",
		})
		return rapid.SampledFrom([]string{"", "not ", "event.payload.x + 1 > 2 and "}).Draw(t, "before") + term + more.Draw(t, "after")
	})
	json := rapid.SampledFrom([]string{`"a"`, `"b"`, `1`, `1.0`, `1.5`, `true`, `null`, `[1]`, `{"x":"a"}`, `9007199254740993`, `9007199254740992`})
	rapid.Check(t, func(rt *rapid.T) {
		conditions := rapid.SliceOfN(condition, indexFrom, 3*indexFrom).Draw(rt, "conditions")
		ix := NewIndex(withConditions(t, conditions...), nil, quiet())
		whole := NewIndex(ix.catalog, nil, quiet())
		whole.triggers["p.t"].all.index.Do(func() {}) // never built: every rule is evaluated
		for range 5 {
			payload := fmt.Sprintf(`{"x":%s,"y":%s,"o":{"x":%s}}`, json.Draw(rt, "x"), json.Draw(rt, "y"), json.Draw(rt, "z"))
			got, want := summary(ix.Match(event(payload), noConfig)), summary(whole.Match(event(payload), noConfig))
			if diff := cmp.Diff(want, got); diff != "" {
				rt.Fatalf("%s\n%s\n%s", payload, strings.Join(conditions, "\n"), diff)
			}
		}
	})
}

func TestOnlyCandidatesAreCompiled(t *testing.T) {
	t.Parallel()
	var conditions []string
	for i := range 1000 {
		conditions = append(conditions, fmt.Sprintf("event.payload.host == 'h%d' and event.payload.n > 2", i))
	}
	ix := NewIndex(withConditions(t, conditions...), nil, quiet())
	if got := summary(ix.Match(event(`{"host":"h77","n":3}`), noConfig)); len(got) != 1 || got[0] != "p.r00077 matched p.b.0.0{}" {
		t.Errorf("matched %v", got)
	}
	compiled := 0
	for _, e := range ix.rules {
		if e.program != nil {
			compiled++
		}
	}
	if compiled != 1 {
		t.Errorf("%d of 1000 rules were compiled for one event", compiled)
	}
}

func TestOnlyTheRulesThatWereAskedFor(t *testing.T) {
	t.Parallel()
	ix := NewIndex(withConditions(t, "true", "true", "true"), nil, quiet())
	e := event(`{}`)
	e.Rules = []string{"p.r00001", "p.unknown"}
	if diff := cmp.Diff([]string{"p.r00001 matched p.b.0.0{}"}, summary(ix.Match(e, noConfig))); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkMatch10kRules has ten thousand rules on one trigger, of which one matches.
func BenchmarkMatch10kRules(b *testing.B) {
	for name, when := range map[string]string{
		"each its host":       "event.payload.host == 'h%d' and event.payload.n > 2",
		"no rule can be left": "event.payload.n > 2 and event.payload.host == 'h%d'",
	} {
		b.Run(name, func(b *testing.B) {
			conditions := make([]string, 10_000)
			for i := range conditions {
				conditions[i] = fmt.Sprintf(when, i)
			}
			ix := NewIndex(withConditions(b, conditions...), nil, quiet())
			e := event(`{"host":"h77","n":3}`)
			ix.Match(e, noConfig) // compiles
			b.ReportAllocs()
			for b.Loop() {
				if len(ix.Match(e, noConfig)) != 1 {
					b.Fatal("no match")
				}
			}
		})
	}
	b.Run("by instance", func(b *testing.B) {
		c := manyRules(b, 10_000)
		ix := NewIndex(c, nil, quiet())
		e := event(`{"kind":"x","n":3}`)
		e.Instance, _ = c.Triggers["p.t"].Spec.(*manifest.Trigger).Instance("p.r", map[string]any{"zone": "77"})
		for b.Loop() {
			if len(ix.Match(e, noConfig)) != 1 {
				b.Fatal("no match")
			}
		}
	})
	b.Run("first event, equal texts", func(b *testing.B) {
		conditions := make([]string, 10_000)
		for i := range conditions {
			conditions[i] = "event.payload.n > 2"
		}
		c := withConditions(b, conditions...)
		e := event(`{"n":1}`)
		for b.Loop() {
			NewIndex(c, nil, quiet()).Match(e, noConfig)
		}
	})
}
