package sensor

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// ingredients are what a target is made of.
type ingredients struct {
	record    store.Record
	spec      manifest.Sensor
	pack      store.PackRow
	instances []store.TriggerInstance
	config    map[string]any
}

func newIngredients() *ingredients {
	return &ingredients{
		record: store.Record{
			Ref: "p.s", Pack: "p", Enabled: true, Present: true, ManifestEnabled: true, Digest: "manifest", FilesDigest: "files",
			RevisionID: 1, TreeDigest: "tree",
		},
		spec:      manifest.Sensor{TriggerTypes: []string{"p.t"}},
		pack:      store.PackRow{Ref: "p", Enabled: true},
		instances: []store.TriggerInstance{{ID: "p.t#1", Trigger: "p.t", Parameters: json.RawMessage(`{"a":1}`), Rules: []string{"p.r"}}},
		config:    map[string]any{"site": "home"},
	}
}

func (in *ingredients) target() *target {
	in.record.Spec = &in.spec
	return newTarget(&in.record, &in.pack, in.instances, in.config)
}

func TestTheRestartKey(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct {
		name           string
		change         func(*ingredients)
		restarts, told bool // told: a sensor with updates
	}{
		{name: "nothing", change: func(*ingredients) {}},
		{name: "a revision that concerns other files", change: func(in *ingredients) { in.record.RevisionID, in.record.TreeDigest = 2, "other" }},
		{name: "the manifest", change: func(in *ingredients) { in.record.Digest = "other" }, restarts: true},
		{name: "its files", change: func(in *ingredients) { in.record.FilesDigest = "other" }, restarts: true},
		{name: "the pack's configuration", change: func(in *ingredients) { in.config["site"] = "work" }, restarts: true},
		{name: "one instance more", change: func(in *ingredients) { in.instances = append(in.instances, store.TriggerInstance{ID: "p.t#2"}) }, restarts: true, told: true},
		{name: "an instance's parameters", change: func(in *ingredients) { in.instances[0].Parameters = json.RawMessage(`{"a":1,"jitter":2}`) }, restarts: true, told: true},
		{name: "rules", change: func(in *ingredients) { in.instances[0].Rules = []string{"p.r", "p.s"} }, told: true},
		{name: "since", change: func(in *ingredients) { in.instances[0].AnchorAt = now }, told: true},
		{name: "last", change: func(in *ingredients) { in.instances[0].LastDue = &now }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, updates := range []bool{false, true} {
				before, after := newIngredients(), newIngredients()
				before.spec.Updates, after.spec.Updates = updates, updates
				test.change(after)
				a, b := before.target(), after.target()
				if got, want := a.key != b.key, test.restarts && (!updates || !test.told); got != want {
					t.Errorf("updates %v: restarts %v, want %v", updates, got, want)
				}
				if got := a.list != b.list; got != test.told {
					t.Errorf("updates %v: told %v, want %v", updates, got, test.told)
				}
			}
		})
	}
}

func TestWhatIsWanted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*ingredients)
		want   happening
		reason string
	}{
		{name: "enabled", change: func(*ingredients) {}, want: hWanted},
		{name: "without a rule", change: func(in *ingredients) { in.instances = nil }, want: hWanted},
		{name: "on demand, with a rule", change: func(in *ingredients) { in.spec.OnDemand = true }, want: hWanted},
		{name: "on demand, without", change: func(in *ingredients) { in.spec.OnDemand, in.instances = true, nil }, want: hUnneeded, reason: "no enabled rule wants its triggers"},
		{name: "gone", change: func(in *ingredients) { in.record.Enabled, in.record.Present = false, false }, want: hUnwanted, reason: "its manifest has vanished from the pack"},
		{name: "by an operator", change: func(in *ingredients) { in.record.Enabled, in.record.DisabledBy = false, "alice" }, want: hUnwanted, reason: "alice disabled it"},
		{name: "by its manifest", change: func(in *ingredients) { in.record.Enabled, in.record.ManifestEnabled = false, false }, want: hUnwanted, reason: "its manifest says enabled: false"},
		{name: "with its pack", change: func(in *ingredients) { in.record.Enabled, in.pack.Enabled = false, false }, want: hUnwanted, reason: "pack p is not in force, because its folder is gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := newIngredients()
			test.change(in)
			got := in.target()
			if got.want != test.want || got.reason != test.reason {
				t.Errorf("%s, because %q", got.want, got.reason)
			}
		})
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	schema := func(text string) *manifest.Schema {
		var doc any
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		s, errs := manifest.NewSchema(doc, true)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		return s
	}
	in := newIngredients()
	in.config = map[string]any{"site": "home", "api": map[string]any{"url": "http://x", "password": "swordfish"}}
	in.pack.Manifest = &manifest.Pack{ConfSchema: schema(`{"api":{"type":"object","properties":{"password":{"type":"string","secret":true}}}}`)}
	in.spec.Parameters = schema(`{"every":{"type":"integer","default":5},"pin":{"type":"string","secret":true},"on":{"type":"boolean"},
		"number":{"type":"integer","secret":true,"default":7654321},"keys":{"type":"array","items":{"type":"string"},"secret":true},
		"login":{"type":"object","properties":{"user":{"type":"string"},"code":{"type":"integer","secret":true}}}}`)
	in.spec.Config = map[string]any{
		"on": true, "pin": "1234567", "list": []any{"a", "{{ pack.config.api.url }}"}, "none": nil,
		"nested": map[string]any{"key": "{{secret.key}}"}, "password": " {{ pack.config.api.password }} ",
		"missing": "{{ pack.config.nothing.here }}", "login": map[string]any{"user": "me", "code": int64(24680246)},
		"keys": []any{"first key", "second key"}, "whole": "{{ pack.config.api }}",
	}
	c, err := readConfig(in.target(), func(name string) (string, error) { return "value of " + name, nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"every": "5", "on": "true", "list": `["a","http://x"]`}, c.open); diff != "" {
		t.Errorf("open: %s", diff)
	}
	want := map[string]any{
		"pin": "1234567", "nested": map[string]any{"key": "value of key"}, "password": "swordfish", "number": int64(7654321),
		"keys": []any{"first key", "second key"}, "login": map[string]any{"user": "me", "code": int64(24680246)},
		"whole": map[string]any{"url": "http://x", "password": "swordfish"},
	}
	if diff := cmp.Diff(want, c.secret); diff != "" {
		t.Errorf("secret: %s", diff)
	}
	hidden := map[string]bool{}
	for _, value := range c.hidden {
		hidden[value] = true
	}
	if diff := cmp.Diff(map[string]bool{
		"1234567": true, "value of key": true, "swordfish": true, "7654321": true, "first key": true, "second key": true, "24680246": true,
	}, hidden); diff != "" {
		t.Errorf("to be masked: %s", diff)
	}

	in.spec.Config = map[string]any{"max-rate": 1, "max_rate": 2}
	if _, err := readConfig(in.target(), nil); fmt.Sprint(err) != `cannot use config keys "max-rate" and "max_rate" together: both become ATTUNE_SENSOR_MAX_RATE` {
		t.Error(err)
	}
}
