package reconcile

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// effects are what a plan does to sensors and rules, as lines.
func effects(p *Plan) []string {
	lines := []string{}
	for _, one := range p.Packs {
		for _, s := range one.Steps {
			for _, e := range s.Effects {
				lines = append(lines, string(e.Kind)+" "+e.Ref+" "+e.Effect+": "+e.Why)
			}
		}
	}
	return lines
}

func TestEffects(t *testing.T) {
	t.Parallel()
	configured := "ref: p\nlabel: P\nversion: 1.0.0\nconf_schema: {a: {type: integer, default: 1}}\n"
	tests := map[string]struct {
		operator map[string]any
		files    files // nil: the pack has vanished
		effects  []string
	}{
		"nothing":        {files: onePack(), effects: []string{}},
		"sensor script":  {files: onePack().with("sensors/s.sh", "sleep 3\n"), effects: []string{"sensor p.s restarts: its files changed"}},
		"sensor's label": {files: onePack().with("sensors/s.yaml", onePack()["sensors/s.yaml"]+"label: S\n"), effects: []string{"sensor p.s restarts: its manifest changed"}},
		"sensor and script": {
			files:   onePack().with("sensors/s.yaml", onePack()["sensors/s.yaml"]+"label: S\n", "sensors/s.sh", "sleep 3\n"),
			effects: []string{"sensor p.s restarts: its manifest and its files changed"},
		},
		"sensor off": {
			files:   onePack().with("sensors/s.yaml", onePack()["sensors/s.yaml"]+"enabled: false\n"),
			effects: []string{"sensor p.s stops: its manifest disables it"},
		},
		"sensor on": {
			files:   onePack().with("sensors/o.yaml", "name: o\nentry_point: o.sh\ntrigger_types: [p.tick]\n"),
			effects: []string{"sensor p.o starts: its manifest enables it"},
		},
		"rule off": {
			files:   onePack().with("rules/r.yaml", onePack()["rules/r.yaml"]+"enabled: false\n"),
			effects: []string{"rule p.r stops to match: its manifest disables it", "sensor p.s restarts: rule p.r no longer asks for its trigger"},
		},
		"rule asks for something else": {
			files:   onePack().with("rules/r.yaml", "name: r\ntrigger: {ref: p.tick, parameters: {n: 2}}\naction: p.act\n"),
			effects: []string{"sensor p.s restarts: rule p.r asks for other parameters of its trigger"},
		},
		"rule gone": {
			files:   onePack().with("rules/r.yaml", ""),
			effects: []string{"rule p.r stops to match: its manifest is gone", "sensor p.s restarts: rule p.r no longer asks for its trigger"},
		},
		"rule new": {
			files:   onePack().with("rules/r2.yaml", "name: r2\ntrigger: {ref: p.tick, parameters: {n: 1}}\naction: p.act\n"),
			effects: []string{"rule p.r2 starts to match: it is new"},
		},
		"trigger off": {
			files:   onePack().with("triggers/tick.yaml", onePack()["triggers/tick.yaml"]+"enabled: false\n"),
			effects: []string{"rule p.r stops to match: trigger p.tick: its manifest disables it"},
		},
		"trigger's defaults": {
			files:   onePack().with("triggers/tick.yaml", "name: tick\nparameters_schema:\n  n: {type: integer}\n  m: {type: integer, default: 3}\n"),
			effects: []string{"sensor p.s restarts: the parameters of trigger p.tick changed"},
		},
		"pack off": {
			files:   onePack().with("pack.yaml", "ref: p\nlabel: P\nversion: 1.0.0\nenabled: false\n"),
			effects: []string{"sensor p.s stops: its pack is disabled", "rule p.r stops to match: its pack is disabled"},
		},
		"pack gone": {
			effects: []string{"rule p.r stops to match: its pack is gone", "sensor p.s stops: its pack is gone"},
		},
		"configuration": {
			files:   onePack().with("pack.yaml", configured),
			effects: []string{"sensor p.s restarts: the configuration of its pack changed"},
		},
		"configuration that the operator overrides": {
			operator: map[string]any{"a": int64(7)},
			files:    onePack().with("pack.yaml", configured),
			effects:  []string{},
		},
		"configuration and script": {
			files:   onePack().with("pack.yaml", configured, "sensors/s.sh", "sleep 3\n"),
			effects: []string{"sensor p.s restarts: its files changed"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := applied(t, onePack())
			wanted := &Snapshot{Config: map[string]map[string]any{"p": test.operator}}
			if test.files != nil {
				wanted.Packs = map[string]*PackState{"p": test.files.state(t, c)}
			}
			plan := Diff(wanted, c)
			have := effects(plan)
			if test.files == nil { // the order is the catalog's kinds'
				if !cmp.Equal(map[string]bool{test.effects[0]: true, test.effects[1]: true}, setOf(have)) {
					t.Errorf("found %v", have)
				}
				return
			}
			if diff := cmp.Diff(test.effects, have); diff != "" {
				t.Errorf("effects (-want +have):\n%s", diff)
			}
		})
	}
}

