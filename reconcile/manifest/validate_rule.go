package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// executionFinished is the trigger of core on which a rule can feed itself.
const executionFinished = "core.execution_finished"

// rule checks what a rule names, what it gives to it, and its expressions.
func (k *componentCheck) rule(r *Rule) {
	trigger := k.trigger(r.Trigger.Ref)
	switch {
	case trigger == nil:
		k.missing(KindTrigger, r.Trigger.Ref, "/trigger/ref")
	case k.disabled(&trigger.Header):
		k.fail("/trigger/ref", "enable it, or disable this rule", "cannot use trigger %q: it is disabled", trigger.Ref)
	default:
		k.switched(r, KindTrigger, trigger.Ref, "/trigger/ref", "match any event")
		k.instance(r, trigger)
	}
	if trigger != nil && trigger.Ref == executionFinished && r.When == "" {
		k.report(SeverityWarning, "/trigger/ref", "add when: event.payload.rule != rule.ref",
			"cannot be sure that this ends: the rule runs after every execution, those that it causes included")
	}
	actions := map[string]*Action{}
	for i, use := range r.Actions {
		pointer := fmt.Sprintf("/actions/%d", i)
		action := k.action(use.Ref)
		switch {
		case action == nil:
			k.missing(KindAction, use.Ref, pointer+"/ref")
			continue
		case k.disabled(&action.Header):
			k.fail(pointer+"/ref", "enable it, or disable this rule", "cannot use action %q: it is disabled", action.Ref)
		default:
			k.switched(r, KindAction, action.Ref, pointer+"/ref", "run its action")
		}
		actions[use.Ref] = action
		k.parameters(action.Parameters, use.Parameters, pointer+"/parameters")
		k.givenInClear(action.Parameters, use.Parameters, pointer+"/parameters")
	}
	if k.compiler == nil {
		k.compiler = NewCompiler() // it costs more than most rules
	}
	for _, e := range k.compiler.checkRule(r, trigger, actions) {
		finding := *e
		k.add(&finding)
	}
}

// switched warns that an operator has switched off what a rule names: the rule is accepted, because that is
// no matter of the files, and yet it does less than they say.
func (k *componentCheck) switched(r *Rule, kind Kind, ref, pointer, effect string) {
	if k.opts.SwitchedOff == nil || k.off {
		return
	}
	if off, _ := k.opts.SwitchedOff(KindRule, r.Ref); off != "" {
		return
	}
	if why, wayBack := k.opts.SwitchedOff(kind, ref); why != "" {
		k.report(SeverityWarning, pointer, wayBack, "cannot %s: %s %q is switched off: %s", effect, kind, ref, why)
	}
}

// instance checks the parameters that a rule gives its trigger.
func (k *componentCheck) instance(r *Rule, t *Trigger) {
	const pointer = "/trigger/parameters"
	before := len(k.errs)
	k.parameters(t.ParametersSchema, r.Trigger.Parameters, pointer)
	k.sealed(t.ParametersSchema, r.Trigger.Parameters, pointer)
	timer := t.Type == TriggerInterval || t.Type == TriggerCron || t.Type == TriggerDatetime
	if !timer || len(k.errs) > before {
		return
	}
	params := t.ParametersSchema.ApplyDefaults(r.Trigger.Parameters)
	if k.schedule(t.Type, params, pointer); len(k.errs) > before {
		return
	}
	if t.Type == TriggerDatetime && isPast(params, k.opts.Now) {
		k.report(SeverityWarning, pointer+"/fire_at", "write a time to come, or remove the rule",
			"cannot fire at %v: it is past, by more than the misfire window", params["fire_at"])
	}
}

// sealed refuses secrets that could not be encrypted: nothing is stored in clear because a key is missing.
func (k *componentCheck) sealed(schema *Schema, parameters map[string]any, pointer string) {
	// What it gives instead is of no interest, and it does not fail.
	_, _ = schema.ReplaceSecrets(parameters, func(at string, value any) (any, error) {
		if value != nil {
			k.sealedAt(pointer + at)
		}
		return value, nil
	})
}

