package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

const (
	// hiddenValue stands for a secret value in messages.
	hiddenValue = "a secret value"
	// unknownProperty begins the message about a property that a closed schema does not list.
	unknownProperty = "unknown property"
)

func sortSchemaErrors(errs []SchemaError) {
	slices.SortFunc(errs, func(a, b SchemaError) int {
		return cmp.Or(cmp.Compare(a.Pointer, b.Pointer), cmp.Compare(a.Message, b.Message))
	})
}

// describe shows a value in a message.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return quoted(v)
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	default:
		text, err := compactJSON(v)
		if err != nil {
			return fmt.Sprintf("a %T", v)
		}
		return cut(string(text))
	}
}

// violations validates a value and tells in our words what does not fit. hide says which values, by
// their pointer, may not be shown; names gives the properties that are known at a pointer.
func violations(s *jsonschema.Schema, value any, hide func(string) bool, names func(string) []string) []SchemaError {
	err := s.Validate(value)
	if err == nil {
		return nil
	}
	var violation *jsonschema.ValidationError
	if !errors.As(err, &violation) {
		return []SchemaError{{"", err.Error()}}
	}
	return translate(violation, value, hide, names)
}

// translate flattens a tree of violations of a value into one message for each that can be acted on.
func translate(e *jsonschema.ValidationError, value any, hide func(string) bool, names func(string) []string) []SchemaError {
	t := translator{value: value, hide: hide, names: names}
	errs := t.flatten(e)
	sortSchemaErrors(errs)
	return slices.Compact(errs)
}

type translator struct {
	value any
	hide  func(string) bool
	names func(string) []string
}

func (t translator) flatten(e *jsonschema.ValidationError) []SchemaError {
	switch e.ErrorKind.(type) {
	case *kind.AnyOf:
		return t.alternatives(e)
	case *kind.OneOf:
		if len(e.Causes) > 0 {
			return t.alternatives(e)
		}
	case *kind.PropertyNames, *kind.Contains, *kind.MinContains:
		return t.leaf(e)
	}
	if len(e.Causes) == 0 {
		return t.leaf(e)
	}
	var errs []SchemaError
	for _, cause := range e.Causes {
		errs = append(errs, t.flatten(cause)...)
	}
	return errs
}

// alternatives tells that none of several schemas fits. Where they only differ in their types it names
// these; else it tells what was wrong with the alternative that came nearest, the one with the fewest
// violations.
func (t translator) alternatives(e *jsonschema.ValidationError) []SchemaError {
	pointer := pointerOf(e.InstanceLocation)
	var types []string
	var best []SchemaError
	for _, cause := range e.Causes {
		if k, ok := cause.ErrorKind.(*kind.Type); ok && len(cause.InstanceLocation) == len(e.InstanceLocation) {
			types = append(types, k.Want...)
			continue
		}
		if errs := t.flatten(cause); best == nil || len(errs) < len(best) {
			best = errs
		}
	}
	switch {
	case best != nil:
		return best
	case len(types) > 0:
		slices.Sort(types)
		found := hiddenValue
		if !t.hide(pointer) {
			found = describe(descend(t.value, e.InstanceLocation))
		}
		return []SchemaError{{pointer, fmt.Sprintf("found %s, expected %s", found, orList(slices.Compact(types)))}}
	default:
		return []SchemaError{{pointer, "fits none of the alternatives of its schema"}}
	}
}

// pointerOf makes a JSON pointer of its segments.
func pointerOf(path []string) string {
	return pattern(path).String()
}

// leaf words one violation.
func (t translator) leaf(e *jsonschema.ValidationError) []SchemaError {
	pointer := pointerOf(e.InstanceLocation)
	one := func(format string, args ...any) []SchemaError {
		return []SchemaError{{pointer, fmt.Sprintf(format, args...)}}
	}
	hidden := t.hide(pointer)
	show := func(v any) string {
		if hidden {
			return hiddenValue
		}
		return describe(v)
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		return one("found %s, expected %s", show(descend(t.value, e.InstanceLocation)), orList(k.Want))
	case *kind.Required:
		return t.missing(pointer, k.Missing)
	case *kind.DependentRequired:
		return t.missing(pointer, k.Missing)
	case *kind.Dependency:
		return t.missing(pointer, k.Missing)
	case *kind.AdditionalProperties:
		return t.unknown(pointer, k.Properties)
	case *kind.FalseSchema:
		if i := strings.LastIndexByte(pointer, '/'); i >= 0 && i+1 < len(pointer) {
			last := e.InstanceLocation[len(e.InstanceLocation)-1]
			if t.names == nil || !slices.Contains(t.names(pointer[:i]), last) {
				return t.unknown(pointer[:i], []string{last})
			}
		}
		return one("found a value where none is allowed")
	case *kind.Enum:
		return one("found %s, expected %s%s", show(k.Got), t.anyOf(hidden, k.Want), nearEnum(hidden, k.Got, k.Want))
	case *kind.Const:
		return one("found %s, expected %s", show(k.Got), t.anyOf(hidden, []any{k.Want}))
	case *kind.Format:
		return one("found %s, expected format %s", show(k.Got), k.Want)
	case *kind.Pattern:
		return one("found %s, expected a text that matches %s", show(k.Got), k.Want)
	case *kind.PropertyNames:
		// The library gives this violation a path that later ones overwrite, so it is found anew.
		pointer = holderOf(t.value, k.Property, "")
		return one("found property %s, expected a name that its schema allows", quoted(k.Property))
	default:
		return one("%s", bounds(hidden, e.ErrorKind))
	}
}

