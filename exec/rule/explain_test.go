package rule

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const explained = `
-- p/pack.yaml --
version: 1.0.0
conf_schema: {token: {type: string, secret: true}, zone: {type: string}}
-- p/triggers/t.yaml --
parameters_schema: {zone: {type: string, default: north}}
payload_schema: {n: {}, password: {type: string, secret: true}, o: {type: object, properties: {pin: {type: string, secret: true}}}}
-- p/triggers/u.yaml --
label: U
-- p/triggers/idle.yaml --
enabled: false
-- p/actions/a.yaml --
entry_point: a.sh
parameters: {message: {type: string}}
-- p/rules/and.yaml --
trigger: t
when: event.payload.n > 2 and pack.config.zone == "north" and event.payload.gone == "x"
action: a
-- p/rules/or.yaml --
trigger: t
when: event.payload.n > 2 or event.payload.n in [7, 8]
action: a
-- p/rules/matches.yaml --
trigger: t
when: event.payload.n < 9
action: {ref: a, parameters: {message: "n {{ event.payload.n }}"}}
-- p/rules/fails.yaml --
trigger: t
when: event.payload.n + "x" == "1x"
action: a
-- p/rules/south.yaml --
trigger: {ref: t, parameters: {zone: south}}
action: a
-- p/rules/other.yaml --
trigger: u
action: a
-- p/rules/off.yaml --
enabled: false
trigger: t
action: a
-- p/rules/unheard.yaml --
trigger: idle
action: a
-- p/rules/secrets.yaml --
trigger: t
when: pack.config.token == "no" and event.payload.password == "no" and event.payload.o == nil and pack.config.token
action: a
`

func TestExplain(t *testing.T) {
	t.Parallel()
	c := catalogOf(t, 1, explained, func(c *store.Catalog) {
		schema, errs := manifest.NewSchema(map[string]any{
			"token": map[string]any{"type": "string", "secret": true}, "zone": map[string]any{"type": "string"},
		}, true)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		c.Packs["p"] = &store.PackRow{Ref: "p", Present: true, Enabled: true, Manifest: &manifest.Pack{ConfSchema: schema}}
	})
	ix := NewIndex(c, nil, quiet())
	config := func(string) map[string]any { return map[string]any{"zone": "south", "token": "hunter2"} }
	e := event(`{"n": 1, "password": "hunter2", "o": {"pin": "hunter2"}}`)
	north, _ := c.Triggers["p.t"].Spec.(*manifest.Trigger).Instance("p.r", nil)
	e.Instance = north
	for rule, want := range map[string][2]string{
		"p.and": {
			OutcomeNot,
			`event.payload.n > 2 is false, where event.payload.n = 1; pack.config.zone == "north" is false, where pack.config.zone = "south"; ` +
				`event.payload.gone == "x" is false, where event.payload.gone is not there`,
		},
		"p.or":      {OutcomeNot, `event.payload.n > 2 is false, where event.payload.n = 1; event.payload.n in [7, 8] is false, where event.payload.n = 1`},
		"p.matches": {store.EnforcementMatched, ""},
		"p.fails":   {store.EnforcementError, `cannot evaluate when: + does not go with 1 and "x"*`},
		"p.south":   {OutcomeElsewhere, "the event is of another instance of the trigger, for other parameters than the rule gives"},
		"p.other":   {OutcomeElsewhere, "it waits for p.u, the event is of p.t"},
		"p.off":     {OutcomeDisabled, "its manifest says enabled: false"},
		"p.unheard": {OutcomeDisabled, "its trigger p.idle is disabled: its manifest says enabled: false"},
		"p.nobody":  {OutcomeDisabled, "there is no such rule"},
	} {
		v := ix.Explain(rule, e, config)
		if v.Outcome != want[0] || !fits(want[1], v.Reason) {
			t.Errorf("%s: %s, %s\nwant %s, %s", rule, v.Outcome, v.Reason, want[0], want[1])
		}
	}
	v := ix.Explain("p.matches", e, config)
	if len(v.Executions) != 1 || string(v.Executions[0].Parameters) != `{"message":"n 1"}` || len(v.Parts) != 1 || v.Parts[0].Value != true {
		t.Errorf("%+v", v)
	}
	// Whoever names a rule means it, whatever instance it waits for.
	named := *e
	named.Rules = []string{"p.south"}
	if v := ix.Explain("p.south", &named, config); v.Outcome != store.EnforcementMatched {
		t.Errorf("%+v", v)
	}
	if diff := cmp.Diff([]string{"p.south matched p.a.0.0{}"}, summary(ix.Match(&named, config))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"p.and", "p.fails", "p.matches", "p.off", "p.or", "p.secrets", "p.south"}, ix.Concerned("p.t")); diff != "" {
		t.Error(diff)
	}
}

// TestExplainHidesSecrets: whoever may ask why may not read what a condition compared with.
func TestExplainHidesSecrets(t *testing.T) {
	t.Parallel()
	schema, errs := manifest.NewSchema(map[string]any{"token": map[string]any{"type": "string", "secret": true}}, true)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	c := catalogOf(t, 1, explained, func(c *store.Catalog) {
		c.Packs["p"] = &store.PackRow{Ref: "p", Present: true, Enabled: true, Manifest: &manifest.Pack{ConfSchema: schema}}
	})
	v := NewIndex(c, nil, quiet()).Explain("p.secrets", event(`{"password": "hunter2", "o": {"pin": "hunter2"}}`),
		func(string) map[string]any { return map[string]any{"token": "hunter2"} })
	told, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(told), "hunter2") || !strings.Contains(string(told), hidden) || len(v.Parts) != 4 {
		t.Errorf("told: %s", told)
	}
}

// TestTry replaces a rule and an action of what is in force, and leaves that alone.
func TestTry(t *testing.T) {
	t.Parallel()
	c := catalogOf(t, 1, explained)
	edited := catalogOf(t, 1, strings.Replace(strings.Replace(explained, "event.payload.n < 9", "event.payload.n > 9", 1), "message: {type: string}", "message: {type: string, maxLength: 1}", 1))
	components := []manifest.Component{edited.Rules["p.matches"].Spec, edited.Actions["p.a"].Spec}
	tried := Try(c, components, quiet())
	if v := tried.Explain("p.matches", event(`{"n": 1}`), noConfig); v.Outcome != OutcomeNot {
		t.Errorf("%+v", v)
	}
	if v := tried.Explain("p.matches", event(`{"n": 10}`), noConfig); v.Outcome != store.EnforcementError || !strings.Contains(v.Reason, "/message") {
		t.Errorf("%+v", v)
	}
	if v := NewIndex(c, nil, quiet()).Explain("p.matches", event(`{"n": 1}`), noConfig); v.Outcome != store.EnforcementMatched {
		t.Errorf("what is in force has changed: %+v", v)
	}
}
