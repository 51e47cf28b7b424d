package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser/lexer"
)

// Env is what the expressions of a rule can see.
type Env struct {
	EventID int64
	Trigger string
	Time    time.Time
	// Payload is the event's payload as DecodePayload gives it.
	Payload map[string]any
	Rule    string
	// Config is the configuration of the rule's pack.
	Config map[string]any
	// Now is what now() gives.
	Now time.Time
	// Item is the element of for_each that the parameters are made for; nil without for_each.
	Item any
	// Parameters are those of an execution, for the key of concurrency.
	Parameters map[string]any
}

// CompiledRule is a rule whose condition and parameters are ready to be evaluated. It is safe for
// concurrent use.
type CompiledRule struct {
	Rule    *Rule
	Actions []CompiledAction

	when     *expression // nil: always
	forEach  *expression // nil: once
	machines *machines
	compiler *Compiler

	// The keys of the rule's guards; nil where they have none.
	ThrottleKey, DebounceKey, DedupeKey *CompiledKey
}

// CompiledAction is one action of a rule with its parameters' templates.
type CompiledAction struct {
	Ref string

	parameters parameterNode
	machines   *machines
}

// CompileRule compiles the condition and every template of a rule. trigger and actions may be nil
// or lack entries, and then less is checked: with them, a path that a closed payload schema does
// not declare is an error, and one that an open schema with properties does not list a warning.
// With an error among the findings there is no compiled rule.
//
// A finding stands at its character of the file. In a text that was folded (>) or has escapes it stands
// at the beginning of the text, as Header.Inside says.
func CompileRule(rule *Rule, trigger *Trigger, actions map[string]*Action) (*CompiledRule, Errors) {
	return NewCompiler().Rule(rule, trigger, actions)
}

// Rule compiles a rule as CompileRule does.
func (l *Compiler) Rule(rule *Rule, trigger *Trigger, actions map[string]*Action) (*CompiledRule, Errors) {
	return l.rule(&ruleCompiler{rule: rule, trigger: trigger, compiler: l}, actions)
}

// checkRule is CompileRule with a check of types: a template whose value can never fit the parameter that
// it fills is an error. A rule in force is not judged by it, for it may be older than the schemas.
func (l *Compiler) checkRule(rule *Rule, trigger *Trigger, actions map[string]*Action) Errors {
	_, errs := l.rule(&ruleCompiler{rule: rule, trigger: trigger, compiler: l, types: true}, actions)
	return errs
}

func (l *Compiler) rule(c *ruleCompiler, actions map[string]*Action) (*CompiledRule, Errors) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rule := c.rule
	compiled := &CompiledRule{Rule: rule, machines: l.machines, compiler: l}
	if rule.When != "" {
		compiled.when = c.condition("when", "/when", rule.When, names{})
	}
	c.guards(compiled)
	known := names{item: rule.ForEach != "", secret: true}
	if rule.ForEach != "" {
		source, from := unwrap(rule.ForEach)
		compiled.forEach = c.expression(source, from, names{}, "/for_each", rule.ForEach, "for_each")
	}
	for i, use := range rule.Actions {
		p := &parameterCompiler{rule: c, base: "/actions/" + strconv.Itoa(i) + "/parameters", known: known}
		if action := actions[use.Ref]; action != nil && action.Parameters != nil {
			p.schema = action.Parameters
			p.literal = annotated(action.Parameters.raw(), "literal", true)
			p.immutable = annotated(action.Parameters.raw(), "immutable", true)
		}
		parameters := use.Parameters
		if parameters == nil {
			parameters = map[string]any{}
		}
		compiled.Actions = append(compiled.Actions, CompiledAction{
			Ref: use.Ref, parameters: p.compile(parameters, ""), machines: compiled.machines,
		})
	}
	c.errs.Sort()
	if c.errs.HasErrors() {
		return nil, c.errs
	}
	return compiled, c.errs
}

