package rule

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// What a rule makes of an event, beside the statuses of an enforcement.
const (
	// OutcomeNot: the condition does not hold.
	OutcomeNot = "not_matched"
	// OutcomeElsewhere: the event is of another trigger, or of another of the trigger's instances.
	OutcomeElsewhere = "other_instance"
	// OutcomeDisabled: the rule or its trigger is not in force.
	OutcomeDisabled = "disabled"
)

// Verdict is what one rule makes of an event when it is evaluated anew. Limits are not asked: what they
// would say depends on the events before it.
type Verdict struct {
	Rule string
	// Outcome is one of the Outcome constants, or matched, skipped or error as an enforcement has them.
	Outcome string
	// Reason says why it did not match, or what went wrong.
	Reason string
	// Parts are the terms of the condition, each with its value.
	Parts    []manifest.Part
	Warnings []string
	// Executions are what it would queue.
	Executions []store.NewExecution
}

// Explain evaluates one rule of the catalog for an event, in force or not, and says why it gives what
// it gives. What it costs is no matter of the stream of events.
func (ix *Index) Explain(ref string, event *store.Event, config func(pack string) map[string]any) Verdict {
	v := Verdict{Rule: ref, Outcome: OutcomeDisabled}
	e := ix.rules[ref]
	if e == nil {
		v.Reason = ix.idle(ref)
		return v
	}
	named := slices.Contains(event.Rules, ref)
	switch {
	case e.trigger.Ref != event.Trigger:
		v.Outcome, v.Reason = OutcomeElsewhere, fmt.Sprintf("it waits for %s, the event is of %s", e.trigger.Ref, event.Trigger)
		return v
	case event.Instance != "" && event.Instance != e.instance && !named:
		v.Outcome, v.Reason = OutcomeElsewhere, "the event is of another instance of the trigger, for other parameters than the rule gives"
		return v
	}
	env := envOf(event)
	env.Rule = ref
	var unreadable error
	env.Payload, unreadable = manifest.DecodePayload(event.Payload)
	m, matched := ix.evaluate(e, &env, config, unreadable)
	v.Outcome, v.Reason, v.Warnings, v.Executions = m.Status, m.Error, m.Warnings, m.Executions
	if !matched {
		v.Outcome = OutcomeNot
	}
	if e.program != nil && unreadable == nil {
		env.Item = nil
		if env.Config == nil {
			env.Config = config(e.rule.Pack)
		}
		v.Parts = e.program.Explain(&env)
		ix.hideSecrets(e, v.Parts)
	}
	if v.Outcome == OutcomeNot {
		v.Reason = because(v.Parts)
	}
	return v
}

// hidden stands for a secret.
const hidden = "***"

// hideSecrets replaces what a condition read where that is secret: of its pack's configuration, and of
// the payload.
func (ix *Index) hideSecrets(e *entry, parts []manifest.Part) {
	schemas := map[string]*manifest.Schema{}
	if row := ix.catalog.Packs[e.rule.Pack]; row != nil && row.Manifest != nil {
		schemas["pack.config"] = row.Manifest.ConfSchema
	}
	if trigger, ok := e.trigger.Spec.(*manifest.Trigger); ok {
		schemas["event.payload"] = trigger.PayloadSchema
	}
	for root, schema := range schemas {
		if len(schema.Secrets()) == 0 {
			continue
		}
		for i := range parts {
			for n := range parts[i].Reads {
				read := &parts[i].Reads[n]
				if path, inside := strings.CutPrefix(read.Path, root); !inside || read.Value == nil || !holdsSecret(schema, path) {
					continue
				}
				read.Value = hidden
				if _, isTruth := parts[i].Value.(bool); !isTruth {
					parts[i].Value = hidden
				}
				parts[i].Error = withoutValues(parts[i].Error)
			}
		}
	}
}

// holdsSecret says whether what stands at a path of an expression is secret, or has a secret in it.
func holdsSecret(schema *manifest.Schema, path string) bool {
	pointer := strings.ReplaceAll(path, ".", "/")
	if path == "" || strings.ContainsAny(path, "[\"") || schema.IsSecret(pointer) {
		return true // a path with brackets may be any
	}
	return slices.ContainsFunc(schema.Secrets(), func(secret string) bool { return strings.HasPrefix(secret, pointer+"/") })
}

// withoutValues keeps the values that an error names out of sight.
func withoutValues(message string) string {
	if message == "" {
		return ""
	}
	return "it cannot be evaluated with the values that the event has, some of which are secret"
}

