package manifest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree reads JSON as a plain tree.
func tree(t testing.TB, text string) any {
	t.Helper()
	v, err := decodeJSON([]byte(text))
	if err != nil {
		t.Fatalf("cannot read %s: %v", text, err)
	}
	return v
}

func params(t testing.TB, text string) map[string]any {
	t.Helper()
	return tree(t, text).(map[string]any)
}

// schemaOf makes the schema of parameters.
func schemaOf(t testing.TB, text string, open bool) *Schema {
	t.Helper()
	s, errs := NewSchema(tree(t, text), open)
	if len(errs) > 0 {
		t.Fatalf("cannot make schema %s: %v", text, errs)
	}
	return s
}

// lines shows schema errors as "pointer: message".
func lines(errs []SchemaError) []string {
	var list []string
	for _, e := range errs {
		list = append(list, e.Pointer+": "+e.Message)
	}
	return list
}

func TestSchemaNormalForm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		docs []string
		open bool
		want string
	}{
		{name: "both forms", docs: []string{
			`{"a":{"type":"string","required":true},"b":{}}`,
			`{"type":"object","properties":{"a":{"type":"string"},"b":null},"required":["a"]}`,
			`{"type":["object"],"required":["a","a"],"properties":{"a":{"type":["string"],"required":true},"b":{"secret":false}},"additionalProperties":false}`,
			`{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","properties":{"a":{"type":"string"},"b":true},"required":["a"]}`,
		}, want: `{"additionalProperties":false,"properties":{"a":{"type":"string"},"b":{}},"required":["a"],"type":"object"}`},
		{
			name: "a parameter called type", docs: []string{`{"type":{"type":"string","required":true}}`},
			want: `{"additionalProperties":false,"properties":{"type":{"type":"string"}},"required":["type"],"type":"object"}`,
		},
		{name: "a default satisfies required", docs: []string{
			`{"a":{"default":1,"required":true}}`,
			`{"type":"object","properties":{"a":{"default":1.0}},"required":["a"]}`,
		}, want: `{"additionalProperties":false,"properties":{"a":{"default":1}},"type":"object"}`},
		{
			name: "required at depth", docs: []string{`{"auth":{"type":"object","properties":{"user":{"required":true}}},"list":{"items":{"properties":{"x":{"required":true}}}}}`},
			want: `{"additionalProperties":false,"properties":{"auth":{"properties":{"user":{}},"required":["user"],"type":"object"},"list":{"items":{"properties":{"x":{}},"required":["x"]}}},"type":"object"}`,
		},
		{name: "said to be open", docs: []string{
			`{"type":"object","properties":{"a":{}},"additionalProperties":true}`,
			`{"a":{},"additionalProperties":true}`,
		}, want: `{"properties":{"a":{}},"type":"object"}`},
		{name: "open", open: true, docs: []string{`{"a":{}}`, `{"a":null}`}, want: `{"properties":{"a":{}},"type":"object"}`},
		{
			name: "branches", docs: []string{`{"allOf":[{"properties":{"a":{}}}]}`},
			want: `{"allOf":[{"properties":{"a":{}}}],"unevaluatedProperties":false}`,
		},
		{
			name: "annotations", docs: []string{`{"a":{"secret":true,"immutable":true,"literal":true,"position":1.0,"x-identity":false,"x-ui":{"w":2},"type":["string","null"]}}`},
			want: `{"additionalProperties":false,"properties":{"a":{"immutable":true,"literal":true,"position":1,"secret":true,"type":["null","string"],"x-identity":false,"x-ui":{"w":2}}},"type":"object"}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, doc := range c.docs {
				s := schemaOf(t, doc, c.open)
				got, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, string(got)); diff != "" {
					t.Errorf("%s (-want +got)\n%s", doc, diff)
				}
				back := new(Schema)
				if err := json.Unmarshal(got, back); err != nil {
					t.Fatal(err)
				}
				if !back.Equal(s) {
					t.Errorf("%s does not survive a round trip", doc)
				}
			}
		})
	}
}

func TestSchemaOfNothing(t *testing.T) {
	t.Parallel()
	for _, doc := range []any{nil, map[string]any{}} {
		s, errs := NewSchema(doc, false)
		if s != nil || errs != nil {
			t.Errorf("NewSchema(%v) gave %v, %v", doc, s, errs)
		}
	}
	var none *Schema
	if errs := none.Validate([]any{1}); errs != nil {
		t.Errorf("no schema refused a payload: %v", errs)
	}
	if errs := none.ValidateParameters(nil); len(errs) != 0 {
		t.Errorf("no schema refused no parameters: %v", errs)
	}
	want := []string{`/a: unknown property "a", expected none`}
	if diff := cmp.Diff(want, lines(none.ValidateParameters(map[string]any{"a": 1}))); diff != "" {
		t.Error(diff)
	}
	if none.Properties() != nil || none.Secrets() != nil || none.IsSecret("/a") || none.Warnings() != nil {
		t.Error("no schema has properties")
	}
	if got := none.ApplyDefaults(nil); got == nil || len(got) != 0 {
		t.Errorf("found %v, expected an empty object", got)
	}
	if _, err := none.Coerce("a", "1"); err == nil {
		t.Error("no schema took a parameter")
	}
}

func TestBrokenSchema(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		doc, want string
		open      bool
	}{
		{doc: `{"n":{"type":"strng"}}`, want: `/n/type: found "strng", expected a type; did you mean "string"?`},
		{doc: `{"type":"object","properties":{"n":{"type":"int"}}}`, want: `/properties/n/type: found "int", expected a type; did you mean "integer"?`},
		{doc: `{"n":{"type":["string","nul"]}}`, want: `/n/type/1: found "nul", expected a type; did you mean "null"?`},
		{doc: `{"n":{"type":"any"}}`, want: `/n/type: found "any", expected a type; leave type out to allow any`},
		{doc: `{"n":{"type":"zzzzzz"}}`, want: `/n/type: found "zzzzzz", expected a type: array, boolean, integer, null, number, object or string`},
		{doc: `{"n":"string"}`, want: `/n: found "string", expected a schema; write {type: string}`},
		{doc: `{"n":5}`, want: `/n: found 5, expected a schema`},
		{doc: `[1]`, want: `: found an array, expected a map of names to schemas, or a JSON Schema`},
		{doc: `{"n":{"minimum":"a"}}`, want: `/n/minimum: found "a", expected a number`},
		{doc: `{"n":{"required":"yes"}}`, want: `/n/required: found "yes", expected true, false or a list of names`},
		{doc: `{"n":{"secret":"yes"}}`, want: `/n/secret: found "yes", expected true or false`},
		{doc: `{"n":{"position":-1}}`, want: `/n/position: found -1, expected a whole number from 0`},
		{doc: `{"n":{"enum":"a"}}`, want: `/n/enum: found "a", expected a list`},
		{doc: `{"n":{"pattern":"(?=a)"}}`, want: "/n/pattern: found \"(?=a)\", expected a regular expression (RE2, without lookahead): invalid or unsupported Perl syntax: `(?=`"},
		{doc: `{"n":{"default":"abc","type":"integer"}}`, want: `/n/default: a default has to fit its own schema: found "abc", expected integer`},
		{doc: `{"n":{"default":"hunter22","type":"integer","secret":true}}`, want: `/n/default: a default has to fit its own schema: found a secret value, expected integer`},
		{doc: `{"n":{"$ref":"file:///etc/passwd"}}`, want: `/n/$ref: found "file:///etc/passwd", expected a reference inside this schema, like "#/$defs/name"`},
		{doc: `{"n":{"$ref":"#/$defs/x"}}`, want: `/n/$ref: found "#/$defs/x", expected a reference to something that is there`},
		{doc: `{"type":"string"}`, want: `/type: found "string", expected object; a parameter named "type" is written "type: {type: string}"`},
		{doc: `{"properties":{"a":{}},"required":["a"]}`, want: `: found "properties" without "type", expected a JSON Schema or a map of names to schemas; add "type: object"`},
		{doc: `{"type":"object","properties":[]}`, want: `/properties: found an array, expected a map of names to schemas`},
		{doc: `{"allOf":{"a":1},"type":"object"}`, want: `/allOf: found an object, expected a list of schemas`},
	} {
		s, errs := NewSchema(tree(t, c.doc), c.open)
		if diff := cmp.Diff([]string{c.want}, lines(errs)); diff != "" || s != nil {
			t.Errorf("%s (-want +got)\n%s", c.doc, diff)
		}
	}
}

func TestSchemaReadsNoFile(t *testing.T) {
	t.Parallel()
	// The normal form comes from the database; even if somebody put a reference there, no file is read.
	for _, ref := range []string{"file:///etc/hostname", "http://127.0.0.1:1/x", "/etc/hostname", "other.json"} {
		s := new(Schema)
		if err := json.Unmarshal([]byte(`{"$ref":"`+ref+`"}`), s); err != nil {
			t.Fatal(err)
		}
		errs := s.Validate("x")
		if len(errs) != 1 || !strings.Contains(errs[0].Message, "no URLLoader registered") {
			t.Errorf("%s: found %v, expected a refusal", ref, errs)
		}
	}
}

func TestSchemaWarnings(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"n":{"type":"string","defualt":"a","x-mine":1},"m":{"frobnicate":true}}`, false)
	want := []string{
		`/m/frobnicate: unknown keyword "frobnicate" in a schema`,
		`/n/defualt: unknown keyword "defualt" in a schema; did you mean "default"?`,
	}
	if diff := cmp.Diff(want, lines(s.Warnings())); diff != "" {
		t.Error(diff)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	const schema = `{
		"message":{"type":"string","required":true,"minLength":1},
		"count":{"type":"integer","minimum":0,"maximum":10},
		"ratio":{"type":"number"},
		"flag":{"type":"boolean"},
		"level":{"enum":["info","error"]},
		"url":{"type":"string","format":"uri"},
		"code":{"type":"string","pattern":"^[a-z]+$"},
		"many":{"type":"array","items":{"type":"integer"},"maxItems":2,"uniqueItems":true},
		"auth":{"type":"object","properties":{"user":{"required":true},"token":{"type":"string","secret":true,"minLength":5}}},
		"either":{"anyOf":[{"type":"string"},{"type":"integer"}]},
		"maybe":{"type":["string","null"]},
		"pin":{"type":"integer","secret":true,"enum":[1234]},
		"fixed":{"type":"string","immutable":true,"default":"x"},
		"frozen":{"immutable":true},
		"lots":{"enum":[1,2,3,4,5,6,7,8,9,10,11,12,13]},
		"range":{"type":"number","exclusiveMinimum":0.5,"exclusiveMaximum":9,"multipleOf":0.5},
		"some":{"type":"array","minItems":2,"contains":{"const":1}},
		"map":{"type":"object","minProperties":1,"maxProperties":2,"propertyNames":{"pattern":"^[a-z]$"}},
		"short":{"type":"string","maxLength":2},
		"not":{"not":{"const":1}},
		"one":{"oneOf":[{"type":"integer"},{"minimum":5}]},
		"best":{"anyOf":[{"type":"object","required":["a","b"]},{"type":"object","required":["c"]}]},
		"never":false,
		"dep":{"type":"object","dependentRequired":{"a":["b"]}},
		"loop":{"$ref":"#/properties/count"},
		"any":{}}`
	s := schemaOf(t, schema, false)
	for _, c := range []struct {
		value string
		want  []string
	}{
		{value: `{"message":"a","count":10,"ratio":1.5,"flag":true,"level":"info","url":"http://x/","many":[1,2],"either":1,"any":{"x":[]}}`},
		{value: `{"message":"a","count":2.0}`},
		{value: `{"message":"a","count":null,"level":null,"maybe":null,"any":null}`},
		{value: `{"message":"a","fixed":"x"}`},
		{value: `{}`, want: []string{`/message: missing required property "message"`}},
		{value: `{"message":null}`, want: []string{`/message: found null, expected string`}},
		{value: `{"message":"a","count":"abc"}`, want: []string{`/count: found "abc", expected integer`}},
		{value: `{"message":"a","count":1.5}`, want: []string{`/count: found 1.5, expected integer`}},
		{value: `{"message":5,"count":11}`, want: []string{`/count: found 11, expected at most 10`, `/message: found 5, expected string`}},
		{value: `{"message":""}`, want: []string{`/message: found 0 characters, expected at least 1`}},
		{value: `{"message":"a","mesage":1,"zzz":2}`, want: []string{`/mesage: unknown property "mesage"; did you mean "message"?`, `/zzz: unknown property "zzz"`}},
		{value: `{"message":"a","level":"warn"}`, want: []string{`/level: found "warn", expected "info" or "error"`}},
		{value: `{"message":"a","url":"http://[x"}`, want: []string{`/url: found "http://[x", expected format uri`}},
		{value: `{"message":"a","code":"A1"}`, want: []string{`/code: found "A1", expected a text that matches ^[a-z]+$`}},
		{value: `{"message":"a","many":[1,"x",3]}`, want: []string{`/many: found 3 elements, expected at most 2`, `/many/1: found "x", expected integer`}},
		{value: `{"message":"a","many":[1,1.0]}`, want: []string{`/many: found elements 0 and 1 equal, expected all to differ`}},
		{value: `{"message":"a","auth":{}}`, want: []string{`/auth/user: missing required property "user"`}},
		{value: `{"message":"a","auth":{"user":1,"token":"s3c"}}`, want: []string{`/auth/token: found a secret value, expected at least 5`}},
		{value: `{"message":"a","auth":{"user":1,"token":314159}}`, want: []string{`/auth/token: found a secret value, expected string`}},
		{value: `{"message":"a","pin":9999}`, want: []string{`/pin: found a secret value, expected one of the values that its schema lists`}},
		{value: `{"message":"a","either":true}`, want: []string{`/either: found true, expected integer or string`}},
		{value: `{"message":"a","fixed":"y","frozen":1}`, want: []string{`/fixed: found "y", expected "x" or nothing: it is immutable`, `/frozen: found 1, expected nothing: it is immutable`}},
		{value: `{"message":"a","lots":14}`, want: []string{`/lots: found 14, expected one of 13 values`}},
		{value: `{"message":"a","range":0.5}`, want: []string{`/range: found 0.5, expected more than 0.5`}},
		{value: `{"message":"a","range":9.25}`, want: []string{`/range: found 9.25, expected a multiple of 0.5`, `/range: found 9.25, expected less than 9`}},
		{value: `{"message":"a","some":[2]}`, want: []string{`/some: found 1 element, expected at least 2`, `/some: found an array without the elements that its schema wants it to contain`}},
		{value: `{"message":"a","map":{}}`, want: []string{`/map: found 0 properties, expected at least 1`}},
		{value: `{"message":"a","map":{"a":1,"b":2,"C":3}}`, want: []string{`/map: found 3 properties, expected at most 2`, `/map: found property "C", expected a name that its schema allows`}},
		{value: `{"message":"a","short":"abc"}`, want: []string{`/short: found 3 characters, expected at most 2`}},
		{value: `{"message":"a","not":1}`, want: []string{`/not: fits what its schema excludes`}},
		{value: `{"message":"a","one":6}`, want: []string{`/one: fits more than one of the alternatives of its schema, expected exactly one`}},
		{value: `{"message":"a","best":{}}`, want: []string{`/best/c: missing required property "c"`}},
		{value: `{"message":"a","never":1}`, want: []string{`/never: found a value where none is allowed`}},
		{value: `{"message":"a","dep":{"a":1}}`, want: []string{`/dep/b: missing required property "b"`}},
		{value: `{"message":"a","loop":-1}`, want: []string{`/loop: found -1, expected at least 0`}},
		{value: `[]`, want: []string{`: found an array, expected object`}},
	} {
		if diff := cmp.Diff(c.want, lines(s.Validate(tree(t, c.value)))); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.value, diff)
		}
	}
}

