package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Schema is a JSON Schema 2020-12 for parameters, payloads, results or configuration, made from
// either form that a manifest may use. Beyond JSON Schema its properties know secret, immutable,
// literal, position and x-identity. It marshals to its normal form, in which equal meaning is equal
// bytes, and compiles at first use; it is safe for concurrent use.
//
// A nil *Schema is the schema that says nothing: Validate accepts anything, as payloads and results
// want it, and ValidateParameters nothing but the empty object, as parameters want it.
type Schema struct {
	// raw is the normal form. It is never changed after the schema was made. A schema that was read
	// from JSON keeps that as text until it is first needed: of ten thousand packs hardly any are, and
	// a tree takes ten times the memory.
	raw  func() map[string]any
	text []byte
	// warnings are of the schema as it was written.
	warnings []SchemaError

	once     sync.Once
	compiled *jsonschema.Schema
	broken   error
	secrets  []pattern
	fixed    []pattern // immutable
}

// SchemaError is one violation. Pointer is the JSON pointer into the value; for a missing property it
// points to where that would stand.
type SchemaError struct {
	Pointer string
	Message string // "found \"abc\", expected integer"
}

// Property is one named parameter as people see it, in `action show` and in help.
type Property struct {
	Name string
	// Type is one type, several joined by " or ", or "any".
	Type        string
	Description string
	Required    bool
	Secret      bool
	Default     any
	Enum        []any
	Position    int
}

// NewSchema makes a schema of a plain tree (maps, lists, strings, bools, nil, int64, float64,
// json.Number) in either form: JSON Schema where the top has type as a string or a list of strings,
// $ref, oneOf, anyOf or allOf; else a map from name to schema. open says whether properties that it
// does not list are allowed where it does not say so itself: they are in payloads and results, and
// not in parameters. An empty doc gives nil, the schema that says nothing.
//
// The errors point into doc as it was written, whichever its form.
func NewSchema(doc any, open bool) (*Schema, []SchemaError) {
	s, errs, _ := newSchema(doc, open)
	return s, errs
}

// newSchema gives the warnings of a broken schema too.
func newSchema(doc any, open bool) (_ *Schema, errs, warnings []SchemaError) {
	n := &normalizer{}
	raw := n.document(doc, open)
	if len(n.errs) > 0 {
		sortSchemaErrors(n.errs)
		sortSchemaErrors(n.warnings)
		return nil, n.errs, n.warnings
	}
	if raw == nil {
		return nil, nil, nil
	}
	s := &Schema{raw: func() map[string]any { return raw }, warnings: n.warnings}
	sortSchemaErrors(s.warnings)
	if errs := s.check(n.written); len(errs) > 0 {
		sortSchemaErrors(errs)
		return nil, errs, s.warnings
	}
	return s, nil, s.warnings
}

// Warnings tells the keywords that no schema knows, with pointers into the document that NewSchema
// was given. A schema read from its normal form has none.
func (s *Schema) Warnings() []SchemaError {
	if s == nil {
		return nil
	}
	return s.warnings
}

// MarshalJSON gives the normal form.
func (s *Schema) MarshalJSON() ([]byte, error) {
	if s.text == nil {
		return canonicalJSON(s.raw())
	}
	raw, err := decodeSchema(s.text) // not kept: a list of all actions would make all of them trees
	if err != nil {
		return nil, err
	}
	return canonicalJSON(raw)
}

// UnmarshalJSON reads the normal form.
func (s *Schema) UnmarshalJSON(data []byte) error {
	if !isObjectText(data) || !json.Valid(data) {
		_, err := decodeSchema(data)
		return err
	}
	text := bytes.Clone(data)
	s.text = text
	s.raw = sync.OnceValue(func() map[string]any {
		raw, err := decodeSchema(text)
		if err != nil {
			// Only a number that no float64 holds gets this far, which no normal form has.
			return map[string]any{"not": map[string]any{}}
		}
		return raw
	})
	return nil
}

func isObjectText(data []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) }

func decodeSchema(text []byte) (map[string]any, error) {
	value, err := decodeJSON(text)
	if err != nil {
		return nil, errorf("cannot read schema: %v", err)
	}
	raw, ok := value.(map[string]any)
	if !ok {
		return nil, errorf("cannot read schema: found %s, expected an object", describe(value))
	}
	return raw, nil
}