// idle says why a rule of the catalog is not in the index.
func (ix *Index) idle(ref string) string {
	record := ix.catalog.Rules[ref]
	if record == nil {
		return "there is no such rule"
	}
	rule, ok := record.Spec.(*manifest.Rule)
	switch {
	case !record.Enabled:
		return whyOff(ix.catalog, record)
	case !ok:
		return "its record holds no rule"
	}
	trigger := ix.catalog.Triggers[rule.Trigger.Ref]
	if trigger == nil {
		return fmt.Sprintf("there is no trigger %s", rule.Trigger.Ref)
	}
	return fmt.Sprintf("its trigger %s is disabled: %s", rule.Trigger.Ref, whyOff(ix.catalog, trigger))
}

// because tells the terms of a condition that did not hold, and what they looked at.
func because(parts []manifest.Part) string {
	var told []string
	for _, p := range parts {
		if p.Error == "" && p.Value != false && p.Value != nil {
			continue
		}
		told = append(told, PartText(p))
	}
	return strings.Join(told, "; ")
}

// PartText tells a term of a condition with its value and what it looked at.
func PartText(p manifest.Part) string {
	var b strings.Builder
	b.WriteString(p.Source)
	switch {
	case p.Error != "":
		b.WriteString(" cannot be evaluated: " + p.Error)
	case p.Value == nil:
		b.WriteString(" has no value, which is false")
	default:
		b.WriteString(" is " + valueText(p.Value))
	}
	before := ", where "
	for _, read := range p.Reads {
		if read.Path == p.Source {
			continue
		}
		b.WriteString(before)
		before = ", "
		if read.Value == nil {
			b.WriteString(read.Path + " is not there")
		} else {
			b.WriteString(read.Path + " = " + valueText(read.Value))
		}
	}
	return b.String()
}

// valueText prints a value short enough for a line.
func valueText(v any) string {
	const longest = 120 // characters
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if runes := []rune(string(text)); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return string(text)
}

// Concerned lists the rules of the catalog that name a trigger, by ref, in force or not.
func (ix *Index) Concerned(trigger string) []string {
	var refs []string
	for _, ref := range slices.Sorted(maps.Keys(ix.catalog.Rules)) {
		rule, ok := ix.catalog.Rules[ref].Spec.(*manifest.Rule)
		if ok && rule.Trigger.Ref == trigger && ix.catalog.Rules[ref].Present {
			refs = append(refs, ref)
		}
	}
	return refs
}

// Catalog is what the index was made from.
func (ix *Index) Catalog() *store.Catalog { return ix.catalog }

// Newest gives the index of the newest catalog that is known.
func (i *Intake) Newest(ctx context.Context) (*Index, error) { return i.indexAt(ctx, 0) }

// Try makes the index of a catalog in which some components are replaced, applied or not, and nothing
// else is in force: it is for trying them.
func Try(catalog *store.Catalog, components []manifest.Component, logger *slog.Logger) *Index {
	tried := &store.Catalog{
		Generation: catalog.Generation, Packs: catalog.Packs, Sensors: catalog.Sensors,
		Actions: maps.Clone(catalog.Actions), Triggers: maps.Clone(catalog.Triggers), Rules: map[string]*store.Record{},
	}
	for _, c := range components {
		if c.Kind() == manifest.KindSensor {
			continue
		}
		head := c.Head()
		record := &store.Record{
			Kind: c.Kind(), Ref: head.Ref, Pack: head.Pack, File: head.File,
			Enabled: true, Present: true, ManifestEnabled: true, Spec: c,
		}
		if old := catalog.Records(c.Kind())[head.Ref]; old != nil && c.Kind() != manifest.KindRule {
			record.Enabled = old.Enabled
		}
		tried.Records(c.Kind())[head.Ref] = record
	}
	for _, record := range tried.Rules {
		record.Instance = knownInstance(catalog, tried, record)
	}
	return NewIndex(tried, nil, logger)
}

// knownInstance gives the instance of a rule in force that gives the same trigger the same secrets: its id is
// made by a key, and cannot be told from them. Empty where there is none.
func knownInstance(catalog, tried *store.Catalog, record *store.Record) string {
	use := record.Spec.(*manifest.Rule).Trigger
	instance := func(in *store.Catalog, r *store.Record) string {
		known := in.Triggers[use.Ref]
		if known == nil {
			return ""
		}
		id, _ := known.Spec.(*manifest.Trigger).Instance(r.Ref, r.Spec.(*manifest.Rule).Trigger.Parameters)
		return id
	}
	wanted := instance(tried, record)
	for _, r := range catalog.Rules {
		rule, ok := r.Spec.(*manifest.Rule)
		if ok && r.Instance != "" && r.Sealed == nil && rule.Trigger.Ref == use.Ref && instance(catalog, r) == wanted {
			return r.Instance
		}
	}
	return ""
}