func (k *componentCheck) sealedAt(pointer string) {
	if k.opts.Seals == nil {
		return
	}
	if err := k.opts.Seals(); err != nil {
		k.fail(pointer, "make the key file usable (secrets.key_file), then reload the pack", "cannot keep the secret %s: %v", k.written(pointer), err)
	}
}

// givenInClear warns of a secret that a rule gives an action as it is: encrypted in the database and masked
// everywhere, it still stands in the file for whoever reads that, or its history. A trigger takes nothing else.
func (k *componentCheck) givenInClear(schema *Schema, parameters map[string]any, pointer string) {
	// As in sealed.
	_, _ = schema.ReplaceSecrets(parameters, func(at string, value any) (any, error) {
		if !HoldsLiteral(value) {
			return value, nil
		}
		hint := `write "{{ secret.name }}" there, and the value into a file of that name in secrets.directory`
		if matchesAny(annotated(schema.raw(), "literal", true), at) {
			hint = "take literal: true from the action's schema, then " + hint
		}
		k.report(SeverityWarning, pointer+at, hint, "cannot keep %s secret: it stands in clear in this file", k.written(pointer+at))
		k.sealedAt(pointer + at)
		return value, nil
	})
}

// schedule tells all that is wrong with the parameters of a timer. The environment tells one thing at a
// time: what was told is left out, and it is asked again.
func (k *componentCheck) schedule(triggerType string, params map[string]any, pointer string) {
	if k.opts.Environment == nil {
		return
	}
	rest := maps.Clone(params)
	for {
		name, err := k.opts.Environment.Schedule(triggerType, rest)
		_, given := rest[name]
		if err == nil || !given && len(rest) < len(params) {
			return
		}
		at := pointer
		if name != "" {
			at += "/" + escapePointer(name)
		}
		k.fail(at, "", "cannot use %s: %v", dotted(at), err)
		if !given {
			return
		}
		delete(rest, name)
	}
}

// isPast says whether a fire_at lies so far back that it never fires. What cannot be read is the
// schedule's to tell.
func isPast(params map[string]any, now time.Time) bool {
	const defaultWindow = time.Hour // format.md: a fire_at in the past fires once within it
	text, _ := params["fire_at"].(string)
	if now.IsZero() || text == "" {
		return false
	}
	zone := time.UTC
	if name, ok := params["timezone"].(string); ok {
		if z, err := time.LoadLocation(name); err == nil {
			zone = z
		}
	}
	var at time.Time
	var err error
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if at, err = time.ParseInLocation(layout, text, zone); err == nil {
			break
		}
	}
	if err != nil {
		return false
	}
	window := defaultWindow
	if given, ok := params["misfire_window"]; ok {
		if d, err := parseDuration(fmt.Sprint(given)); err == nil {
			window = time.Duration(d)
		}
	}
	return at.Add(window).Before(now)
}

// parameters checks the literal part of what a rule gives.
func (k *componentCheck) parameters(s *Schema, params map[string]any, pointer string) {
	for _, p := range withoutTemplates(s, params) {
		k.fail(pointer+p.Pointer, "", "cannot use %s: %s", k.written(pointer+p.Pointer), p.Message)
	}
}

// written names a pointer as the rule does, which may have one `action` instead of a list.
func (k *componentCheck) written(pointer string) string {
	if _, list := k.head.Places["/actions"]; !list {
		if rest, ok := strings.CutPrefix(pointer, "/actions/0"); ok {
			pointer = "/action" + rest
		}
	}
	return dotted(pointer)
}

// withoutTemplates validates parameters, leaving out what a template decides when the event is there.
func withoutTemplates(s *Schema, params map[string]any) []SchemaError {
	templates := map[string]string{}
	walkTexts(params, "", func(pointer, text string) {
		if strings.Contains(text, "{{") {
			templates[pointer] = ""
		}
	})
	errs := s.ValidateUnresolved(params, templates)
	return slices.DeleteFunc(errs, func(e SchemaError) bool {
		// What is wrong with a whole may be so only for the part that is not known yet.
		for pointer := range templates {
			if strings.HasPrefix(pointer, e.Pointer+"/") {
				return true
			}
		}
		return false
	})
}
