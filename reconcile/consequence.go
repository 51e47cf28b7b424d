package reconcile

import (
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

// consequence is what the change of a component does to running processes. Either of the record and
// the component may be nil; was and will say whether it is in force before and after.
func (d *differ) consequence(r *store.Record, c manifest.Component, was, will bool) string {
	var kind manifest.Kind
	if r != nil {
		kind = r.Kind
	} else {
		kind = c.Kind()
	}
	switch kind {
	case manifest.KindSensor:
		return turn(was, will)
	case manifest.KindRule:
		return d.ruleConsequence(r, c, was, will)
	default:
		return consequenceNone
	}
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

// packConsequence is what a change of pack.yaml means for the pack's sensors: their configuration is
// part of what they are started with.
func packConsequence(was, will bool, fields []FieldChange) string {
	if was != will {
		return turn(was, will)
	}
	configured := slices.ContainsFunc(fields, func(f FieldChange) bool {
		top, _, _ := strings.Cut(strings.TrimPrefix(f.Field, "/"), "/")
		return top == "config" || top == "conf_schema"
	})
	if will && configured {
		return consequenceRestarts
	}
	return consequenceNone
}

// ruleConsequence finds out whether a sensor's trigger instances change with a rule. A sensor that
// takes updates is told of that; any other is started with its instances, and so anew.
func (d *differ) ruleConsequence(r *store.Record, c manifest.Component, was, will bool) string {
	var before, after string
	if r != nil && was {
		before = d.instance(r.Spec)
	}
	if c != nil && will {
		after = d.instance(c)
	}
	if before == after {
		return consequenceNone
	}
	ref := ""
	if r != nil {
		ref = r.Ref
	}
	for _, id := range []string{before, after} {
		if id != "" && d.restartsFor(id) && !d.askedByOthers(id, ref) {
			return consequenceRestarts
		}
	}
	return consequenceNone
}

// instance is the id of the trigger instance that a rule asks for; empty where the trigger is new: its
// sensors are too.
func (d *differ) instance(rule manifest.Component) string {
	use := rule.(*manifest.Rule).Trigger
	trigger, ok := d.actual.Triggers[use.Ref]
	if !ok {
		return ""
	}
	id, _ := trigger.Spec.(*manifest.Trigger).Instance(use.Parameters)
	return id
}

// restartsFor says whether a sensor that takes no updates runs for the instance's trigger, and goes on
// to.
func (d *differ) restartsFor(instance string) bool {
	trigger, _, _ := strings.Cut(instance, "#")
	for _, r := range d.actual.Sensors {
		sensor := r.Spec.(*manifest.Sensor)
		if r.Enabled && !sensor.Updates && d.stays(r) && slices.Contains(sensor.TriggerTypes, trigger) {
			return true
		}
	}
	return false
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
