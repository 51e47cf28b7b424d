package manifest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLargeNumbersKeepTheirDigits: ids of 19 digits are common, and a float64 holds 15.
func TestLargeNumbersKeepTheirDigits(t *testing.T) {
	t.Parallel()
	env := &Env{}
	var err error
	if env.Payload, err = DecodePayload([]byte(`{"id": 9007199254740993, "near": 9007199254740992, "max": 9223372036854775807,
		"min": -9223372036854775808, "beyond": 92233720368547758070, "small": 5, "text": "9007199254740993", "f": 9007199254740993.5,
		"list": [{"id": 1234567890123456789}]}`)); err != nil {
		t.Fatal(err)
	}
	for when, want := range map[string]bool{
		`event.payload.id == 9007199254740993`:                                true,
		`event.payload.id == 9007199254740992`:                                false,
		`event.payload.id != event.payload.near`:                              true,
		`event.payload.id > event.payload.near`:                               true,
		`event.payload.near < event.payload.id`:                               true,
		`event.payload.id >= 9007199254740993`:                                true,
		`event.payload.id < 9007199254740993`:                                 false,
		`event.payload.id in [1, 9007199254740993]`:                           true,
		`event.payload.id in [1, 9007199254740992]`:                           false,
		`event.payload.id > 9007199254740992.0`:                               true,
		`event.payload.f > event.payload.near`:                                true,
		`event.payload.id + 1 == 9007199254740994`:                            true,
		`event.payload.small == 5 and event.payload.small < event.payload.id`: true,
		`string(event.payload.id) == event.payload.text`:                      true,
		`event.payload.max == 9223372036854775807`:                            true,
		`event.payload.beyond > event.payload.max`:                            true,
		`event.payload.min < -9223372036854775807`:                            true,
		`any(event.payload.list, .id == 1234567890123456789)`:                 true,
		`event.payload.list[0].id | json == "1234567890123456789"`:            true,
	} {
		got, err := compileWhen(t, when).Match(env)
		if err != nil || got != want {
			t.Errorf("%s gave %v, %v", when, got, err)
		}
	}
	r := rule("")
	r.Actions = []Use{{Ref: "p.a", Parameters: map[string]any{
		"whole": "{{ event.payload.id }}", "text": "id {{ event.payload.list[0].id }}", "tree": "{{ event.payload.list }}",
	}}}
	compiled, errs := CompileRule(r, nil, nil)
	if errs.HasErrors() {
		t.Fatal(errs)
	}
	values, err := compiled.Actions[0].Evaluate(env)
	if err != nil {
		t.Fatal(err)
	}
	data, err := canonicalJSON(values.Parameters)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"text":"id 1234567890123456789","tree":[{"id":1234567890123456789}],"whole":9007199254740993}`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Error(diff)
	}
}

func TestPayloadsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`[]`, `{"n": 1e999}`, `{"n": 1e999, "id": 1234567890123456789}`, `{"a": [1e999], "id": 1234567890123456789}`, `{`, `3`} {
		if got, err := DecodePayload([]byte(payload)); err == nil {
			t.Errorf("%s was read as %v", payload, got)
		}
	}
	if got, err := DecodePayload(nil); err != nil || len(got) != 0 {
		t.Errorf("an empty one gave %v, %v", got, err)
	}
}

func TestEqualTextsAreCompiledOnce(t *testing.T) {
	t.Parallel()
	c := NewCompiler()
	one, _ := c.Rule(rule("event.payload.n > 3"), nil, nil)
	two, _ := c.Rule(rule("event.payload.n > 3"), nil, nil)
	other, _ := c.Rule(rule("event.payload.n > 4"), nil, nil)
	if one.when != two.when || one.when == other.when {
		t.Error("equal texts are not shared, or others are")
	}
	// item is known in parameters only: what is compiled for one place must not serve the other.
	r := rule("")
	r.ForEach = "event.payload.list"
	r.Actions = []Use{{Ref: "p.a", Parameters: map[string]any{"x": "{{ item }}"}}}
	if _, errs := c.Rule(r, nil, nil); errs.HasErrors() {
		t.Fatal(errs)
	}
	if _, errs := c.Rule(rule(" item "), nil, nil); !errs.HasErrors() {
		t.Error("item is known in a condition")
	}
}