func setOf(lines []string) map[string]bool {
	set := map[string]bool{}
	for _, line := range lines {
		set[line] = true
	}
	return set
}

// TestOtherPacksRulesStopWithATrigger takes away a trigger that another pack's rule is on.
func TestOtherPacksRulesStopWithATrigger(t *testing.T) {
	t.Parallel()
	c := applied(t, onePack())
	far := &manifest.Rule{
		Header:  manifest.Header{Ref: "q.far", Pack: "q", Name: "far", Enabled: true},
		Trigger: manifest.Use{Ref: "p.tick"}, Actions: []manifest.Use{{Ref: "p.act"}},
	}
	c.Rules["q.far"] = &store.Record{Kind: manifest.KindRule, Ref: "q.far", Pack: "q", Enabled: true, Present: true, ManifestEnabled: true, Spec: far}
	plan := Diff(&Snapshot{Scope: map[string]bool{"p": true}}, c)
	if have := setOf(effects(plan)); !have["rule q.far stops to match: trigger p.tick: its pack is gone"] {
		t.Errorf("found %v", have)
	}
}

// TestPlanHidesSecrets changes secret values everywhere: the plan tells that they changed, not to what.
func TestPlanHidesSecrets(t *testing.T) {
	t.Parallel()
	packed := func(value string) files {
		return onePack().with(
			"pack.yaml", "ref: p\nlabel: P\nversion: 1.0.0\nconf_schema:\n  token: {type: string, secret: true, default: default-"+value+"}\n  open: {type: string}\nconfig: {token: "+value+", open: seen-"+value+"}\n",
			"actions/act.yaml", "name: act\nentry_point: act.sh\nparameters:\n  key: {type: string, secret: true, default: "+value+"}\n",
			"sensors/s.yaml", "name: s\nentry_point: s.sh\ntrigger_types: [p.tick]\nparameters:\n  key: {type: string, secret: true}\nconfig: {key: "+value+"}\n",
			"triggers/tick.yaml", "name: tick\nparameters_schema:\n  n: {type: integer}\n  pass: {type: string, secret: true}\n",
			"rules/r.yaml", "name: r\ntrigger: {ref: p.tick, parameters: {n: 1, pass: "+value+"}}\naction: {ref: p.act, parameters: {key: "+value+"}}\n",
		)
	}
	c := applied(t, packed("hunter2"))
	plan := Diff(&Snapshot{Packs: map[string]*PackState{"p": packed("hunter3").state(t, c)}}, c)
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	if told := strings.ReplaceAll(string(text), "seen-hunter", ""); strings.Contains(told, "hunter") {
		t.Errorf("the plan shows a secret: %s", text)
	}
	want := []string{
		"~ pack p /conf_schema/properties/token/default /config/open /config/token => restarts",
		"~ action p.act /parameters/properties/key/default", "~ sensor p.s /config/key => restarts", "~ rule p.r /actions/0/parameters/key /trigger/parameters/pass",
	}
	for i, line := range steps(plan) {
		if i < len(want) && strings.TrimSuffix(line, " => restarts") != strings.TrimSuffix(want[i], " => restarts") {
			t.Errorf("step %q, want %q", line, want[i])
		}
	}
	if len(plan.Packs[0].Steps) != len(want) {
		t.Errorf("steps: %v", steps(plan))
	}
}
