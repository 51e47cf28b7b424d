package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// condition reads `when` in all its spellings into one expression; "" is always.
func (d *decoder) condition(o *mapping) string {
	const key = "when"
	e := o.get(key)
	if e == nil {
		return ""
	}
	switch e.kind {
	case scalarValue:
		switch s := e.scalar.(type) {
		case string:
			return trimEnd(s)
		case bool:
			return strconv.FormatBool(s)
		}
		d.mismatch(e, "an expression", "")
		return ""
	case listValue:
		return d.criteria(e)
	case brokenValue:
		return ""
	}
	if len(e.fields) == 0 {
		return ""
	}
	if e.field("expression") != nil {
		c := d.mapping(e.value, e.pointer, expressionKeys)
		expression := c.str("expression")
		d.alias(c.at("expression"), o.at(key))
		c.finish()
		return trimEnd(expression)
	}
	d.mismatch(e, "an expression", criteriaHint(e.value))
	return ""
}

// trimEnd drops the newline of a block, which means nothing. What stands before the first character
// stays, so that places inside the text are right.
func trimEnd(s string) string { return strings.TrimRight(s, " \t\n") }

// criteriaHint writes the first criterion of a mapping, as other systems have it, as an expression.
func criteriaHint(v *value) string {
	first := v.fields[0]
	pattern := "…"
	switch first.value.kind {
	case mappingValue:
		if p := first.value.field("pattern"); p != nil && p.value.kind == scalarValue {
			pattern = literal(p.value.scalar)
		}
	case scalarValue:
		pattern = literal(first.value.scalar)
	}
	field := first.key
	for _, prefix := range []string{"trigger.body.", "trigger.payload.", "trigger.data.", "trigger.", "payload."} {
		if rest, found := strings.CutPrefix(field, prefix); found {
			field = rest
			break
		}
	}
	return fmt.Sprintf("write when: '%s == %s'", payloadPath(field), pattern)
}

// The operators of a list of criteria.
var criteriaOperators = []string{"equals", "not_equals", "contains"}

// criteria translates a list of {field, operator, value}, all of which must hold.
func (d *decoder) criteria(list *entry) string {
	var terms []string
	for i, item := range list.items {
		path := list.path + "." + strconv.Itoa(i)
		if item.kind == brokenValue {
			continue
		}
		if item.kind != mappingValue {
			d.mismatch(&entry{value: item, path: path}, "{field, operator, value}", "")
			continue
		}
		if term := d.criterion(d.mapping(item, list.pointer+"/"+strconv.Itoa(i), criterionKeys), path); term != "" {
			terms = append(terms, term)
		}
	}
	return strings.Join(terms, " and ")
}

func (d *decoder) criterion(o *mapping, path string) string {
	field, operator := o.str("field"), o.str("operator")
	var want any
	e := o.get("value")
	if e != nil {
		want = e.plain()
	}
	o.finish()
	switch {
	case field == "" && !o.has("field"):
		d.fail(o.v.place, "", "cannot use %s: it has no field", path)
		return ""
	case operator == "" && !o.has("operator"):
		d.fail(o.v.place, "add operator: equals", "cannot use %s: it has no operator", path)
		return ""
	case !slices.Contains(criteriaOperators, operator):
		hint := didYouMean(operator, criteriaOperators)
		if hint == "" {
			hint = fmt.Sprintf("write it as an expression, like when: '%s > 5'", payloadPath(field))
		}
		d.fail(o.place("operator"), hint, "cannot use %s.operator: found %s, expected %s",
			path, quoted(operator), orList(criteriaOperators))
		return ""
	}
	at, value := payloadPath(field), literal(want)
	switch operator {
	case "equals":
		return fmt.Sprintf("%s == %s", at, value)
	case "not_equals":
		return fmt.Sprintf("%s != %s", at, value)
	}
	// "contains" is a part of a text and a member of a list alike, and which of the two a field is
	// the event decides.
	inText := "false"
	if _, isText := want.(string); isText {
		inText = fmt.Sprintf("(type(%s) == \"string\" and %s contains %s)", at, at, value)
	}
	return fmt.Sprintf("(type(%s) == \"array\" ? %s in %s : %s)", at, value, at, inText)
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// payloadPath makes a field of the payload, "a.b-c", an expression, `event.payload.a["b-c"]`.
func payloadPath(field string) string {
	var b strings.Builder
	b.WriteString("event.payload")
	for step := range strings.SplitSeq(strings.TrimPrefix(field, "event.payload."), ".") {
		index, err := strconv.Atoi(step)
		switch {
		case identifier.MatchString(step):
			b.WriteString("." + step)
		case err == nil && index >= 0:
			fmt.Fprintf(&b, "[%d]", index)
		default:
			fmt.Fprintf(&b, "[%s]", literal(step))
		}
	}
	return b.String()
}

// literal writes a plain value as the expression language does.
func literal(v any) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = literal(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case map[string]any:
		items := make([]string, 0, len(v))
		for _, key := range sortedKeys(v) {
			items = append(items, literal(key)+": "+literal(v[key]))
		}
		return "{" + strings.Join(items, ", ") + "}"
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return "nil" // scalars always encode
	}
	return strings.TrimSpace(b.String())
}