// Equal says whether two schemas mean the same.
func (s *Schema) Equal(other *Schema) bool {
	if s == nil || other == nil {
		return s == other
	}
	a, errA := s.MarshalJSON()
	b, errB := other.MarshalJSON()
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// schemaURL is the name under which the compiler knows the one document that it is given.
const schemaURL = "attune:///schema"

// newCompiler gives a compiler that reads no file and no network: by default a $ref of a pack would
// open any file of the machine, and the error would show a piece of it.
func (s *Schema) newCompiler() (*jsonschema.Compiler, error) {
	c := jsonschema.NewCompiler()
	c.UseLoader(jsonschema.SchemeURLLoader{})
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	return c, c.AddResource(schemaURL, s.raw())
}

func (s *Schema) compile() (*jsonschema.Schema, error) {
	s.once.Do(func() {
		s.secrets = annotated(s.raw(), "secret", true)
		s.fixed = annotated(s.raw(), "immutable", true)
		c, err := s.newCompiler()
		if err == nil {
			s.compiled, err = c.Compile(schemaURL)
		}
		s.broken = err
	})
	return s.compiled, s.broken
}

// check finds what is wrong with the schema itself. written turns a pointer into the normal form into
// one into the document as written.
func (s *Schema) check(written func(string) string) []SchemaError {
	if _, err := s.compile(); err != nil {
		errs := compileErrors(err, s.raw())
		for i := range errs {
			errs[i].Pointer = written(errs[i].Pointer)
		}
		return errs
	}
	var errs []SchemaError
	c, err := s.newCompiler()
	if err != nil {
		return []SchemaError{{Message: err.Error()}}
	}
	walkSchemas(s.raw(), "", func(node map[string]any, pointer string) {
		value, ok := node["default"]
		if !ok {
			return
		}
		sub, err := c.Compile(schemaURL + "#" + fragment(pointer))
		if err != nil {
			return // a schema that cannot be compiled alone is judged as part of the whole
		}
		// Nothing of a default of a secret is shown: people do put real ones there.
		hide := func(string) bool { return node["secret"] == true }
		for _, e := range violations(sub, value, hide, nil) {
			errs = append(errs, SchemaError{written(pointer+"/default") + e.Pointer, "a default has to fit its own schema: " + e.Message})
		}
	})
	return errs
}

// fragment escapes a JSON pointer for use in a URL.
func fragment(pointer string) string {
	return strings.NewReplacer("%", "%25", "#", "%23", "?", "%3F", " ", "%20", `"`, "%22").Replace(pointer)
}

// compileErrors tells in our words what the compiler refused.
func compileErrors(err error, raw map[string]any) []SchemaError {
	var invalid *jsonschema.SchemaValidationError
	var violation *jsonschema.ValidationError
	if errors.As(err, &invalid) && errors.As(invalid.Err, &violation) {
		return translate(violation, raw, func(string) bool { return false }, nil)
	}
	if regex, ok := errors.AsType[*jsonschema.InvalidRegexError](err); ok {
		_, pointer, _ := strings.Cut(regex.URL, "#")
		return []SchemaError{{pointer, fmt.Sprintf("found %s, expected a regular expression: %v", quoted(regex.Regex), regex.Err)}}
	}
	return []SchemaError{{"", strings.ReplaceAll(err.Error(), schemaURL, "the schema")}}
}

// Validate tells every violation of the value, sorted by pointer. Numbers may be int64, float64 or
// json.Number alike. A null where an optional property does not allow it means that it is absent, a
// default satisfies required, and an immutable property may only have its default. A secret value is
// in no message.
func (s *Schema) Validate(value any) []SchemaError {
	if s == nil {
		return nil
	}
	compiled, err := s.compile()
	if err != nil {
		return []SchemaError{{"", "cannot use the schema: " + err.Error()}}
	}
	var errs []SchemaError
	isPlain, hasNull := lookThrough(value)
	if !isPlain {
		if value, errs = plainNumbers(value, ""); len(errs) > 0 {
			return errs
		}
	}
	if hasNull {
		value = filler{root: s.raw()}.fill(s.raw(), value, 0)
	}
	errs = append(violations(compiled, value, s.IsSecret, s.names), s.immutable(value)...)
	sortSchemaErrors(errs)
	return errs
}

// ValidateParameters is Validate for parameters, which are closed: without a schema there are none.
func (s *Schema) ValidateParameters(params map[string]any) []SchemaError {
	if s != nil {
		if params == nil {
			params = map[string]any{}
		}
		return s.Validate(params)
	}
	errs := make([]SchemaError, 0, len(params))
	for name := range params {
		errs = append(errs, SchemaError{"/" + escapePointer(name), fmt.Sprintf("unknown property %s, expected none", quoted(name))})
	}
	sortSchemaErrors(errs)
	return errs
}

// ValidateUnresolved is ValidateParameters for parameters some of which are still to come: secrets
// maps their JSON pointers to the names of the secrets that will fill them (Values.Secrets). What
// will stand there is not judged, that it may stand there is.
func (s *Schema) ValidateUnresolved(params map[string]any, secrets map[string]string) []SchemaError {
	if len(secrets) == 0 {
		return s.ValidateParameters(params)
	}
	filled := deepCopy(params)
	if params == nil {
		filled = map[string]any{}
	}
	for _, pointer := range sortedKeys(secrets) {
		filled = setPointer(filled, pointer, "")
	}
	object, _ := filled.(map[string]any)
	return slices.DeleteFunc(s.ValidateParameters(object), func(e SchemaError) bool {
		_, secret := secrets[e.Pointer]
		return secret && !strings.HasPrefix(e.Message, unknownProperty)
	})
}

// names lists the properties that the object at the pointer may have, for "did you mean".
func (s *Schema) names(pointer string) []string {
	node := s.at(pointer)
	var names []string
	for name := range object(node["properties"]) {
		names = append(names, name)
	}
	return names
}

// immutable finds the immutable properties that were given another value than their default.
func (s *Schema) immutable(value any) []SchemaError {
	var errs []SchemaError
	_, _ = s.compile()
	for _, p := range s.fixed {
		p.each(value, func(pointer string, found any) {
			want, hasDefault := s.at(pointer)["default"]
			switch {
			case hasDefault && sameJSON(found, want):
			case s.IsSecret(pointer):
				errs = append(errs, SchemaError{pointer, "found " + hiddenValue + ", expected nothing: it is immutable"})
			case hasDefault:
				errs = append(errs, SchemaError{pointer, fmt.Sprintf("found %s, expected %s or nothing: it is immutable", describe(found), describe(want))})
			default:
				errs = append(errs, SchemaError{pointer, fmt.Sprintf("found %s, expected nothing: it is immutable", describe(found))})
			}
		})
	}
	return errs
}

// Properties lists the top level's properties, by position and then by name; those without a
// position come last.
func (s *Schema) Properties() []Property {
	if s == nil {
		return nil
	}
	top := resolve(s.raw(), s.raw())
	required := stringsOf(top["required"])
	list := make([]Property, 0, len(object(top["properties"])))
	for name, node := range object(top["properties"]) {
		p := resolve(s.raw(), object(node))
		description, _ := p["description"].(string)
		if description == "" {
			description, _ = p["title"].(string)
		}
		position, _ := p["position"].(int64)
		enum, _ := p["enum"].([]any)
		list = append(list, Property{
			Name: name, Type: typeText(p), Description: description,
			Required: slices.Contains(required, name), Secret: p["secret"] == true,
			Default: deepCopy(p["default"]), Enum: enum, Position: int(position),
		})
	}
	slices.SortFunc(list, compareProperties)
	return list
}

func compareProperties(a, b Property) int {
	switch {
	case (a.Position == 0) != (b.Position == 0):
		if a.Position == 0 {
			return 1
		}
		return -1
	case a.Position != b.Position:
		return a.Position - b.Position
	default:
		return strings.Compare(a.Name, b.Name)
	}
}

// typeText names the type of a property for people.
func typeText(node map[string]any) string {
	if types := typesOf(node); len(types) > 0 {
		return strings.Join(types, " or ")
	}
	return "any"
}

// Secrets lists the JSON pointers of the properties marked secret, sorted. An element of a list, or a
// property that goes by additionalProperties, is "*".
func (s *Schema) Secrets() []string {
	if s == nil {
		return nil
	}
	_, _ = s.compile()
	list := make([]string, len(s.secrets))
	for i, p := range s.secrets {
		list[i] = p.String()
	}
	slices.Sort(list)
	return list
}

// IsSecret says whether the JSON pointer names a value that is secret, or a part of one.
func (s *Schema) IsSecret(pointer string) bool {
	if s == nil {
		return false
	}
	_, _ = s.compile()
	return matchesAny(s.secrets, pointer)
}

// HoldsSecret says whether a property of the top level is secret, or has something secret inside.
func (s *Schema) HoldsSecret(name string) bool {
	if s == nil {
		return false
	}
	_, _ = s.compile()
	return slices.ContainsFunc(s.secrets, func(p pattern) bool { return len(p) == 0 || p[0] == "*" || p[0] == name })
}

// ReplaceSecrets gives a copy of the parameters in which every value that is secret is what replace
// gives for it. Of a secret inside a secret only the outer one is asked for.
func (s *Schema) ReplaceSecrets(params map[string]any, replace func(pointer string, value any) (any, error)) (map[string]any, error) {
	if s == nil || params == nil {
		return params, nil
	}
	_, _ = s.compile()
	copied, _ := deepCopy(params).(map[string]any)
	var failed error
	// The outer ones are shorter.
	for _, p := range slices.SortedStableFunc(slices.Values(s.secrets), func(a, b pattern) int { return len(a) - len(b) }) {
		p.each(copied, func(pointer string, value any) {
			if failed != nil {
				return
			}
			var replaced any
			if replaced, failed = replace(pointer, value); failed == nil {
				setPointer(copied, pointer, replaced)
			}
		})
	}
	if failed != nil {
		return nil, failed
	}
	return copied, nil
}

// at gives the schema of the value at a pointer; nil where the schema says nothing of it.
func (s *Schema) at(pointer string) map[string]any {
	if s == nil {
		return nil
	}
	node := resolve(s.raw(), s.raw())
	for _, segment := range segments(pointer) {
		if node = resolve(s.raw(), below(node, segment)); node == nil {
			return nil
		}
	}
	return node
}
