package rule

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// summary shows matches as one line each.
func summary(matches []store.Match) []string {
	var lines []string
	for _, m := range matches {
		line := m.Rule + " " + m.Status
		if m.Error != "" {
			line += " (" + m.Error + ")"
		}
		for _, w := range m.Warnings {
			line += " [" + w + "]"
		}
		for _, e := range m.Executions {
			line += fmt.Sprintf(" %s.%d.%d%s", e.Action, e.Ordinal, e.Item, e.Parameters)
			for pointer, name := range e.Secrets {
				line += fmt.Sprintf(" %s=@%s", pointer, name)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func TestMatch(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		rules   string
		payload string
		change  func(*store.Catalog)
		want    []string
	}{
		{
			name:  "no condition",
			rules: "-- p/rules/r.yaml --\ntrigger: t\naction: a\n",
			want:  []string{`p.r matched p.a.0.0{"message":"hello"}`},
		},
		{
			name:    "condition and templates",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nwhen: event.payload.n > 2\naction: {ref: a, parameters: {count: '{{ event.payload.n }}', message: 'n is {{ event.payload.n }}'}}\n",
			payload: `{"n":3}`,
			want:    []string{`p.r matched p.a.0.0{"count":3,"message":"n is 3"}`},
		},
		{
			name:    "a condition that does not hold leaves nothing",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nwhen: event.payload.n > 2\naction: a\n",
			payload: `{"n":2}`,
		},
		{
			name:    "what has no value is absent, and inside text empty with a warning",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\naction: {ref: a, parameters: {count: '{{ event.payload.n }}', message: 'n is {{ event.payload.n }}'}}\n",
			payload: `{}`,
			want:    []string{`p.r matched [parameters.message: {{ event.payload.n }} had no value] p.a.0.0{"message":"n is "}`},
		},
		{
			name:    "a misfit names pointer, found and expected",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\naction: {ref: a, parameters: {count: '{{ event.payload.n }}'}}\n",
			payload: `{"n":"many"}`,
			want:    []string{`p.r error (cannot run action p.a: /count: found "many", expected integer)`},
		},
		{
			name:    "a misfit of one action queues nothing of the others",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nactions:\n- b\n- {ref: a, parameters: {count: '{{ event.payload.n }}'}}\n",
			payload: `{"n":11}`,
			want:    []string{`p.r error (cannot run action p.a: /count: found 11, expected at most 10)`},
		},
		{
			name:    "data is never evaluated",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\naction: {ref: a, parameters: {message: '{{ event.payload.m }}'}}\n",
			payload: `{"m":"{{ secret.x }} $(id) ; rm \n ${HOME}"}`,
			want:    []string{`p.r matched p.a.0.0{"message":"{{ secret.x }} $(id) ; rm \n ${HOME}"}`},
		},
		{
			name:  "a secret is a reference",
			rules: "-- p/rules/r.yaml --\ntrigger: t\naction: {ref: a, parameters: {token: '{{ secret.key }}'}}\n",
			want:  []string{`p.r matched p.a.0.0{"message":"hello"} /token=@key`},
		},
		{
			name:  "a required secret is given by its reference",
			rules: "-- p/actions/s.yaml --\nentry_point: s.sh\nparameters: {token: {type: string, minLength: 3, required: true, secret: true}}\n-- p/rules/r.yaml --\ntrigger: t\naction: {ref: s, parameters: {token: '{{ secret.key }}'}}\n",
			want:  []string{`p.r matched p.s.0.0{} /token=@key`},
		},
		{
			name:    "for each",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nfor_each: event.payload.list\nactions:\n- {ref: a, parameters: {message: '{{ item }}'}}\n- b\n",
			payload: `{"list":["x","y"]}`,
			want:    []string{`p.r matched p.a.0.0{"message":"x"} p.a.0.1{"message":"y"} p.b.1.0{} p.b.1.1{}`},
		},
		{
			name:    "for each of nothing",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nfor_each: event.payload.list\naction: a\n",
			payload: `{"list":[]}`,
			want:    []string{`p.r matched`},
		},
		{
			name:    "for each of what is no list",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nfor_each: event.payload.list\naction: a\n",
			payload: `{"list":5}`,
			want:    []string{`p.r error (cannot evaluate for_each: found 5, expected a list)`},
		},
		{
			name:    "for each of too many",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nfor_each: event.payload.list\naction: b\n",
			payload: `{"list":[` + strings.Repeat("0,", MaxItems) + `0]}`,
			want:    []string{`p.r error (cannot run for_each: 1001 items, at most 1000 are allowed)`},
		},
		{
			name:    "for each names the item that fails",
			rules:   "-- p/rules/r.yaml --\ntrigger: t\nfor_each: event.payload.list\naction: {ref: a, parameters: {count: '{{ item }}'}}\n",
			payload: `{"list":[1,99]}`,
			want:    []string{`p.r error (cannot run action p.a for item 1: /count: found 99, expected at most 10)`},
		},
		{
			name:    "neighbours do not notice an error",
			rules:   "-- p/rules/x.yaml --\ntrigger: t\naction: b\n-- p/rules/y.yaml --\ntrigger: t\nwhen: event.payload.n + [] == 1\naction: b\n-- p/rules/z.yaml --\ntrigger: t\naction: b\n",
			payload: `{"n":1}`,
			want:    []string{`p.x matched p.b.0.0{}`, `p.y error *`, `p.z matched p.b.0.0{}`},
		},
		{
			name:    "a payload that cannot be read concerns only those that read it",
			rules:   "-- p/rules/x.yaml --\ntrigger: t\naction: b\n-- p/rules/y.yaml --\ntrigger: t\nwhen: event.payload.n == 1\naction: b\n",
			payload: `{"n":1e999}`,
			want:    []string{`p.x matched p.b.0.0{}`, `p.y error (cannot read the event's payload: *`},
		},
		{
			name:   "an action that is gone",
			rules:  "-- p/rules/r.yaml --\ntrigger: t\naction: b\n",
			change: func(c *store.Catalog) { c.Actions["p.b"].Present = false },
			want:   []string{`p.r error (cannot run action p.b: no such action)`},
		},
		{
			name:   "an action that nobody knows",
			rules:  "-- p/rules/r.yaml --\ntrigger: t\naction: b\n",
			change: func(c *store.Catalog) { delete(c.Actions, "p.b") },
			want:   []string{`p.r error (cannot run action p.b: no such action)`},
		},
		{
			name:   "one action that is disabled",
			rules:  "-- p/rules/r.yaml --\ntrigger: t\nactions: [b, a]\n",
			change: func(c *store.Catalog) { c.Actions["p.b"].Enabled, c.Actions["p.b"].DisabledBy = false, "alice" },
			want:   []string{`p.r matched [action p.b is disabled: alice disabled it] p.a.1.0{"message":"hello"}`},
		},
		{
			name:   "all actions disabled",
			rules:  "-- p/rules/r.yaml --\ntrigger: t\naction: b\n",
			change: func(c *store.Catalog) { c.Actions["p.b"].Enabled, c.Actions["p.b"].ManifestEnabled = false, false },
			want:   []string{`p.r skipped (action p.b is disabled: its manifest says enabled: false)`},
		},
		{
			name:   "a rule that is disabled",
			rules:  "-- p/rules/r.yaml --\ntrigger: t\naction: b\nenabled: false\n",
			change: nil,
		},
		{
			name:   "a trigger that is disabled",
			rules:  "-- p/rules/r.yaml --\ntrigger: t\naction: b\n",
			change: func(c *store.Catalog) { c.Triggers["p.t"].Enabled = false },
		},
		{
			name:    "too much for an environment",
			rules:   "-- p/actions/e.yaml --\nentry_point: e.sh\nparameter_delivery: env\nparameters: {message: {type: string}}\n-- p/rules/r.yaml --\ntrigger: t\naction: {ref: e, parameters: {message: '{{ event.payload.m }}'}}\n",
			payload: `{"m":"` + strings.Repeat("x", manifest.MaxEnvironment) + `"}`,
			want:    []string{`p.r error (cannot run action p.e: cannot hand *`},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var changes []func(*store.Catalog)
			if test.change != nil {
				changes = append(changes, test.change)
			}
			ix := NewIndex(catalogOf(t, 1, pack+test.rules, changes...), nil, quiet())
			payload := test.payload
			if payload == "" {
				payload = "{}"
			}
			got := summary(ix.Match(event(payload), noConfig))
			for i := range got {
				if i < len(test.want) {
					if prefix, ok := strings.CutSuffix(test.want[i], "*"); ok && strings.HasPrefix(got[i], prefix) {
						got[i] = test.want[i]
					}
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExecutionsSayWhereTheyComeFrom(t *testing.T) {
	t.Parallel()
	ix := NewIndex(catalogOf(t, 1, pack+"-- p/rules/r.yaml --\ntrigger: t\naction: a\n-- p/rules/s.yaml --\ntrigger: t\naction: a\npriority: 9\nwhen: 'true'\n"), nil, quiet())
	var rounds [2][]store.Match // what is evaluated once for all events still belongs to its own event
	for round := range rounds {
		e := event("{}")
		e.ID = int64(round)
		rounds[round] = ix.Match(e, noConfig)
	}
	for round, matches := range rounds {
		for i, want := range []store.NewExecution{
			{Action: "p.a", Rule: "p.r", Trigger: "p.t", EventID: int64(round), Priority: 3, RequestedBy: "rule"},
			{Action: "p.a", Rule: "p.s", Trigger: "p.t", EventID: int64(round), Priority: 9, RequestedBy: "rule"},
		} {
			got := matches[i].Executions[0]
			got.Parameters, got.Secrets = nil, nil
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(store.NewExecution{})); diff != "" {
				t.Error(diff)
			}
		}
	}
}

func TestInstances(t *testing.T) {
	t.Parallel()
	c := catalogOf(t, 1, pack+`
-- p/rules/default.yaml --
trigger: t
action: b
-- p/rules/north.yaml --
trigger: {ref: t, parameters: {zone: north}}
action: b
-- p/rules/south.yaml --
trigger: {ref: t, parameters: {zone: south}}
action: b
`)
	ix := NewIndex(c, nil, quiet())
	trigger := c.Triggers["p.t"].Spec.(*manifest.Trigger)
	north, _ := trigger.Instance("p.r", nil)
	south, _ := trigger.Instance("p.r", map[string]any{"zone": "south"})
	for instance, want := range map[string][]string{
		"":         {"p.default", "p.north", "p.south"},
		north:      {"p.default", "p.north"},
		south:      {"p.south"},
		"p.t#dead": nil,
	} {
		e := event("{}")
		e.Instance = instance
		var got []string
		for _, m := range ix.Match(e, noConfig) {
			got = append(got, m.Rule)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("instance %q: %s", instance, diff)
		}
	}
	other := event("{}")
	other.Trigger = "p.unknown"
	if got := ix.Match(other, noConfig); got != nil {
		t.Errorf("an unknown trigger matched %v", got)
	}
}

func TestAPanicIsContained(t *testing.T) {
	t.Parallel()
	ix := NewIndex(catalogOf(t, 1, pack+`
-- q/pack.yaml --
version: 1.0.0
-- q/rules/r.yaml --
trigger: p.t
when: pack.config.x == 1
action: p.b
-- p/rules/r.yaml --
trigger: t
action: b
-- p/rules/z.yaml --
trigger: t
when: pack.config.x == nil
action: b
`), nil, quiet())
	got := summary(ix.Match(event("{}"), func(pack string) map[string]any {
		if pack == "q" {
			panic("no configuration")
		}
		return nil
	}))
	want := []string{
		`p.r matched p.b.0.0{}`,
		`p.z matched p.b.0.0{}`,
		`q.r error (cannot evaluate the rule: internal error: no configuration)`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestIndexesShareWhatDidNotChange changes one thing at a time and counts the rules made anew.
func TestIndexesShareWhatDidNotChange(t *testing.T) {
	t.Parallel()
	rules := pack + `
-- p/rules/x.yaml --
trigger: t
action: a
when: event.payload.n == 1
-- p/rules/y.yaml --
trigger: t
action: b
`
	first := NewIndex(catalogOf(t, 1, rules), nil, quiet())
	for _, test := range []struct {
		name    string
		archive string
		change  func(*store.Catalog)
		want    []string // made anew
	}{
		{name: "nothing", archive: rules},
		{name: "a revision", archive: rules, change: func(c *store.Catalog) { c.Rules["p.x"].RevisionID = 5; c.Actions["p.a"].RevisionID = 5 }},
		{name: "a rule", archive: strings.Replace(rules, "n == 1", "n == 2", 1), want: []string{"p.x"}},
		{name: "an action", archive: strings.Replace(rules, "entry_point: b.sh", "entry_point: c.sh", 1), want: []string{"p.y"}},
		{name: "an action disabled", archive: rules, change: func(c *store.Catalog) { c.Actions["p.a"].Enabled = false }, want: []string{"p.x"}},
		{name: "the trigger", archive: strings.Replace(rules, "north", "west", 1), want: []string{"p.x", "p.y"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var changes []func(*store.Catalog)
			if test.change != nil {
				changes = append(changes, test.change)
			}
			second := NewIndex(catalogOf(t, 2, test.archive, changes...), first, quiet())
			var anew []string
			for _, ref := range []string{"p.x", "p.y"} {
				if first.rules[ref] != second.rules[ref] {
					anew = append(anew, ref)
				}
			}
			if diff := cmp.Diff(test.want, anew); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func manyRules(b testing.TB, n int) *store.Catalog {
	c := catalogOf(b, 1, pack+"-- p/rules/r.yaml --\ntrigger: t\nwhen: event.payload.n > 2 and event.payload.kind == 'x'\naction: {ref: a, parameters: {message: '{{ event.payload.n }}'}}\n")
	model := c.Rules["p.r"]
	delete(c.Rules, "p.r")
	for i := range n {
		r := *model
		rule := *model.Spec.(*manifest.Rule)
		rule.Name = fmt.Sprintf("r%05d", i)
		rule.Ref = "p." + rule.Name
		rule.Trigger.Parameters = map[string]any{"zone": fmt.Sprint(i)}
		r.Ref, r.Digest, r.Spec = rule.Ref, model.Digest+rule.Ref, &rule
		c.Rules[r.Ref] = &r
	}
	return c
}

func BenchmarkIndex10kRules(b *testing.B) {
	c := manyRules(b, 10_000)
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			NewIndex(c, nil, quiet())
		}
	})
	b.Run("reload", func(b *testing.B) {
		previous := NewIndex(c, nil, quiet())
		for b.Loop() {
			NewIndex(c, previous, quiet())
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for name, rule := range map[string]string{
		"static":  "-- p/rules/r.yaml --\ntrigger: t\naction: {ref: a, parameters: {message: x}}\n",
		"dynamic": "-- p/rules/r.yaml --\ntrigger: t\nwhen: event.payload.n > 2\naction: {ref: a, parameters: {message: '{{ event.payload.n }}'}}\n",
	} {
		b.Run(name, func(b *testing.B) {
			ix := NewIndex(catalogOf(b, 1, pack+rule), nil, quiet())
			e := event(`{"n":3,"kind":"x","text":"` + strings.Repeat("y", 150) + `"}`)
			for b.Loop() {
				ix.Match(e, noConfig)
			}
		})
	}
}

// TestSecretsOfTheConfiguration: what the pack's configuration has by reference is handed on by reference, and
// never part of a text, of a condition, or of anything that is kept.
func TestSecretsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	config := manifest.ReferringConfig(map[string]any{
		"token": "{{ secret.api }}", "open": "seen", "deep": map[string]any{"key": "{{secret.deep}}"},
	})
	ix := NewIndex(catalogOf(t, 1, pack+
		"-- p/rules/deep.yaml --\ntrigger: t\naction: {ref: a, parameters: {token: '{{ pack.config.deep.key }}'}}\n"+
		"-- p/rules/event.yaml --\ntrigger: t\naction: {ref: a, parameters: {message: '{{ event.payload.m }}'}}\n"+
		"-- p/rules/object.yaml --\ntrigger: t\naction: {ref: a, parameters: {message: '{{ pack.config.deep }}'}}\n"+
		"-- p/rules/text.yaml --\ntrigger: t\naction: {ref: a, parameters: {message: 'Bearer {{ pack.config.token }}'}}\n"+
		"-- p/rules/token.yaml --\ntrigger: t\naction: {ref: a, parameters: {token: '{{ pack.config.token }}', message: '{{ pack.config.open }}'}}\n"+
		"-- p/rules/when.yaml --\ntrigger: t\nwhen: pack.config.token == event.payload.m\naction: a\n",
	), nil, quiet())
	got := summary(ix.Match(event(`{"m": "{{ secret.api }}"}`), func(string) map[string]any { return config }))
	want := []string{
		`p.deep matched p.a.0.0{"message":"hello"} /token=@deep`,
		`p.event matched p.a.0.0{"message":"{{ secret.api }}"}`,
		`p.object error (cannot run action p.a: cannot evaluate parameters.message: found secret "deep", expected it alone as a parameter: "{{ pack.config.… }}" and nothing else)`,
		`p.text error (cannot run action p.a: cannot evaluate parameters.message: found secret "api", expected it alone as a parameter: "{{ pack.config.… }}" and nothing else)`,
		`p.token matched p.a.0.0{"message":"seen"} /token=@api`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestSecretsOfActionsThatCannotBeRead: what stands in their place is never given to an action, and the rule says
// so where it matches, and nowhere else.
func TestSecretsOfActionsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	rules := pack + "-- p/rules/n.yaml --\ntrigger: t\nwhen: event.payload.n == 1\naction: {ref: a, parameters: {token: '***'}}\n" +
		"-- p/rules/r.yaml --\ntrigger: t\nactions: [{ref: a, parameters: {token: '***', count: '***'}}, b]\n"
	sealed := func(c *store.Catalog) {
		for _, r := range c.Rules {
			r.Digest, r.SealedActions = "", errors.New("its key is gone")
		}
	}
	lost := NewIndex(catalogOf(t, 1, rules, sealed), nil, quiet())
	const told = " error (cannot use the secrets that it gives its actions: its key is gone)"
	for payload, want := range map[string][]string{`{"n":2}`: {"p.r" + told}, `{"n":1}`: {"p.n" + told, "p.r" + told}} {
		if diff := cmp.Diff(want, summary(lost.Match(event(payload), noConfig))); diff != "" {
			t.Errorf("%s: %s", payload, diff)
		}
		if v := lost.Explain("p.n", event(payload), noConfig); len(v.Executions) > 0 || len(v.Parts) != 1 {
			t.Errorf("%s: explained as %+v", payload, v)
		}
	}
	// The key is back.
	readable := strings.ReplaceAll(rules, "count: '***'", "count: 3")
	found := NewIndex(catalogOf(t, 2, readable, func(c *store.Catalog) {
		for _, r := range c.Rules {
			r.Digest = ""
		}
	}), lost, quiet())
	want := []string{`p.r matched p.a.0.0{"count":3,"message":"hello","token":"***"} p.b.1.0{}`}
	if diff := cmp.Diff(want, summary(found.Match(event(`{"n":2}`), noConfig))); diff != "" {
		t.Error(diff)
	}
}
