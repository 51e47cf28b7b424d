package manifest

import (
	"encoding/json"
	"fmt"
	"strings"
)

// CompiledKey gives a text that tells one group of events or executions from another: the key of
// throttle, debounce, dedupe and concurrency. It is safe for concurrent use.
type CompiledKey struct {
	source   string
	pieces   []piece
	machines *machines
}

// Text evaluates the key. A part that has no value is empty; what is not a text is printed. A nil key is
// the empty text: all are one group.
func (k *CompiledKey) Text(env *Env) (string, error) {
	if k == nil {
		return "", nil
	}
	m := k.machines.get(env)
	defer k.machines.put(m)
	var b strings.Builder
	for _, p := range k.pieces {
		if p.expr == nil {
			b.WriteString(p.text)
			continue
		}
		value, err := p.expr.run(m)
		printed := ""
		if err == nil {
			printed, err = printValue(value)
		}
		if err == nil && b.Len()+len(printed) > maxPrinted {
			err = fmt.Errorf("it grows beyond %d MiB", maxPrinted>>20)
		}
		if err != nil {
			return "", errorf("cannot evaluate key %s: %v", quoted(k.source), err)
		}
		b.WriteString(printed)
	}
	return b.String(), nil
}

// CompileConcurrencyKey compiles the key of an action's concurrency, which reads Env.Parameters; nil where
// it has none. What parsing accepted compiles.
func CompileConcurrencyKey(a *Action) (*CompiledKey, error) {
	if a.Concurrency == nil || a.Concurrency.Key == "" {
		return nil, nil //nolint:nilnil // no key is the key of all
	}
	key, problems := compileKey(newLanguage(), a.Concurrency.Key, names{parameters: true, noEvent: true})
	if key == nil {
		return nil, errorf("cannot compile concurrency.key of %s: %s", a.Ref, problems[0].message)
	}
	return key, nil
}

// ConcurrencyKey gives what an execution with these parameters, without those that are secret, is counted
// by; false: the action has no concurrency. Where the key cannot be evaluated it is empty, with the error.
func (a *Action) ConcurrencyKey(parameters json.RawMessage) (key string, counted bool, err error) {
	if a == nil || a.Concurrency == nil {
		return "", false, nil
	}
	compiled, err := CompileConcurrencyKey(a)
	if err != nil || compiled == nil {
		return "", true, err
	}
	values, err := DecodePayload(parameters)
	if err != nil {
		return "", true, errorf("cannot evaluate concurrency.key of %s: its parameters are no JSON object", a.Ref)
	}
	key, err = compiled.Text(&Env{Parameters: values})
	return key, true, err
}

// compileKey compiles an expression, or a template where the text has braces. A text that reads nothing
// would be the same for all, and is refused.
func compileKey(l *language, source string, known names) (*CompiledKey, []problem) {
	raw, bad := splitTemplate(source)
	if bad != nil {
		return nil, []problem{*bad}
	}
	if !strings.Contains(source, "{{") {
		raw = []rawPiece{{text: source, expression: true}}
	}
	key := &CompiledKey{source: source, machines: &machines{}}
	var problems []problem
	reads := 0
	for _, r := range raw {
		if !r.expression {
			key.pieces = append(key.pieces, piece{text: r.text})
			continue
		}
		e, found := l.compile(r.text, known)
		for _, p := range found {
			p.at += r.at
			problems = append(problems, p)
		}
		if e != nil {
			reads += len(e.paths)
			for i := range e.paths {
				e.paths[i].at += r.at
			}
			key.pieces = append(key.pieces, piece{expr: e})
		}
	}
	if len(problems) == 0 && reads == 0 {
		hint := "write something like event.payload.host"
		if known.noEvent {
			hint = "write something like parameters.host"
		}
		problems = append(problems, problem{message: "it reads nothing, so it is the same for all", hint: hint})
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return key, nil
}

// paths are the values that the key reads, for the check against the payload's schema.
func (k *CompiledKey) paths() []path {
	var all []path
	for _, p := range k.pieces {
		if p.expr != nil {
			all = append(all, p.expr.paths...)
		}
	}
	return all
}