func TestValidateNumbersAlike(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"n":{"type":"integer","enum":[21]}}`, false)
	for _, n := range []any{int64(21), 21, 21.0, json.Number("21"), json.Number("21.0"), json.Number("2.1e1")} {
		if errs := s.Validate(map[string]any{"n": n}); len(errs) > 0 {
			t.Errorf("%T %v: %v", n, n, errs)
		}
	}
	for _, n := range []any{int64(22), 21.5, json.Number("21.5"), json.Number("1e999999999")} {
		if errs := s.Validate(map[string]any{"n": n}); len(errs) != 1 {
			t.Errorf("%T %v: found %v, expected one violation", n, n, errs)
		}
	}
}

func TestValidateBranchesOfClosedParameters(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"oneOf":[{"properties":{"a":{"type":"string"}},"required":["a"]},{"properties":{"b":{"type":"string"}},"required":["b"]}]}`, false)
	if errs := s.Validate(map[string]any{"a": "x"}); len(errs) > 0 {
		t.Error(errs)
	}
	want := []string{`/c: unknown property "c"`}
	if diff := cmp.Diff(want, lines(s.Validate(map[string]any{"a": "x", "c": "y"}))); diff != "" {
		t.Error(diff)
	}
}

func TestValidateUnresolved(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"url":{"type":"string","required":true},"token":{"type":"string","format":"uuid","required":true},"auth":{"type":"object","properties":{"p":{"required":true,"minLength":9,"type":"string"}}}}`, false)
	got := s.ValidateUnresolved(map[string]any{"url": "u"}, map[string]string{"/token": "t", "/auth/p": "p"})
	if len(got) > 0 {
		t.Error(lines(got))
	}
	got = s.ValidateUnresolved(nil, map[string]string{"/token": "t", "/tokn": "p"})
	want := []string{`/tokn: unknown property "tokn"; did you mean "token"?`, `/url: missing required property "url"`}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Error(diff)
	}
}

func TestApplyDefaults(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"type":"object","properties":{
		"a":{"default":1},
		"o":{"type":"object","properties":{"x":{"default":"d"},"y":{"type":"string"}}},
		"l":{"type":"array","items":{"properties":{"z":{"default":[1]}}}},
		"d":{"default":{},"properties":{"deep":{"default":true}}},
		"n":{"type":["string","null"],"default":"n"},
		"r":{"$ref":"#/$defs/r"},
		"any":{}},
		"$defs":{"r":{"default":{"next":{}},"properties":{"next":{"$ref":"#/$defs/r"}}}}}`, false)
	given := params(t, `{"a":null,"o":{"y":null},"l":[{},{"z":null},5],"n":null,"r":{},"any":null}`)
	before := deepCopy(given)
	got := s.ApplyDefaults(given)
	delete(got, "r") // it refers to itself; that it ends is what counts
	want := params(t, `{"a":1,"d":{"deep":true},"l":[{"z":[1]},{"z":[1]},5],"n":null,"o":{"x":"d"}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff(before, any(given)); diff != "" {
		t.Errorf("the parameters given were changed\n%s", diff)
	}
	got["l"].([]any)[0].(map[string]any)["z"].([]any)[0] = "changed"
	if diff := cmp.Diff(want, withoutKey(s.ApplyDefaults(given), "r")); diff != "" {
		t.Errorf("a default was changed through its use\n%s", diff)
	}
}

func withoutKey(m map[string]any, key string) map[string]any {
	delete(m, key)
	return m
}

func TestCoerce(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"s":{"type":"string"},"i":{"type":"integer"},"n":{"type":"number"},"b":{"type":"boolean"},
		"o":{"type":"object"},"l":{"type":"array"},"sn":{"type":["string","null"]},"is":{"type":["string","integer"]},
		"any":{},"e":{"enum":["1","two"]},"x":{"anyOf":[{"type":"integer"},{"type":"boolean"}]},"p":{"type":"integer","secret":true}}`, false)
	for _, c := range []struct {
		property, text string
		want           any
		err            string
	}{
		{property: "s", text: "21", want: "21"},
		{property: "s", text: `"q"`, want: `"q"`},
		{property: "s", text: "", want: ""},
		{property: "i", text: "21", want: int64(21)},
		{property: "i", text: "-0021", want: int64(-21)},
		{property: "i", text: "21.0", want: int64(21)},
		{property: "i", text: "abc", err: `/i: found "abc", expected integer`},
		{property: "i", text: "1.5", err: `/i: found "1.5", expected integer`},
		{property: "n", text: "1.5", want: 1.5},
		{property: "n", text: "1e3", want: int64(1000)},
		{property: "n", text: "NaN", err: `/n: found "NaN", expected number`},
		{property: "i", text: "9007199254740993", want: int64(9007199254740993)},
		{property: "i", text: "123456789012345678901234567890", want: json.Number("123456789012345678901234567890")},
		{property: "n", text: "0.1", want: 0.1},
		{property: "n", text: "3.14159265358979323846", want: json.Number("3.14159265358979323846")},
		{property: "n", text: "1e999999999", err: `/n: found "1e999999999", expected number`},
		{property: "l", text: "[12345678901234567890, 1]", want: []any{json.Number("12345678901234567890"), int64(1)}},
		{property: "o", text: `{"n": 12345678901234567890}`, want: map[string]any{"n": json.Number("12345678901234567890")}},
		{property: "b", text: "true", want: true},
		{property: "b", text: "False", want: false},
		{property: "b", text: "yes", err: `/b: found "yes", expected boolean; write true or false`},
		{property: "o", text: `{"a":[1]}`, want: map[string]any{"a": []any{int64(1)}}},
		{property: "o", text: `a=1`, err: `/o: found "a=1", expected object; write it as JSON: '{"key":"value"}'`},
		{property: "l", text: `[1,"a"]`, want: []any{int64(1), "a"}},
		{property: "l", text: `a,b`, err: `/l: found "a,b", expected array; write it as JSON: '["a","b"]'`},
		{property: "sn", text: "null", want: nil},
		{property: "sn", text: "nil", want: "nil"},
		{property: "is", text: "5", want: int64(5)},
		{property: "is", text: "5a", want: "5a"},
		{property: "any", text: "5", want: int64(5)},
		{property: "any", text: "1.5", want: 1.5},
		{property: "any", text: "true", want: true},
		{property: "any", text: "null", want: nil},
		{property: "any", text: `{"a":1}`, want: map[string]any{"a": int64(1)}},
		{property: "any", text: `{"a":1`, want: `{"a":1`},
		{property: "any", text: "hello", want: "hello"},
		{property: "any", text: "007", want: "007"},
		{property: "any", text: "12345678901234567890", want: "12345678901234567890"},
		{property: "any", text: `"q"`, want: `"q"`},
		{property: "e", text: "1", want: "1"},
		{property: "e", text: "2", want: int64(2)},
		{property: "x", text: "true", want: true},
		{property: "x", text: "7", want: int64(7)},
		{property: "p", text: "hunter22", err: `/p: found a secret value, expected integer`},
		{property: "sx", text: "1", err: `/sx: unknown property "sx", expected any, b, e, i, is, l, n, o, p, s, sn or x`},
		{property: "any1", text: "1", err: `/any1: unknown property "any1"; did you mean "any"?`},
	} {
		got, err := s.Coerce(c.property, c.text)
		message := ""
		if err != nil {
			message = err.Pointer + ": " + err.Message
		}
		if diff := cmp.Diff(c.err, message); diff != "" {
			t.Errorf("%s=%s (-want +got)\n%s", c.property, c.text, diff)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s=%s (-want +got)\n%s", c.property, c.text, diff)
		}
	}
	open := schemaOf(t, `{"a":{"type":"string"}}`, true)
	if got, err := open.Coerce("b", "1"); err != nil || got != int64(1) {
		t.Errorf("found %v, %v, expected the number 1", got, err)
	}
}

