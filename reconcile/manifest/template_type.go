package manifest

import (
	"reflect"
	"slices"
	"strings"
)

// wanted lists the types that the schema of the parameter at the pointer allows; none: any.
func (c *parameterCompiler) wanted(pointer string) []string {
	return typesOf(c.schema.at(pointer))
}

// misfit tells that what an expression gives, as far as that is known, can never be what the parameter
// takes.
func (c *parameterCompiler) misfit(e *expression, pointer string) *problem {
	wanted := c.wanted(pointer)
	given := c.given(e)
	if len(wanted) == 0 || len(given) == 0 || c.wantsText(pointer) {
		return nil
	}
	for _, g := range given {
		for _, w := range wanted {
			// A number may be a whole one, and what is null is left out.
			if g == w || g == "null" || (g == "integer" || g == "number") && (w == "integer" || w == "number") {
				return nil
			}
		}
	}
	source := strings.TrimSpace(e.source)
	p := &problem{message: "it gives " + withArticle(given) + ", expected " + withArticle(wanted)}
	if e.whole != nil {
		p.message = e.whole.String() + " is " + withArticle(given) + ", expected " + withArticle(wanted)
		p.at = e.whole.at
	}
	if slices.Contains(given, "string") {
		switch {
		case slices.Contains(wanted, "integer"):
			p.hint = "write {{ int(" + source + ") }}"
		case slices.Contains(wanted, "number"):
			p.hint = "write {{ float(" + source + ") }}"
		case slices.Contains(wanted, "boolean"):
			p.hint = "write {{ " + source + ` == "true" }}`
		case slices.Contains(wanted, "array"):
			p.hint = "write {{ [" + source + "] }}"
		}
	}
	return p
}

func withArticle(types []string) string {
	words := make([]string, 0, len(types))
	for _, t := range types {
		switch t {
		case "null":
			words = append(words, t)
		case "integer", "array", "object":
			words = append(words, "an "+t)
		default:
			words = append(words, "a "+t)
		}
	}
	return orList(words)
}

// given lists the types that an expression can give; none: nobody knows.
func (c *parameterCompiler) given(e *expression) []string {
	if e.whole != nil {
		return c.pathTypes(*e.whole)
	}
	switch e.result {
	case reflect.Bool:
		return []string{"boolean"}
	case reflect.String:
		return []string{"string"}
	case reflect.Int, reflect.Int64, reflect.Float64:
		return []string{"number"}
	case reflect.Slice, reflect.Array:
		return []string{"array"}
	case reflect.Map:
		return []string{"object"}
	}
	return nil
}

// pathTypes lists the types of what a path leads to.
func (c *parameterCompiler) pathTypes(p path) []string {
	switch p.String() {
	case "event.id":
		return []string{"integer"}
	case "event.trigger", "event.time", "trigger", "rule.ref":
		return []string{"string"}
	case "event.payload":
		return []string{"object"}
	}
	if t := c.rule.trigger; t != nil && len(p.steps) > 2 && p.steps[0] == "event" && p.steps[1] == "payload" {
		return typesOf(t.PayloadSchema.at(pointerOf(p.steps[2:])))
	}
	return nil
}
