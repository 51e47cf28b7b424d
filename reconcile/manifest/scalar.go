package manifest

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// The numbers of YAML 1.2's core schema. 1_000, 0b1, 1:30 and dates are strings in it.
var (
	decimalInteger = regexp.MustCompile(`^[-+]?[0-9]+$`)
	octalInteger   = regexp.MustCompile(`^0o[0-7]+$`)
	hexInteger     = regexp.MustCompile(`^0x[0-9a-fA-F]+$`)
	decimalFloat   = regexp.MustCompile(`^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`)
	specialFloat   = regexp.MustCompile(`^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
)

// scalar resolves a scalar as YAML 1.2 does, not as yaml.v3 does.
func (r *yamlReader) scalar(n *yaml.Node) *value {
	place := Place{File: r.file, Line: n.Line, Col: n.Column}
	v := &value{place: place, text: n.Value}
	const quotedStyles = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	quotes := n.Style&quotedStyles != 0
	switch {
	case n.Style&yaml.TaggedStyle != 0:
		if !r.tagged(n, v) {
			return nil
		}
	case quotes:
		v.scalar = n.Value
	default:
		resolved, problem := resolvePlain(n.Value)
		if problem != "" {
			r.fail(place, "quote it to keep it as a text", "cannot use number %s: %s", cut(n.Value), problem)
			return nil
		}
		v.scalar = resolved
	}
	if s, ok := v.scalar.(string); ok && strings.ContainsRune(s, 0) {
		r.fail(place, `remove the "\0"`, "cannot use this text: it holds a NUL character, which PostgreSQL cannot store")
		return nil
	}
	if _, ok := v.scalar.(string); ok {
		v.begin = r.begin(n)
	}
	return v
}

// begin finds the first character of a text, where the text stands in the file as it is.
func (r *yamlReader) begin(n *yaml.Node) Place {
	if n.Style&yaml.TaggedStyle != 0 || n.Anchor != "" {
		return Place{}
	}
	col := n.Column
	switch {
	case n.Style&yaml.LiteralStyle != 0:
		below := r.shortLine(n.Line + 1)
		first, _, _ := strings.Cut(n.Value, "\n")
		if first == "" || !strings.HasSuffix(below, first) {
			return Place{}
		}
		return Place{File: r.file, Line: n.Line + 1, Col: 1 + utf8.RuneCountInString(strings.TrimSuffix(below, first))}
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		col++
	}
	line := []rune(r.shortLine(n.Line))
	if col < 1 || col > len(line) || !strings.HasPrefix(string(line[col-1:]), n.Value) {
		return Place{}
	}
	return Place{File: r.file, Line: n.Line, Col: col}
}

// tagged resolves a scalar with an explicit tag of the core schema and refuses all others.
func (r *yamlReader) tagged(n *yaml.Node, v *value) bool {
	if n.Tag == "!!str" {
		v.scalar = n.Value
		return true
	}
	resolved, problem := resolvePlain(n.Value)
	ok := false
	switch x := resolved.(type) {
	case nil:
		ok = n.Tag == "!!null" && problem == ""
	case bool:
		ok = n.Tag == "!!bool"
	case int64:
		ok = n.Tag == "!!int" || n.Tag == "!!float"
	case float64:
		ok = n.Tag == "!!float" && !math.IsNaN(x)
	}
	if !ok {
		r.fail(v.place, "remove the tag", "cannot use %s as %s", quoted(n.Value), quoted(n.Tag))
		return false
	}
	v.scalar = resolved
	return true
}

// resolvePlain gives the meaning of an unquoted scalar: nil, a bool, an int64, a float64 or the text
// itself. problem says why a number cannot be used.
func resolvePlain(text string) (resolved any, problem string) {
	switch {
	case text == "", text == "~", text == "null", text == "Null", text == "NULL":
		return nil, ""
	case strings.EqualFold(text, "true"):
		return true, ""
	case strings.EqualFold(text, "false"):
		return false, ""
	case decimalInteger.MatchString(text):
		return integer(strconv.ParseInt(text, 10, 64))
	case octalInteger.MatchString(text):
		return integer(strconv.ParseInt(text[2:], 8, 64))
	case hexInteger.MatchString(text):
		return integer(strconv.ParseInt(text[2:], 16, 64))
	case decimalFloat.MatchString(text):
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, "it is too large"
		}
		return normalNumber(f), ""
	case specialFloat.MatchString(text):
		return nil, "JSON has no such number"
	default:
		return text, ""
	}
}

func integer(i int64, err error) (any, string) {
	if err != nil {
		return nil, "it does not fit into 64 bits"
	}
	return i, ""
}

// normalNumber makes a whole number an int64 where that is exact, so that 1.0 and 1, which JSON
// cannot tell apart, are one value before and after they were stored.
func normalNumber(f float64) any {
	const exact = 1 << 53 // beyond it a float64 skips whole numbers
	if f == math.Trunc(f) && math.Abs(f) < exact {
		return int64(f)
	}
	return f
}

// typeName names the type of a scalar in a message.
func typeName(scalar any) string {
	switch scalar.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case int64, float64:
		return "a number"
	default:
		return "a string"
	}
}

// cut shortens a long text for a message.
func cut(s string) string {
	const longest = 60 // bytes; only numbers come here, so no character is split
	if len(s) > longest {
		return s[:longest] + "…"
	}
	return s
}