func TestProperties(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"zeta":{"position":1,"type":"string","required":true,"description":"first"},"beta":{"type":["integer","null"],"default":1},
		"alpha":{"secret":true},"gamma":{"position":2,"enum":["a"]}}`, false)
	want := []Property{
		{Name: "zeta", Type: "string", Description: "first", Required: true, Position: 1},
		{Name: "gamma", Type: "any", Enum: []any{"a"}, Position: 2},
		{Name: "alpha", Type: "any", Secret: true},
		{Name: "beta", Type: "integer or null", Default: int64(1)},
	}
	if diff := cmp.Diff(want, s.Properties()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	s := schemaOf(t, `{"type":"object","properties":{"token":{"secret":true,"properties":{"x":{"secret":true}}},"auth":{"properties":{"a/b":{"secret":true}}},
		"keys":{"items":{"secret":true}},"map":{"additionalProperties":{"secret":true}},"one":{"oneOf":[{"secret":true},{}]},"tree":{"$ref":"#/$defs/t"},"plain":{}},
		"$defs":{"t":{"properties":{"s":{"secret":true},"t":{"$ref":"#/$defs/t"}}}}}`, false)
	want := []string{"/auth/a~1b", "/keys/*", "/map/*", "/one", "/token", "/tree/s"}
	if diff := cmp.Diff(want, s.Secrets()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for pointer, want := range map[string]bool{"/token": true, "/token/x": true, "/auth": false, "/auth/a~1b": true, "/keys/3": true, "/map/any": true, "/plain": false, "": false} {
		if got := s.IsSecret(pointer); got != want {
			t.Errorf("%s: found %t, expected %t", pointer, got, want)
		}
	}
}

func TestInstance(t *testing.T) {
	t.Parallel()
	trigger := &Trigger{Header: Header{Ref: "core.intervaltimer"}, ParametersSchema: schemaOf(t,
		`{"unit":{"type":"string","default":"seconds"},"interval":{"type":"number","required":true},"text":{},"jitter":{"x-identity":false},"more":{"properties":{"note":{"x-identity":false},"n":{}}}}`, false)}
	same := []string{
		`{"interval":1}`, `{"interval":1.0}`, `{"interval":1e0,"unit":"seconds"}`,
		`{"interval":1,"jitter":5}`, `{"interval":1,"text":null}`, `{"interval":1,"unit":null}`,
	}
	id, canonical := trigger.Instance("a.r", params(t, same[0]))
	// The id names rows of the database: a change of this text orphans every timer there is.
	if want := "core.intervaltimer#cd8e1e9fa5074a5b"; id != want {
		t.Errorf("found %s, expected %s", id, want)
	}
	if diff := cmp.Diff(params(t, `{"interval":1,"unit":"seconds"}`), canonical); diff != "" {
		t.Error(diff)
	}
	for _, p := range same[1:] {
		if other, _ := trigger.Instance("a.r", params(t, p)); other != id {
			t.Errorf("%s: found %s, expected %s", p, other, id)
		}
	}
	for _, p := range []string{`{"interval":2}`, `{"interval":1,"unit":"hours"}`, `{"interval":1,"text":"<&>"}`} {
		if other, _ := trigger.Instance("a.r", params(t, p)); other == id {
			t.Errorf("%s has the id of %s", p, same[0])
		}
	}
	if a, c := trigger.Instance("a.r", params(t, `{"interval":1,"more":{"note":"x","n":1}}`)); a == id || object(c["more"])["note"] != nil {
		t.Errorf("found %s %v", a, c)
	}
	float, _ := trigger.Instance("a.r", map[string]any{"interval": 1.0})
	number, _ := trigger.Instance("a.r", map[string]any{"interval": json.Number("1")})
	if float != id || number != id {
		t.Errorf("found %s and %s, expected %s", float, number, id)
	}
	bare := &Trigger{Header: Header{Ref: "a.b"}}
	if a, c := bare.Instance("a.r", nil); c == nil || !strings.HasPrefix(a, "a.b#") || len(a) != len("a.b#")+instanceDigits {
		t.Errorf("found %s %v", a, c)
	}
}

func TestSchemaIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	made := schemaOf(t, `{"a":{"type":"string","secret":true},"b":{"default":[1]}}`, false)
	data, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	s := new(Schema) // not yet compiled
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				if errs := s.Validate(s.ApplyDefaults(map[string]any{"a": fmt.Sprint(i)})); len(errs) > 0 {
					t.Error(errs)
				}
				s.Secrets()
				s.Properties()
			}
		})
	}
	wg.Wait()
}

func FuzzSchema(f *testing.F) {
	f.Add(`{"a":{"type":"string","required":true}}`, `{"a":1}`)
	f.Add(`{"type":"object","properties":{"a":{"$ref":"#"}}}`, `{"a":{"a":null}}`)
	f.Add(`{"allOf":[{"$ref":"#/allOf/0"}]}`, `{}`)
	f.Add(`{"a":{"$id":"x","$anchor":"y"},"b":{"$dynamicRef":"#y"}}`, `{"a":1,"b":2}`)
	f.Fuzz(func(t *testing.T, doc, value string) {
		d, err := decodeJSON([]byte(doc))
		if err != nil {
			return
		}
		v, err := decodeJSON([]byte(value))
		if err != nil {
			return
		}
		for _, open := range []bool{true, false} {
			s, errs := NewSchema(d, open)
			if s == nil || len(errs) > 0 {
				continue
			}
			text, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if again, errs := NewSchema(tree(t, string(text)), true); len(errs) == 0 && isJSONSchema(s.raw()) && !again.Equal(s) {
				t.Errorf("the normal form of %s is not normal: %s", doc, text)
			}
			s.Validate(v)
			s.Secrets()
			if p, ok := v.(map[string]any); ok {
				s.ApplyDefaults(p)
				(&Trigger{ParametersSchema: s}).Instance("a.r", p)
			}
		}
	})
}
