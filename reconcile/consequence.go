package reconcile

import (
	"reflect"
	"slices"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// The consequences of a step for the sensors that run.
const (
	consequenceNone     = "nothing restarts"
	consequenceStarts   = "starts"
	consequenceStops    = "stops"
	consequenceRestarts = "restarts"
)

// What becomes of a rule.
const (
	effectMatches = "starts to match"
	effectEnds    = "stops to match"
)

// Effect is what a step does to a sensor that runs, or to a rule that matches, and why.
type Effect struct {
	Kind manifest.Kind `json:"kind"` // sensor or rule
	Ref  string        `json:"ref"`
	// Effect is "starts", "stops" or "restarts" of a sensor, "starts to match" or "stops to match" of a
	// rule.
	Effect string `json:"effect"`
	Why    string `json:"why"`
}

// turn is what happens to a process that is to run before and after as said, and changed.
func turn(was, will bool) string {
	switch {
	case was && will:
		return consequenceRestarts
	case will:
		return consequenceStarts
	case was:
		return consequenceStops
	default:
		return consequenceNone
	}
}

// summary is what a step does to sensors, in a word.
func summary(effects []Effect) string {
	for _, word := range []string{consequenceRestarts, consequenceStarts, consequenceStops} {
		if slices.ContainsFunc(effects, func(e Effect) bool { return e.Kind == manifest.KindSensor && e.Effect == word }) {
			return word
		}
	}
	return consequenceNone
}

// componentChange is one component before and after a step. Either of the record and the component may be nil.
type componentChange struct {
	record    *store.Record
	component manifest.Component
	was, will bool // whether it is in force before and after
	why       string
}

func (c *componentChange) kind() manifest.Kind {
	if c.record != nil {
		return c.record.Kind
	}
	return c.component.Kind()
}

func (c *componentChange) ref() string {
	if c.record != nil {
		return c.record.Ref
	}
	return c.component.Head().Ref
}

// effects are what the change of a component does to sensors and rules, itself first.
func (d *differ) effects(c *componentChange) []Effect {
	switch c.kind() {
	case manifest.KindSensor:
		if word := turn(c.was, c.will); word != consequenceNone {
			return []Effect{{manifest.KindSensor, c.ref(), word, c.why}}
		}
	case manifest.KindRule:
		return d.ruleEffects(c)
	case manifest.KindTrigger:
		return d.triggerEffects(c)
	case manifest.KindAction, manifest.KindPack:
	}
	return nil
}

// matching is what becomes of a rule; nothing, where it goes on matching.
func matching(ref string, was, will bool, why string) []Effect {
	switch {
	case was == will:
		return nil
	case will:
		return []Effect{{manifest.KindRule, ref, effectMatches, why}}
	default:
		return []Effect{{manifest.KindRule, ref, effectEnds, why}}
	}
}

// ruleEffects finds out whether a sensor's trigger instances change with a rule. A sensor that takes
// updates is told of that; any other is started with its instances, and so anew.
func (d *differ) ruleEffects(c *componentChange) []Effect {
	was := c.was && d.heard(c.record.Spec)
	will := c.will && d.heard(c.component)
	effects := matching(c.ref(), was, will, c.why)
	var before, after string
	if c.record != nil && c.was {
		before = d.instance(c.record.Spec)
	}
	if c.component != nil && c.will {
		after = d.instance(c.component)
	}
	if before == after {
		return effects
	}
	why := "rule " + c.ref() + " asks for other parameters of its trigger"
	switch {
	case before == "":
		why = "rule " + c.ref() + " asks for its trigger"
	case after == "":
		why = "rule " + c.ref() + " no longer asks for its trigger"
	}
	for _, id := range []string{before, after} {
		if id != "" && !d.askedByOthers(id, c.ref()) {
			effects = append(effects, d.restartedFor(id, why)...)
		}
	}
	return effects
}

// heard says whether a rule's trigger fires: where an operator has switched it off, the rule matches nothing,
// whatever its manifest says.
func (d *differ) heard(rule manifest.Component) bool {
	trigger := d.actual.Triggers[rule.(*manifest.Rule).Trigger.Ref]
	if trigger == nil {
		return true
	}
	why, _ := store.SwitchedOff(trigger, d.actual.Packs[trigger.Pack])
	return why == ""
}

// triggerEffects are those on the rules of a trigger that comes or goes, and on the sensors whose
// instances are other ones with a changed trigger.
func (d *differ) triggerEffects(c *componentChange) []Effect {
	if c.record == nil {
		return nil // no rule in force names one that was not there
	}
	if c.was != c.will {
		var effects []Effect
		for _, ref := range d.rulesOn(c.ref()) {
			effects = append(effects, matching(ref, c.was, c.will, "trigger "+c.ref()+": "+c.why)...)
		}
		return effects
	}
	was, _ := c.record.Spec.(*manifest.Trigger)
	will, _ := c.component.(*manifest.Trigger)
	if !c.will || was == nil || will == nil || was.ParametersSchema.Equal(will.ParametersSchema) {
		return nil
	}
	var effects []Effect
	for _, ref := range d.rulesOn(c.ref()) {
		use := d.actual.Rules[ref].Spec.(*manifest.Rule).Trigger
		before, _ := was.Instance(ref, use.Parameters)
		after, _ := will.Instance(ref, use.Parameters)
		if before != after {
			effects = append(effects, d.restartedFor(before, "the parameters of trigger "+c.ref()+" changed")...)
		}
	}
	return effects
}

// rulesOn gives the rules in force on a trigger, sorted.
func (d *differ) rulesOn(trigger string) []string {
	var refs []string
	for ref, r := range d.actual.Rules {
		if r.Enabled && r.Spec.(*manifest.Rule).Trigger.Ref == trigger {
			refs = append(refs, ref)
		}
	}
	slices.Sort(refs)
	return refs
}

// instance is the id of the trigger instance that a rule asks for; empty where the trigger is new: its
// sensors are too.
func (d *differ) instance(rule manifest.Component) string {
	use := rule.(*manifest.Rule).Trigger
	trigger, ok := d.actual.Triggers[use.Ref]
	if !ok {
		return ""
	}
	id, _ := trigger.Spec.(*manifest.Trigger).Instance(rule.Head().Ref, use.Parameters)
	return id
}

// restartedFor gives the sensors that take no updates, run for the instance's trigger, and go on to.
func (d *differ) restartedFor(instance, why string) []Effect {
	trigger, _, _ := strings.Cut(instance, "#")
	var effects []Effect
	for _, r := range d.actual.Sensors {
		sensor := r.Spec.(*manifest.Sensor)
		if r.Enabled && !sensor.Updates && slices.Contains(sensor.TriggerTypes, trigger) && d.stays(r) {
			effects = append(effects, Effect{manifest.KindSensor, r.Ref, consequenceRestarts, why})
		}
	}
	slices.SortFunc(effects, func(a, b Effect) int { return strings.Compare(a.Ref, b.Ref) })
	return effects
}

// stays says whether a sensor in force is still meant to run.
func (d *differ) stays(r *store.Record) bool {
	if !d.scope[r.Pack] {
		return true
	}
	s := d.wanted.Packs[r.Pack]
	if s == nil {
		return false
	}
	if s.Bundle.Pack == nil {
		return true
	}
	for _, sensor := range s.Bundle.Sensors {
		if sensor.Ref == r.Ref {
			return sensor.Enabled && s.Bundle.Pack.Enabled
		}
	}
	_, kept := brokenOf(s.Bundle, r)
	return kept
}

// askedByOthers says whether another rule in force asks for the instance, so that it stays.
func (d *differ) askedByOthers(instance, except string) bool {
	trigger, _, _ := strings.Cut(instance, "#")
	for ref, r := range d.actual.Rules {
		if ref != except && r.Enabled && r.Spec.(*manifest.Rule).Trigger.Ref == trigger && d.instance(r.Spec) == instance {
			return true
		}
	}
	return false
}

// packEffects adds to the pack's own step what it does to components that have no step of their own:
// its switch is theirs too, and its configuration is part of what its sensors are started with.
func (p *packDiff) packEffects() {
	i := slices.IndexFunc(p.plan.Steps, func(s Step) bool { return s.Kind == manifest.KindPack && s.Op != StepKeep })
	if i < 0 || p.row == nil || p.row.Manifest == nil {
		return
	}
	pack := p.state.Bundle.Pack
	will := pack.Enabled && p.row.DisabledBy == ""
	operator := p.wanted.Config[pack.Ref]
	before, _ := p.row.Manifest.EffectiveConfig(operator)
	after, _ := pack.EffectiveConfig(operator)
	configured := !reflect.DeepEqual(before, after)
	if will == p.row.Enabled && !configured {
		return
	}
	why := "its pack is disabled"
	if will {
		why = "its pack is enabled"
	}
	components := map[store.ComponentRef]manifest.Component{}
	for _, c := range p.state.Bundle.Components() {
		components[store.ComponentRef{Kind: c.Kind(), Ref: c.Head().Ref}] = c
	}
	step := &p.plan.Steps[i]
	// Triggers last: their rules, where they are of the pack, stop or start for the pack's sake.
	records := slices.Clone(p.records[p.plan.Ref])
	slices.SortStableFunc(records, func(a, b *store.Record) int {
		return isTrigger(a) - isTrigger(b)
	})
	for _, r := range records {
		c := components[store.ComponentRef{Kind: r.Kind, Ref: r.Ref}]
		if c == nil || !r.Present {
			continue
		}
		switch now := will && c.Head().Enabled && r.DisabledBy == ""; {
		case now != r.Enabled:
			step.Effects = append(step.Effects, p.effects(&componentChange{record: r, component: c, was: r.Enabled, will: now, why: why})...)
		case configured && now && r.Kind == manifest.KindSensor:
			step.Effects = append(step.Effects, Effect{manifest.KindSensor, r.Ref, consequenceRestarts, "the configuration of its pack changed"})
		}
	}
	step.Consequence = summary(step.Effects)
}

// tidyEffects tells what happens to each sensor and rule once: with its own step, where that says it.
func (p *PackPlan) tidyEffects() {
	told := map[store.ComponentRef]bool{}
	own := func(s *Step, e Effect) bool { return e.Ref == s.Ref && e.Kind == s.Kind }
	for i := range p.Steps {
		for _, e := range p.Steps[i].Effects {
			if own(&p.Steps[i], e) {
				told[store.ComponentRef{Kind: e.Kind, Ref: e.Ref}] = true
			}
		}
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		s.Effects = slices.DeleteFunc(s.Effects, func(e Effect) bool {
			if own(s, e) {
				return false
			}
			key := store.ComponentRef{Kind: e.Kind, Ref: e.Ref}
			again := told[key]
			told[key] = true
			return again
		})
	}
}

func isTrigger(r *store.Record) int {
	if r.Kind == manifest.KindTrigger {
		return 1
	}
	return 0
}