// Match evaluates the condition. An error is of the evaluation (a type mismatch, the budgets).
func (r *CompiledRule) Match(env *Env) (bool, error) {
	if r.when == nil {
		return true, nil
	}
	k := r.machines.get(env)
	defer r.machines.put(k)
	value, err := r.when.run(k)
	if err != nil {
		return false, errorf("cannot evaluate when: %v", err)
	}
	matched, err := boolOf(value)
	if err != nil {
		return false, errorf("cannot evaluate when: %v", err)
	}
	return matched == true, nil
}

// ForEach gives the elements that the rule's actions are wanted for, each to be put into Env.Item; nil
// where the rule has no for_each, which means once. What is not there is an empty list.
func (r *CompiledRule) ForEach(env *Env) ([]any, error) {
	if r.forEach == nil {
		return nil, nil
	}
	k := r.machines.get(env)
	defer r.machines.put(k)
	value, err := r.forEach.run(k)
	if err != nil {
		return nil, errorf("cannot evaluate for_each: %v", err)
	}
	if value == nil {
		return []any{}, nil
	}
	plain, err := plainValue(value)
	if err != nil {
		return nil, errorf("cannot evaluate for_each: %v", err)
	}
	list, ok := plain.([]any)
	if !ok {
		return nil, errorf("cannot evaluate for_each: found %s, expected a list", show(value))
	}
	return list, nil
}

// Values is what a rule gives an action.
type Values struct {
	// Parameters lack those that had no value, and those that a secret will fill; in a list such an
	// element is nil.
	Parameters map[string]any
	// Secrets maps the JSON pointer of a parameter to the name of the secret that belongs there.
	Secrets map[string]string
	// Warnings tell of a template inside text that had no value.
	Warnings []string
}

// Evaluate gives the parameters for one event.
func (a *CompiledAction) Evaluate(env *Env) (*Values, error) {
	k := a.machines.get(env)
	defer a.machines.put(k)
	e := &evaluation{machine: k, values: &Values{Secrets: map[string]string{}}}
	value, _, err := a.parameters.evaluate(e)
	if err != nil {
		return nil, err
	}
	e.values.Parameters = value.(map[string]any)
	return e.values, nil
}

// Part is one of the terms that a condition joins by `and` or by `or`, as evaluated for an event.
type Part struct {
	Source string `json:"source"`
	// Value is what it gave, usually true or false; nil counts as false.
	Value any `json:"value"`
	// Error says why it could not be evaluated.
	Error string `json:"error,omitempty"`
	// Reads are the values that it looked at, in the order of the text.
	Reads []Read `json:"reads,omitempty"`
}

