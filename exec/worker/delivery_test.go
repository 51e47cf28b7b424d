package worker

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
)

const someParameters = `{"name": "it's <b>", "n": 5, "big": 12345678901234567890, "on": true, "none": null,
	"list": [1, "x"], "sub": {"a.b": "c\nd", "deep": {"z": 1.50}}, "token": "hush-hush"}`

func parametersOf(t *testing.T, text string) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v map[string]any
	if err := decoder.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	const asJSON = `{"big":12345678901234567890,"list":[1,"x"],"n":5,"name":"it's <b>","none":null,"on":true,` +
		`"sub":{"a.b":"c\nd","deep":{"z":1.50}},"token":"hush-hush"}` + "\n"
	const asDotenv = "big='12345678901234567890'\nlist='[1,\"x\"]'\nn='5'\nname='it'\\''s <b>'\non='true'\n" +
		"sub.a.b='c\nd'\nsub.deep.z='1.50'\ntoken='hush-hush'\n"
	const asYAML = "big: 12345678901234567890\nlist:\n  - 1\n  - x\n\"n\": 5\nname: it's <b>\nnone: null\n\"on\": true\n" +
		"sub:\n  a.b: |-\n    c\n    d\n  deep:\n    z: 1.50\ntoken: hush-hush\n"
	environment := map[string]string{
		"ATTUNE_ACTION_NAME": "it's <b>", "ATTUNE_ACTION_N": "5", "ATTUNE_ACTION_BIG": "12345678901234567890",
		"ATTUNE_ACTION_ON": "true", "ATTUNE_ACTION_LIST": `[1,"x"]`, "ATTUNE_ACTION_SUB": `{"a.b":"c\nd","deep":{"z":1.50}}`,
	}
	withSecret := maps.Clone(environment)
	withSecret["ATTUNE_ACTION_TOKEN"] = "hush-hush"
	tests := []struct {
		delivery, format string
		want             delivery
	}{
		{"", "", delivery{kind: "both", format: "json", env: environment, stdin: []byte(asJSON)}},
		{"", "dotenv", delivery{kind: "both", format: "dotenv", env: environment, stdin: []byte(asDotenv)}},
		{"", "yaml", delivery{kind: "both", format: "yaml", env: environment, stdin: []byte(asYAML)}},
		{"env", "", delivery{kind: "env", format: "json", env: withSecret}},
		{"env", "yaml", delivery{kind: "env", format: "yaml", env: withSecret}},
		{"stdin", "json", delivery{kind: "stdin", format: "json", stdin: []byte(asJSON)}},
		{"stdin", "dotenv", delivery{kind: "stdin", format: "dotenv", stdin: []byte(asDotenv)}},
		{"stdin", "yaml", delivery{kind: "stdin", format: "yaml", stdin: []byte(asYAML)}},
		{"file", "json", delivery{kind: "file", format: "json", file: []byte(asJSON)}},
		{"file", "dotenv", delivery{kind: "file", format: "dotenv", file: []byte(asDotenv)}},
		{"file", "yaml", delivery{kind: "file", format: "yaml", file: []byte(asYAML)}},
	}
	for _, test := range tests {
		t.Run(test.delivery+" "+test.format, func(t *testing.T) {
			t.Parallel()
			action := &manifest.Action{ParameterDelivery: test.delivery, ParameterFormat: test.format}
			got, err := deliver(action, parametersOf(t, someParameters), func(name string) bool { return name == "token" })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, *got, cmp.AllowUnexported(delivery{})); diff != "" {
				t.Errorf("delivery (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDeliverMuch(t *testing.T) {
	t.Parallel()
	much := map[string]any{"text": strings.Repeat("x", manifest.MaxEnvironment)}
	notSecret := func(string) bool { return false }
	got, err := deliver(&manifest.Action{}, much, notSecret)
	if err != nil {
		t.Fatal(err)
	}
	if got.kind != "stdin" || got.env != nil || len(got.stdin) < manifest.MaxEnvironment {
		t.Errorf("kind %s, %d variables, %d bytes of stdin", got.kind, len(got.env), len(got.stdin))
	}
	_, err = deliver(&manifest.Action{ParameterDelivery: "env"}, much, notSecret)
	if err == nil || !strings.Contains(err.Error(), "expected at most 122880; write parameter_delivery: stdin") {
		t.Errorf("env: %v", err)
	}
}

func TestFillSecrets(t *testing.T) {
	t.Parallel()
	parameters := parametersOf(t, `{"list": [1, null], "sub": {}, "a/b": {}, "text": "x"}`)
	secrets := map[string]string{"/token": "t", "/list/1": "l", "/sub/deep/key": "s", "/a~1b/c~0d": "e"}
	values, err := fillSecrets(parameters, secrets, func(_, name string) (any, error) { return "value of " + name, nil })
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(values)
	if diff := cmp.Diff([]string{"value of e", "value of l", "value of s", "value of t"}, values); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	want := map[string]any{
		"list": []any{json.Number("1"), "value of l"}, "sub": map[string]any{"deep": map[string]any{"key": "value of s"}},
		"a/b": map[string]any{"c~d": "value of e"}, "text": "x", "token": "value of t",
	}
	if diff := cmp.Diff(want, parameters); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
	for pointer, message := range map[string]string{
		"/list/7":   `cannot put secret "n" into parameter list.7: there is no element 7`,
		"/list/x":   `cannot put secret "n" into parameter list.x: there is no element x`,
		"/text/sub": `cannot put secret "n" into parameter text.sub: what is above sub is no object and no list`,
	} {
		_, err := fillSecrets(parameters, map[string]string{pointer: "n"}, func(string, string) (any, error) { return "", nil })
		if err == nil || err.Error() != message {
			t.Errorf("%s: %v", pointer, err)
		}
	}
	_, err = fillSecrets(parameters, map[string]string{"/sub/x": "n"}, func(string, string) (any, error) { return "", errors.New("no such file") })
	if err == nil || err.Error() != `cannot use secret "n" for parameter sub.x: no such file` {
		t.Errorf("missing: %v", err)
	}
}

func TestSecretNames(t *testing.T) {
	t.Parallel()
	s := schema(t, `{"plain": {}, "token": {"type": "string", "secret": true},
		"auth": {"type": "object", "properties": {"password": {"type": "string", "secret": true}}}}`, false)
	secret := secretNames(s, map[string]string{"/given/key": "k"})
	for name, want := range map[string]bool{"plain": false, "token": true, "auth": true, "given": true} {
		if got := secret(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	var none *manifest.Schema
	if secretNames(none, nil)("x") {
		t.Error("without a schema something is secret")
	}
}
