package manifest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A template is a text with {{ expression }} in it. A literal "{{" is written {{ "{{" }}, and a literal
// "{%" {{ "{%" }}: an expression that is a text prints it, and what is printed is never read again.

// piece is a part of a template: text, or an expression where expr is set.
type piece struct {
	text string
	expr *expression
}

// splitTemplate takes a text apart at its expressions. at of a piece counts characters.
func splitTemplate(text string) (pieces []rawPiece, bad *problem) {
	rest, at := text, 0
	add := func(n int, p rawPiece) {
		if p.expression || p.text != "" {
			pieces = append(pieces, p)
		}
		at += utf8.RuneCountInString(rest[:n])
		rest = rest[n:]
	}
	for {
		open := strings.Index(rest, "{{")
		plain := rest
		if open >= 0 {
			plain = rest[:open]
		}
		if i := strings.Index(plain, "{%"); i >= 0 {
			return nil, &problem{
				at: at + utf8.RuneCountInString(plain[:i]), message: "there are no {% statements %} in templates",
				hint: `write {{ condition ? a : b }}, {{ map(list, .name) | join(", ") }}, or {{ "{%" }} for the two characters`,
			}
		}
		if open < 0 {
			add(len(rest), rawPiece{text: rest, at: at})
			return pieces, nil
		}
		add(open, rawPiece{text: plain, at: at})
		end := expressionEnd(rest[2:])
		if end < 0 {
			return nil, &problem{at: at, message: "{{ is not closed", hint: `close it with }}, or write {{ "{{" }} for the two characters`}
		}
		inner := rest[2 : 2+end]
		if trimmed := strings.TrimSpace(inner); strings.HasPrefix(inner, "-") && strings.HasSuffix(trimmed, "-") {
			return nil, &problem{at: at, message: "there is no {{- in templates", hint: "write {{ " + strings.Trim(trimmed, "- ") + " }}"}
		}
		add(2+end+2, rawPiece{text: inner, at: at + 2, expression: true})
	}
}

type rawPiece struct {
	text       string
	at         int
	expression bool
}

// expressionEnd finds the }} that closes an expression, passing over texts and over the braces of
// objects; -1 is none.
func expressionEnd(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"', '\'', '`':
			closing := quoteEnd(s[i+1:], c)
			if closing < 0 {
				// An apostrophe that opens no text: the expression is wrong, and its own error says how.
				return strings.Index(s, "}}")
			}
			i += 1 + closing
		case '{':
			depth++
		case '}':
			if depth == 0 && strings.HasPrefix(s[i:], "}}") {
				return i
			}
			depth = max(0, depth-1)
		}
	}
	return -1
}

// quoteEnd finds the end of a text of the language; only a raw text has no escapes.
func quoteEnd(s string, quote byte) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote != '`':
			i++
		case s[i] == quote:
			return i
		}
	}
	return -1
}

// evaluation is one run of the templates of an action.
type evaluation struct {
	machine *machine
	values  *Values
	printed int // bytes
}

// maxPrinted bounds the text that the templates of one action print in all, in bytes: a payload that
// is printed a thousand times must not fill the memory.
const maxPrinted = 16 << 20

// parameterNode is a parameter as compiled. present is false for one that has no value.
type parameterNode interface {
	evaluate(e *evaluation) (value any, present bool, err error)
}

// constantNode holds no template.
type constantNode struct{ value any }

func (n constantNode) evaluate(*evaluation) (any, bool, error) { return deepCopy(n.value), true, nil }

// wholeNode is an expression alone: it keeps the type of its value, unless the schema wants a text.
type wholeNode struct {
	label   string
	pointer string
	expr    *expression
	asText  bool
}

func (n wholeNode) evaluate(e *evaluation) (any, bool, error) {
	value, err := n.expr.run(e.machine)
	if ref, ok := value.(SecretRef); ok {
		return secretNode{n.pointer, ref.name}.evaluate(e)
	}
	if err == nil && value != nil {
		value, err = plainValue(value)
	}
	if err != nil {
		return nil, false, errorf("cannot evaluate %s: %v", n.label, err)
	}
	if _, text := value.(string); n.asText && value != nil && !text {
		if value, err = printValue(value); err != nil {
			return nil, false, errorf("cannot evaluate %s: %v", n.label, err)
		}
	}
	return value, value != nil, nil
}

// textNode is a text with expressions in it.
type textNode struct {
	label  string
	pieces []piece
}

func (n textNode) evaluate(e *evaluation) (any, bool, error) {
	var b strings.Builder
	for _, p := range n.pieces {
		if p.expr == nil {
			b.WriteString(p.text)
			continue
		}
		value, err := p.expr.run(e.machine)
		printed := ""
		if err == nil {
			printed, err = printValue(value)
		}
		if e.printed += len(printed); err == nil && e.printed > maxPrinted {
			err = fmt.Errorf("the parameters grow beyond %d MiB", maxPrinted>>20)
		}
		if err != nil {
			return nil, false, errorf("cannot evaluate %s: %v", n.label, err)
		}
		if value == nil {
			e.values.Warnings = append(e.values.Warnings, fmt.Sprintf("%s: {{ %s }} had no value", n.label, strings.TrimSpace(p.expr.source)))
		}
		b.WriteString(printed)
	}
	return b.String(), true, nil
}

// secretNode is a reference that is resolved when the child starts.
type secretNode struct{ pointer, name string }

func (n secretNode) evaluate(e *evaluation) (any, bool, error) {
	e.values.Secrets[n.pointer] = n.name
	return nil, false, nil
}

// objectNode is an object that holds templates. A field without a value is absent.
type objectNode struct {
	names []string
	nodes []parameterNode
}

