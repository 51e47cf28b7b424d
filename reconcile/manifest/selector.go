package manifest

import (
	"math"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser/lexer"
)

// Selector is the first term of a condition where that compares a field of the payload with a constant:
// a rule whose field has another value cannot match, nor can its evaluation fail. So rules are found
// by the value that they wait for, and those that wait for another cost nothing.
type Selector struct {
	// Field is the way to the field inside the payload.
	Field []string
	// Value is a text, true, false or a float64: the only one with which the rule can match.
	Value any
}

// Selector gives the selector of the rule's condition; nil: it has none.
func (r *Rule) Selector() *Selector {
	source, _ := unwrap(r.When)
	tokens, err := lexer.Lex(file.NewSource(source))
	if err != nil || len(source) > maxExpression {
		return nil
	}
	field, rest := payloadField(tokens)
	if len(field) == 0 || len(rest) < 3 || !rest[0].Is(lexer.Operator, "==") {
		return nil
	}
	value, ok := selectorValue(rest[1])
	if !ok {
		return nil
	}
	if after := rest[2]; !after.Is(lexer.EOF) && !after.Is(lexer.Operator, "and", "&&") {
		return nil
	}
	// What binds weaker than `and` would make the first term one of several ways to match.
	depth := 0
	for _, t := range rest[2:] {
		switch {
		case t.Is(lexer.Bracket, "(", "[", "{"):
			depth++
		case t.Is(lexer.Bracket):
			depth--
		case depth == 0 && t.Is(lexer.Operator, "or", "||", "?", ":", ";", "??", "let", "if", "else"):
			return nil
		}
	}
	return &Selector{Field: field, Value: value}
}

// payloadField reads event.payload.a.b at the beginning of the tokens.
func payloadField(tokens []lexer.Token) (field []string, rest []lexer.Token) {
	const names = 2 // event and payload themselves
	var steps []string
	for {
		if len(tokens) < 2 || !tokens[0].Is(lexer.Identifier) {
			return nil, nil
		}
		steps = append(steps, tokens[0].Value)
		tokens = tokens[1:]
		if !tokens[0].Is(lexer.Operator, ".") {
			break
		}
		tokens = tokens[1:]
	}
	if len(steps) <= names || steps[0] != "event" || steps[1] != "payload" {
		return nil, nil
	}
	return steps[names:], tokens
}

// selectorValue gives the constant of a token.
func selectorValue(t lexer.Token) (any, bool) {
	switch {
	case t.Is(lexer.String):
		return t.Value, true
	case t.Is(lexer.Identifier, "true", "false"), t.Is(lexer.Operator, "true", "false"):
		return t.Value == "true", true
	case t.Is(lexer.Number):
		f, err := strconv.ParseFloat(strings.ReplaceAll(t.Value, "_", ""), 64)
		return f, err == nil && math.Abs(f) < maxExactFloat
	}
	return nil, false
}

// Find gives what the payload has in the selector's field, as Value has it; nil where that is nothing
// which a selector can wait for.
func (g *Selector) Find(payload map[string]any) any {
	var value any = payload
	for _, step := range g.Field {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[step]
	}
	switch value.(type) {
	case string, bool, float64:
		return value
	}
	return nil
}