// descend gives the part of a value that a path names; nil where there is none.
func descend(value any, path []string) any {
	for _, segment := range path {
		switch v := value.(type) {
		case map[string]any:
			value = v[segment]
		case []any:
			i, err := strconv.Atoi(segment)
			if err != nil || i < 0 || i >= len(v) {
				return nil
			}
			value = v[i]
		default:
			return nil
		}
	}
	return value
}

// holderOf finds the object, the first in the order of pointers, that has a property.
func holderOf(value any, property, pointer string) string {
	switch v := value.(type) {
	case map[string]any:
		if _, ok := v[property]; ok {
			return pointer
		}
		for _, key := range sortedKeys(v) {
			if found := holderOf(v[key], property, pointer+"/"+escapePointer(key)); found != "" {
				return found
			}
		}
	case []any:
		for i, item := range v {
			if found := holderOf(item, property, pointer+"/"+strconv.Itoa(i)); found != "" {
				return found
			}
		}
	}
	return ""
}

func (t translator) missing(pointer string, names []string) []SchemaError {
	errs := make([]SchemaError, len(names))
	for i, name := range names {
		errs[i] = SchemaError{pointer + "/" + escapePointer(name), "missing required property " + quoted(name)}
	}
	return errs
}

func (t translator) unknown(pointer string, found []string) []SchemaError {
	errs := make([]SchemaError, len(found))
	for i, name := range found {
		var known []string
		if t.names != nil {
			known = t.names(pointer)
		}
		errs[i] = SchemaError{pointer + "/" + escapePointer(name), unknownMessage(name, known)}
	}
	return errs
}

// unknownMessage tells a property that a closed schema does not list, and which it does.
func unknownMessage(name string, known []string) string {
	message := unknownProperty + " " + quoted(name)
	if hint := didYouMean(name, known); hint != "" {
		message += "; " + hint
	} else if len(known) > 0 && len(known) <= maxListed {
		slices.Sort(known)
		message += ", expected " + orList(known)
	}
	return message
}

// maxListed is how many words a message lists before it becomes unreadable.
const maxListed = 12

// nearEnum is the hint for a text that is almost one of the values.
func nearEnum(hidden bool, got any, want []any) string {
	text, ok := got.(string)
	if !ok || hidden {
		return ""
	}
	hint := didYouMean(text, stringsOf(want))
	if hint == "" {
		return ""
	}
	return "; " + hint
}

// anyOf lists the values that would do.
func (t translator) anyOf(hidden bool, want []any) string {
	switch {
	case hidden:
		return "one of the values that its schema lists"
	case len(want) > maxListed:
		return fmt.Sprintf("one of %d values", len(want))
	}
	texts := make([]string, len(want))
	for i, v := range want {
		texts[i] = describe(v)
	}
	return orList(texts)
}

// bounds words the violations of a number, a length or a count.
func bounds(hidden bool, k jsonschema.ErrorKind) string {
	number := func(r *big.Rat) string {
		if hidden {
			return hiddenValue
		}
		return rational(r)
	}
	count := func(n int, unit string) string {
		if hidden {
			return hiddenValue
		}
		if n == 1 {
			unit = strings.TrimSuffix(unit, "s")
		}
		return fmt.Sprintf("%d %s", n, unit)
	}
	switch k := k.(type) {
	case *kind.Minimum:
		return fmt.Sprintf("found %s, expected at least %s", number(k.Got), rational(k.Want))
	case *kind.Maximum:
		return fmt.Sprintf("found %s, expected at most %s", number(k.Got), rational(k.Want))
	case *kind.ExclusiveMinimum:
		return fmt.Sprintf("found %s, expected more than %s", number(k.Got), rational(k.Want))
	case *kind.ExclusiveMaximum:
		return fmt.Sprintf("found %s, expected less than %s", number(k.Got), rational(k.Want))
	case *kind.MultipleOf:
		return fmt.Sprintf("found %s, expected a multiple of %s", number(k.Got), rational(k.Want))
	case *kind.MinLength:
		return fmt.Sprintf("found %s, expected at least %d", count(k.Got, "characters"), k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("found %s, expected at most %d", count(k.Got, "characters"), k.Want)
	case *kind.MinItems:
		return fmt.Sprintf("found %s, expected at least %d", count(k.Got, "elements"), k.Want)
	case *kind.MaxItems:
		return fmt.Sprintf("found %s, expected at most %d", count(k.Got, "elements"), k.Want)
	case *kind.MinProperties:
		return fmt.Sprintf("found %s, expected at least %d", count(k.Got, "properties"), k.Want)
	case *kind.MaxProperties:
		return fmt.Sprintf("found %s, expected at most %d", count(k.Got, "properties"), k.Want)
	case *kind.AdditionalItems:
		return fmt.Sprintf("found %s too many", count(k.Count, "elements"))
	case *kind.UniqueItems:
		return fmt.Sprintf("found elements %d and %d equal, expected all to differ", k.Duplicates[0], k.Duplicates[1])
	case *kind.Contains, *kind.MinContains, *kind.MaxContains:
		return "found an array without the elements that its schema wants it to contain"
	case *kind.OneOf:
		return "fits more than one of the alternatives of its schema, expected exactly one"
	case *kind.Not:
		return "fits what its schema excludes"
	case *kind.RefCycle:
		return "its schema refers to itself without end"
	default:
		return "does not fit its schema"
	}
}

// rational prints a number of a schema as people write it.
func rational(r *big.Rat) string {
	if r == nil {
		return "a number"
	}
	if r.IsInt() {
		return r.Num().String()
	}
	f, _ := r.Float64()
	return describe(f)
}