// Read is a value that an expression looked at. Value is nil where there was none.
type Read struct {
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// Explain evaluates the terms of the condition one by one, all of them, also those that the condition
// itself would not have come to. A condition that joins no terms is one part; without a condition
// there is none.
func (r *CompiledRule) Explain(env *Env) []Part {
	if r.when == nil {
		return nil
	}
	var parts []Part
	for _, source := range terms(r.when.source) {
		e, problems := r.compiler.term(source)
		if e == nil {
			// Only a term that means something else alone can fail here: then the whole is the part.
			message := "it cannot be evaluated alone"
			if len(problems) > 0 {
				message = problems[0].message
			}
			parts = append(parts, Part{Source: source, Error: message})
			continue
		}
		parts = append(parts, r.explain(e, env))
	}
	return parts
}

func (r *CompiledRule) explain(e *expression, env *Env) Part {
	k := r.machines.get(env)
	defer r.machines.put(k)
	part := Part{Source: e.source}
	value, err := e.run(k)
	if err == nil {
		value, err = plainValue(value)
	}
	if err != nil {
		part.Error = err.Error()
	} else {
		part.Value = value
	}
	for _, p := range e.paths {
		value, err := plainValue(p.value(env))
		if err == nil && !slices.ContainsFunc(part.Reads, func(r Read) bool { return r.Path == p.String() }) {
			part.Reads = append(part.Reads, Read{Path: p.String(), Value: value})
		}
	}
	return part
}

// value gives what a path leads to.
func (p path) value(env *Env) any {
	event := map[string]any{"id": env.EventID, "trigger": env.Trigger, "time": env.Time, "payload": env.Payload}
	var value any
	switch p.steps[0] {
	case "event":
		value = event
	case "trigger":
		value = env.Trigger
	case "rule":
		value = map[string]any{"ref": env.Rule}
	case "pack":
		value = map[string]any{"config": env.Config}
	case "item":
		value = env.Item
	case "parameters":
		value = env.Parameters
	}
	for _, step := range p.steps[1:] {
		var key any = step
		if _, list := toList(value); list {
			if i, err := strconv.Atoi(step); err == nil {
				key = i
			}
		}
		value = lookupValue(value, key)
	}
	return value
}

// terms splits a condition at the operator that joins it: at every `or` outside brackets, or where
// there is none at every `and`. A condition that is built otherwise is one term.
func terms(source string) []string {
	tokens, err := lexer.Lex(file.NewSource(source))
	if err != nil {
		return []string{strings.TrimSpace(source)}
	}
	var ands, ors []lexer.Token
	depth := 0
	for _, t := range tokens {
		switch {
		case t.Is(lexer.Bracket, "(", "[", "{"):
			depth++
		case t.Is(lexer.Bracket):
			depth--
		case depth > 0:
		case t.Is(lexer.Operator, "?", ":", ";", "let", "if"):
			return []string{strings.TrimSpace(source)} // they bind weaker than and and or
		case t.Is(lexer.Operator, "||", "or"):
			ors = append(ors, t)
		case t.Is(lexer.Operator, "&&", "and"):
			ands = append(ands, t)
		}
	}
	if len(ors) > 0 {
		ands = ors
	}
	runes := []rune(source)
	var list []string
	from := 0
	for _, t := range ands {
		list = append(list, strings.TrimSpace(string(runes[from:t.From])))
		from = t.To
	}
	return append(list, strings.TrimSpace(string(runes[from:])))
}

// ruleCompiler collects the findings about one rule.
type ruleCompiler struct {
	rule    *Rule
	trigger *Trigger
	errs    Errors
	// types says that the values of templates are checked against the parameters that they fill.
	types bool

	compiler *Compiler // whose lock is held
}

// unwrap takes the braces off an expression that was written as a template, where an expression
// stands anyway. from is where the expression begins.
func unwrap(source string) (expression string, from int) {
	raw, bad := splitTemplate(source)
	if bad == nil && len(raw) == 1 && raw[0].expression {
		return raw[0].text, raw[0].at
	}
	return source, 0
}

// condition compiles an expression that has to give true or false.
func (c *ruleCompiler) condition(what, pointer, source string, known names) *expression {
	inner, from := unwrap(source)
	e := c.expression(inner, from, known, pointer, source, what)
	if e == nil {
		return nil
	}
	switch e.result {
	case reflect.Bool, reflect.Interface, reflect.Invalid:
		return e
	}
	c.fail(pointer, source, what, problem{
		at: from, message: "it gives " + resultName(e.result) + ", expected true or false", hint: "compare it with something, like == or >",
	})
	return nil
}

func resultName(kind reflect.Kind) string {
	switch kind {
	case reflect.String:
		return "a text"
	case reflect.Int, reflect.Int64, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	default:
		return "another type"
	}
}

// expression compiles an expression that begins at a character of the text at the pointer.
func (c *ruleCompiler) expression(inner string, from int, known names, pointer, source, what string) *expression {
	e, problems := c.compiler.compile(inner, known)
	for _, p := range problems {
		p.at += from
		c.fail(pointer, source, what, p)
	}
	if e == nil {
		return nil
	}
	for _, p := range e.paths {
		if bad := c.payload(p); bad != nil {
			bad.at += from
			c.fail(pointer, source, what, *bad)
		}
	}
	return e
}

// guards compiles the keys of throttle, debounce and dedupe.
func (c *ruleCompiler) guards(compiled *CompiledRule) {
	if t := c.rule.Throttle; t != nil {
		compiled.ThrottleKey = c.key("throttle", t.Key)
	}
	if b := c.rule.Debounce; b != nil {
		compiled.DebounceKey = c.key("debounce", b.Key)
	}
	if u := c.rule.Dedupe; u != nil {
		compiled.DedupeKey = c.key("dedupe", u.Key)
	}
}

func (c *ruleCompiler) key(guard, source string) *CompiledKey {
	if source == "" {
		return nil
	}
	pointer, what := "/"+guard+"/key", guard+".key"
	key, problems := compileKey(c.compiler.language, source, names{})
	for _, p := range problems {
		c.fail(pointer, source, what, p)
	}
	if key == nil {
		return nil
	}
	for _, p := range key.paths() {
		if bad := c.payload(p); bad != nil {
			c.fail(pointer, source, what, *bad)
		}
	}
	return key
}

// webhookFields are what a webhook's payload is made of.
var webhookFields = []string{"body", "body_encoding", "headers", "method", "query", "remote"}

// payload checks a path into the payload against what is known of it.
func (c *ruleCompiler) payload(p path) *problem {
	if c.trigger == nil || len(p.steps) < 3 || p.steps[0] != "event" || p.steps[1] != "payload" {
		return nil
	}
	if c.trigger.Type == TriggerWebhook && !slices.Contains(webhookFields, p.steps[2]) {
		meant := path{steps: append([]string{"event", "payload", "body"}, p.steps[2:]...)}
		return &problem{
			at: p.at, warning: true, message: "a webhook has no " + p.String() + ": its fields are under event.payload.body",
			hint: "write " + meant.String(),
		}
	}
	if c.trigger.Type == TriggerWebhook && p.steps[2] == "headers" && len(p.steps) == 4 && p.steps[3] != strings.ToLower(p.steps[3]) {
		meant := path{steps: append(slices.Clone(p.steps[:3]), strings.ToLower(p.steps[3]))}
		return &problem{
			at: p.at, warning: true, message: "a webhook has no " + p.String() + ": the names of its headers are in small letters",
			hint: "write " + meant.String(),
		}
	}
	schema := c.trigger.PayloadSchema
	if schema == nil || c.trigger.Type == TriggerWebhook && schema.at("/"+p.steps[2]) == nil {
		return nil // what every webhook has need not be listed
	}
	return undeclared(schema, p, 2, "the trigger's payload_schema")
}

// undeclared finds the first step of a path, from one on, that a schema does not know. Where the schema
// says little (no properties, or one of several alternatives), so does this.
func undeclared(schema *Schema, p path, from int, who string) *problem {
	node := resolve(schema.raw(), schema.raw())
	for i, step := range p.steps[from:] {
		if next := below(node, step); next != nil {
			node = resolve(schema.raw(), next)
			continue
		}
		properties := object(node["properties"])
		if _, listed := properties[step]; listed || !isPlainObject(node) {
			return nil
		}
		closed := node["additionalProperties"] == false
		if !closed && len(properties) == 0 {
			return nil
		}
		at := path{steps: p.steps[:i+from+1]}
		return &problem{
			at: p.at, warning: !closed, message: who + " does not list " + at.String(),
			hint: didYouMean(step, sortedKeys(properties)),
		}
	}
	return nil
}

// isPlainObject says whether a schema describes an object by its properties alone.
func isPlainObject(node map[string]any) bool {
	for _, key := range []string{"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "patternProperties"} {
		if _, ok := node[key]; ok {
			return false
		}
	}
	if _, ok := node["additionalProperties"].(map[string]any); ok {
		return false
	}
	types := typesOf(node)
	return len(types) == 0 || slices.Contains(types, "object")
}

// fail adds a finding about the text at the pointer.
func (c *ruleCompiler) fail(pointer, source, what string, p problem) {
	place, _ := c.rule.Inside(pointer, source, p.at)
	finding := &Error{
		Place: place, Severity: SeverityError, Ref: c.rule.Ref, Kind: KindRule,
		Message: fmt.Sprintf("cannot compile %s: %s", what, p.message), Hint: p.hint,
	}
	if p.warning {
		finding.Severity = SeverityWarning
		finding.Message = fmt.Sprintf("cannot be sure of %s: %s", what, p.message)
	}
	c.errs = append(c.errs, finding)
}
