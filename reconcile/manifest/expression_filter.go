package manifest

import (
	"errors"
	"slices"
	"strings"

	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser/lexer"
)

// meantFilters says how to write here what template languages elsewhere call a filter.
var meantFilters = map[string]string{
	"d": "default(x)", "count": "length", "size": "length", "len": "length",
	"upcase": "upper", "downcase": "lower", "strip": "trim", "tojson": "json", "to_json": "json",
	"to_json_string": "json", "to_nice_json": "json", "json_encode": "json", "from_json": "fromJSON()",
	"fromjson": "fromJSON()", "from_json_string": "fromJSON()", "b64encode": "toBase64()", "b64decode": "fromBase64()",
	"int": "int()", "float": "float()", "string": "string()", "unique": "uniq()", "list": "no filter at all",
	"safe": "no filter at all", "e": "no filter at all", "escape": "no filter at all", "quote": "no filter at all",
	"select": "filter(predicate)", "selectattr": "filter(.attribute)", "map_attribute": "map(.attribute)",
	"regex_match": "x matches \"pattern\"", "match": "x matches \"pattern\"", "title": "upper or lower",
	"capitalize": "upper or lower", "sort_by": "sortBy(.attribute)",
}

// bindFilters makes `a | upper` and `a | default(b)` what template languages elsewhere mean by it: the
// filter binds to the one value before it, so that `x | default(0) > 5` and `"a" + x | upper` do what
// they look like. (expr's own pipe needs the parentheses of a call, and takes all that stands before
// it.) The edits tell where text was inserted.
func (l *language) bindFilters(source string) (string, edits, *problem) {
	if !strings.Contains(source, "|") {
		return source, nil, nil
	}
	tokens, err := lexer.Lex(file.NewSource(source))
	if err != nil {
		if _, ok := errors.AsType[*file.Error](err); ok {
			return source, nil, nil // the parser tells it with its place
		}
		return "", nil, &problem{message: firstLine(err.Error())}
	}
	b := binder{tokens: tokens, open: openings(tokens), start: map[int]int{}}
	for i, t := range tokens {
		if !t.Is(lexer.Operator, "|") || i+1 >= len(tokens) || tokens[i+1].Kind != lexer.Identifier {
			continue
		}
		if bad := l.unknownFilter(tokens[i+1], i+2 < len(tokens) && tokens[i+2].Is(lexer.Bracket, "(")); bad != nil {
			return "", nil, bad
		}
		b.bind(i)
	}
	slices.SortStableFunc(b.edits, func(x, y edit) int { return x.at - y.at })
	return b.edits.apply(source), b.edits, nil
}

// apply inserts.
func (list edits) apply(source string) string {
	var b strings.Builder
	runes := []rune(source)
	from := 0
	for _, e := range list {
		b.WriteString(string(runes[from:e.at]))
		b.WriteString(e.text)
		from = e.at
	}
	b.WriteString(string(runes[from:]))
	return b.String()
}

// binder finds the value that a filter belongs to.
type binder struct {
	tokens []lexer.Token
	// open maps the index of a closing bracket to that of its opening one, and the other way.
	open map[int]int
	// start maps the index of a pipe to that of the first token of its value.
	start map[int]int
	edits edits
}

func openings(tokens []lexer.Token) map[int]int {
	pairs := map[int]int{}
	var stack []int
	for i, t := range tokens {
		if t.Kind != lexer.Bracket {
			continue
		}
		if strings.Contains("([{", t.Value) {
			stack = append(stack, i)
		} else if len(stack) > 0 {
			pairs[i], pairs[stack[len(stack)-1]] = stack[len(stack)-1], i
			stack = stack[:len(stack)-1]
		}
	}
	return pairs
}

// bind puts parentheses around a filter and its value, and those of a call after a bare filter.
func (b *binder) bind(pipe int) {
	from, ok := b.valueStart(pipe - 1)
	if !ok {
		return // nothing before it: the parser tells it with its place
	}
	b.start[pipe] = from
	name := pipe + 1
	end, text := b.tokens[name].To, "())"
	if name+1 < len(b.tokens) && b.tokens[name+1].Is(lexer.Bracket, "(") {
		closing, ok := b.open[name+1]
		if !ok {
			return
		}
		end, text = b.tokens[closing].To, ")"
	}
	b.edits = append(b.edits, edit{b.tokens[from].From, "("}, edit{end, text})
}

// valueStart walks back over one value: a name or a literal, with the members, indexes, calls and
// filters that follow it.
func (b *binder) valueStart(last int) (int, bool) {
	for i := last; i >= 0; {
		t := b.tokens[i]
		switch {
		case t.Is(lexer.Bracket, ")", "]", "}"):
			opening, ok := b.open[i]
			if !ok {
				return 0, false
			}
			i = opening
			if t.Value != "}" && b.endsValue(i-1) {
				i-- // a call or an index: the value goes on before it
				continue
			}
			return i, true
		case t.Kind == lexer.Identifier || t.Kind == lexer.Number || t.Kind == lexer.String || t.Kind == lexer.Bytes:
		case t.Is(lexer.Operator, "#"):
			return i, true
		default:
			return 0, false
		}
		if i == 0 {
			return i, true
		}
		switch before := b.tokens[i-1]; {
		case before.Is(lexer.Operator, ".", "?."):
			if !b.endsValue(i - 2) {
				return i - 1, true // .name inside a predicate
			}
			i -= 2
		case before.Is(lexer.Operator, "#", "::"):
			return i - 1, true
		case before.Is(lexer.Operator, "|"):
			start, ok := b.start[i-1]
			return start, ok
		default:
			return i, true
		}
	}
	return 0, false
}

// endsValue says whether the token can be the end of a value.
func (b *binder) endsValue(i int) bool {
	if i < 0 {
		return false
	}
	t := b.tokens[i]
	return t.Kind == lexer.Identifier || t.Kind == lexer.String || t.Is(lexer.Bracket, ")", "]", "}") || t.Is(lexer.Operator, "#")
}

// unknownFilter tells a filter that is not known here, with what to write instead.
func (l *language) unknownFilter(t lexer.Token, called bool) *problem {
	// A bare count is the length elsewhere; here count(predicate) is a loop.
	if l.isFunction(t.Value) && (called || t.Value != "count") {
		return nil
	}
	p := &problem{at: t.From, message: "unknown filter " + t.Value}
	if meant, ok := meantFilters[t.Value]; ok {
		p.hint = "write " + meant
	} else {
		p.hint = didYouMean(t.Value, l.functions)
	}
	return p
}