func (n objectNode) evaluate(e *evaluation) (any, bool, error) {
	m := make(map[string]any, len(n.names))
	for i, name := range n.names {
		value, present, err := n.nodes[i].evaluate(e)
		if err != nil {
			return nil, false, err
		}
		if present {
			m[name] = value
		}
	}
	return m, true, nil
}

// listNode is a list that holds templates. An element without a value is null, so that the others
// keep their places.
type listNode []parameterNode

func (n listNode) evaluate(e *evaluation) (any, bool, error) {
	list := make([]any, len(n))
	for i, item := range n {
		value, _, err := item.evaluate(e)
		if err != nil {
			return nil, false, err
		}
		list[i] = value
	}
	return list, true, nil
}

// parameterCompiler compiles the parameters of one action of a rule.
type parameterCompiler struct {
	rule   *ruleCompiler
	base   string // pointer of the parameters in the rule's file
	schema *Schema
	// literal and immutable are what no template may fill.
	literal, immutable []pattern
	known              names
}

// label names a parameter in messages.
func label(pointer string) string { return "parameters" + dottedTail(pointer) }

func dottedTail(pointer string) string {
	if pointer == "" {
		return ""
	}
	return "." + dotted(pointer)
}

func (c *parameterCompiler) compile(value any, pointer string) parameterNode {
	switch v := value.(type) {
	case string:
		return c.text(v, pointer)
	case map[string]any:
		n := objectNode{names: sortedKeys(v)}
		fixed := true
		for _, name := range n.names {
			at := pointer + "/" + escapePointer(name)
			if strings.Contains(name, "{{") {
				c.rule.fail(c.base+at, name, label(pointer), problem{message: "a name cannot be a template", hint: "put the template into the value"})
			}
			sub := c.compile(v[name], at)
			_, isFixed := sub.(constantNode)
			fixed = fixed && isFixed
			n.nodes = append(n.nodes, sub)
		}
		if !fixed {
			return n
		}
	case []any:
		n := make(listNode, len(v))
		for i, item := range v {
			n[i] = c.compile(item, pointer+"/"+strconv.Itoa(i))
		}
		if slices.ContainsFunc(n, func(item parameterNode) bool { _, fixed := item.(constantNode); return !fixed }) {
			return n
		}
	}
	return constantNode{value}
}

func (c *parameterCompiler) text(source, pointer string) parameterNode {
	at := c.base + pointer
	if !strings.Contains(source, "{{") && !strings.Contains(source, "{%") {
		return constantNode{source}
	}
	switch {
	case !strings.Contains(source, "{{") && matchesAny(c.literal, pointer):
		return constantNode{source} // "{%" is just text where no template may stand
	case matchesAny(c.literal, pointer):
		c.rule.fail(at, source, label(pointer), problem{
			message: "found a template, expected a fixed text", hint: "the action marks this parameter literal: no event may fill it",
		})
		return constantNode{source}
	case matchesAny(c.immutable, pointer):
		c.rule.fail(at, source, label(pointer), problem{
			message: "found a template, expected nothing", hint: "the action marks this parameter immutable: leave it out",
		})
		return constantNode{source}
	}
	raw, bad := splitTemplate(source)
	if bad != nil {
		c.rule.fail(at, source, label(pointer), *bad)
		return constantNode{source}
	}
	return c.pieces(raw, source, pointer)
}

// pieces compiles the expressions of a template.
func (c *parameterCompiler) pieces(raw []rawPiece, source, pointer string) parameterNode {
	at := c.base + pointer
	alone := isAlone(raw)
	if c.rule.types && !alone {
		if wanted := c.wanted(pointer); len(wanted) > 0 && !slices.Contains(wanted, "string") {
			c.rule.fail(at, source, label(pointer), problem{
				message: "a template inside a text gives a string, expected " + withArticle(wanted), hint: `give the parameter as "{{ … }}" and nothing else`,
			})
		}
	}
	n := textNode{label: label(pointer)}
	for _, r := range raw {
		if !r.expression {
			n.pieces = append(n.pieces, piece{text: r.text})
			continue
		}
		e := c.rule.expression(r.text, r.at, c.known, at, source, label(pointer))
		if e == nil {
			return constantNode{source}
		}
		if e.secret != "" && alone {
			return secretNode{pointer, e.secret}
		}
		if e.secret != "" {
			c.rule.fail(at, source, label(pointer), problem{
				at: r.at, message: "a secret cannot be part of a text", hint: fmt.Sprintf("give the parameter as \"{{ %s }}\" and nothing else", strings.TrimSpace(r.text)),
			})
			return constantNode{source}
		}
		if alone {
			if bad := c.misfit(e, pointer); bad != nil && c.rule.types {
				bad.at += r.at
				c.rule.fail(at, source, label(pointer), *bad)
			}
			return wholeNode{label: label(pointer), pointer: pointer, expr: e, asText: c.wantsText(pointer)}
		}
		n.pieces = append(n.pieces, piece{expr: e})
	}
	return n
}

// isAlone says whether a template is one expression and nothing else. The line break that ends a block
// of YAML does not count.
func isAlone(raw []rawPiece) bool {
	switch len(raw) {
	case 1:
		return raw[0].expression
	case 2:
		return raw[0].expression && strings.Trim(raw[1].text, "\r\n") == ""
	}
	return false
}

// wantsText says whether the schema wants a text at the pointer, and nothing else.
func (c *parameterCompiler) wantsText(pointer string) bool {
	types := slices.DeleteFunc(slices.Clone(typesOf(c.schema.at(pointer))), func(t string) bool { return t == "null" })
	return len(types) == 1 && types[0] == "string"
}
