package manifest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testEnv is an event as rules see it.
func testEnv(t testing.TB) *Env {
	t.Helper()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &Env{
		EventID: 42, Trigger: "core.webhook", Time: at, Now: at.Add(10 * time.Minute), Rule: "p.rule",
		Payload: floats(params(t, testPayload)).(map[string]any),
		Config:  map[string]any{"region": "eu", "limit": 5.0},
	}
}

// floats makes every number what encoding/json makes of it.
func floats(v any) any {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = floats(v[key])
		}
	}
	return v
}

const testPayload = `{"name":"Ada","n":5,"big":9007199254740993,"half":1.5,"zero":0,"flag":true,"off":false,"nothing":null,"empty":"",
	"list":[1,2,3],"texts":["a","b"],"items":[{"id":1,"ok":true,"tags":["x"]},{"id":2}],"o":{"a-b":1,"k":{"z":"deep"}},
	"ip":"10.1.2.3","remote":"10.1.2.3:999","json":"{\"a\":1}","time":"2026-03-01T11:58:00Z","html":"<b>&"}`

func rule(when string) *Rule {
	return &Rule{Header: Header{Ref: "p.rule"}, When: when}
}

func compileWhen(t testing.TB, when string) *CompiledRule {
	t.Helper()
	r, errs := CompileRule(rule(when), nil, nil)
	if errs.HasErrors() {
		t.Fatalf("cannot compile %s: %v", when, errs)
	}
	return r
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		when string
		want bool
		err  string
	}{
		{when: `event.payload.name == "Ada"`, want: true},
		{when: `{{ event.payload.name == "Ada" }}`, want: true},
		{when: `event.payload.n > 4 && event.payload.n <= 5 and event.payload.n == 5`, want: true},
		{when: `event.payload.n in [4, 5]`, want: true},
		{when: `event.payload.n not in [4, 5]`, want: false},
		{when: `event.payload.n in ["a", "b"]`, want: false},
		{when: `event.payload.name in ["Ada"]`, want: true},
		{when: `event.payload.n in event.payload.list`, want: false},
		{when: `"k" in event.payload.o`, want: true},
		{when: `"da" in event.payload.name`, want: true},
		{when: `event.payload.flag`, want: true},
		{when: `!event.payload.flag`, want: false},
		{when: `event.id == 42 and event.trigger == "core.webhook" and trigger == event.trigger and rule.ref == "p.rule"`, want: true},
		{when: `pack.config.region == "eu" && pack.config.limit == event.payload.n`, want: true},

		// What is not there is nil, at any depth, and compares with nothing.
		{when: `event.payload.missing`, want: false},
		{when: `event.payload.missing.deeper[3].still == nil`, want: true},
		{when: `event.payload.name.first.letter == nil`, want: true},
		{when: `event.payload.list[99] == nil and event.payload.list.x == nil and event.payload[event.payload.nothing] == nil`, want: true},
		{when: `event.payload?.missing?.deeper == nil`, want: true},
		{when: `event.payload.missing > 5`, want: false},
		{when: `event.payload.missing <= 5`, want: false},
		{when: `5 >= event.payload.missing.x`, want: false},
		{when: `not (event.payload.missing > 5)`, want: true},
		{when: `event.payload.missing && event.payload.flag`, want: false},
		{when: `event.payload.flag || event.payload.missing`, want: true},
		{when: `event.payload.missing ? false : true`, want: true},
		{when: `event.payload.missing contains "x"`, want: false},
		{when: `event.payload.missing matches "x"`, want: false},
		{when: `event.payload.missing startsWith "x" or "x" endsWith event.payload.missing`, want: false},
		{when: `"x" in event.payload.missing`, want: false},
		{when: `any(event.payload.missing, .x)`, want: false},
		{when: `all(event.payload.missing, .x)`, want: true},
		{when: `any(event.payload.items, .nope)`, want: false},
		{when: `lower(event.payload.missing) == "x"`, want: false},
		{when: `hasPrefix(event.payload.missing, "x") or event.payload.flag`, want: true},
		{when: `len(event.payload.missing) == 0`, want: true},
		{when: `cidr(event.payload.missing, "10.0.0.0/8")`, want: false},
		{when: `event.payload.nothing ?? true`, want: true},

		// Lists, texts, patterns.
		{when: `any(event.payload.items, .id == 2 and not .ok)`, want: true},
		{when: `count(event.payload.items, .ok) == 1 and len(filter(event.payload.items, .ok)) == 1`, want: true},
		{when: `any(event.payload.items, any(.tags, # == "x"))`, want: true},
		{when: `event.payload.texts contains "a"`, want: true},
		{when: `event.payload.name contains "da" and event.payload.name startsWith "A" and event.payload.name endsWith "a"`, want: true},
		{when: `event.payload.name matches "^A.a$"`, want: true},
		{when: `event.payload.name matches event.payload.name`, want: true},
		{when: `event.payload.list[-1] == 3 and event.payload.list[1:] == [2, 3] and event.payload.name[0:1] == "A"`, want: true},
		{when: `event.payload.list == [1, 2, 3] and event.payload.o == {"a-b": 1, "k": {"z": "deep"}}`, want: true},
		{when: `event.payload.list != [1, 2]`, want: true},
		{when: `event.payload.o["a-b"] == 1 and event.payload["o"].k.z == "deep"`, want: true},
		{when: `let o = event; o.payload.name == "Ada"`, want: true},
		{when: `fromJSON(event.payload.json).a == 1`, want: true},
		{when: `cidr(event.payload.ip, "10.0.0.0/8") and cidr(event.payload.remote, ["192.168.0.0/16", "10.0.0.0/8"])`, want: true},
		{when: `cidr("::ffff:10.0.0.1", "10.0.0.0/8")`, want: true},
		{when: `keys(event.payload.o) == ["a-b", "k"] and values({"b": 2, "a": 1}) == [1, 2]`, want: true},

		// Numbers.
		{when: `event.payload.n % 2 == 1 and 7 % event.payload.n == 2`, want: true},
		{when: `event.payload.n * 2 + 1 - 1 == 10 and event.payload.n / 2 == 2.5 and -event.payload.n == -5 and 2 ** 3 == 8`, want: true},
		{when: `event.payload.half * 2 == 3 and sum(event.payload.list) == 6 and max(event.payload.list) == 3`, want: true},
		{when: `1 < event.payload.n < 6`, want: true},

		// Times.
		{when: `event.time < now() and now() - event.time == duration("10m")`, want: true},
		{when: `event.time > now() - "5m"`, want: false},
		{when: `event.time > now() - "15m"`, want: true},
		{when: `now() - event.time > "5m" and now() - event.time < "1h"`, want: true},
		{when: `event.payload.time < event.time and event.time > "2026-01-01T00:00:00Z"`, want: true},
		{when: `date(event.payload.time) + duration("2m") == event.time`, want: true},

		// Times and durations go with each other, and with texts that say one.
		{when: `event.time + "1h" > now() and "1h" < duration("2h") and duration("1h") + "30m" == duration("90m")`, want: true},
		{when: `duration("1h") - "30m" == duration(1800) and duration("1h") * 2 == duration("2h") and duration("1h") / 2 == duration("30m")`, want: true},
		{when: `duration("1h") + event.time == event.time + duration("3600") and duration(event.payload.missing) == nil`, want: true},
		{when: `event.time == event.payload.missing ?? event.time and event.payload.time != event.time`, want: true},
		{when: `duration(event.payload.name) > "1h"`, err: `cannot evaluate when: found "Ada", expected a duration like "1m30s" (at "duration(event.payload.n…")`},
		{when: `duration(event.payload.flag) > "1h"`, err: `cannot evaluate when: found true, expected a duration (at "duration(event.payload.f…")`},
		{when: `event.time > event.payload.name`, err: `cannot evaluate when: cannot compare a time with "Ada" by order (at "event.time > event.payload.name")`},
		{when: `now() - event.time > event.payload.flag`, err: `cannot evaluate when: cannot compare the duration 10m0s with true by order (at "now() - event.time > event.payload.flag")`},

		// Objects, lists and texts by functions.
		{when: `get(event.payload.o, "k").z == "deep" and get(event.payload.o, "x", 7) == 7 and get(event.payload, "n") == 5`, want: true},
		{when: `toPairs({"b": 2, "a": 1}) == [["a", 1], ["b", 2]] and len(keys(event.payload.missing)) == 0`, want: true},
		{when: `groupBy(event.payload.items, .id)[2][0].id == 2 and groupBy(event.payload.items, .id)[event.payload.o] == nil`, want: true},
		{when: `split("a,b", ",")[1] == "b" and split("a,b", ",")[1:] == ["b"] and "b" in split("a,b", ",") and event.payload.name[0] == "A"`, want: true},
		{when: `event.payload.name[9] == nil and event.payload.n[0:1] == nil and event.payload.name[-2:] == "da"`, want: true},
		{when: `join(event.payload.list) == "123" and join(event.payload.missing, ",") == nil and string(event.payload.missing) == nil`, want: true},
		{when: `replace("aXbX", "X", "y") == "ayby" and replace("aXbX", "X", "", 1) == "abX" and replace(event.payload.missing, "a", "b") == nil`, want: true},
		{when: `2.5 in [1, 2.5] and true in [true] and -1 in [-1, 1] and nil in [nil] and event.payload.nothing in event.payload.list == false`, want: true},
		{when: `event.payload.list + event.payload.texts == [1, 2, 3, "a", "b"] and "a" + "b" == "ab" and "x" not in {"y": 1}`, want: true},
		{when: `["1"] != [1] and {"a": 1} != {"b": 1} and [1] != event.payload.o and {"a": 1} != {"a": 1, "b": 2} and [[true]] == [[true]]`, want: true},
		{when: `9223372036854775807 + 1 > 9e18 and 9223372036854775807 * 2 > 9e18 and -9223372036854775807 - 2 < -9e18 and event.payload.half % 1 == 0.5 and 5 / 2 == 2.5`, want: true},
		{when: `type(event.payload.list) == "array" and type(event.payload.name) == "string" and int("5") == 5 and float("1.5") == 1.5`, want: true},
		{when: `cidr("fe80::1%eth0", "fe80::/10") and not cidr(event.payload.ip, "192.168.0.0/16")`, want: true},
		{when: `if event.payload.flag { event.payload.n > 4 } else { false }`, want: true},
		{when: `event.payload.texts | map(# | upper) | join("") == "AB" and ({"a": "x"}).a | upper == "X"`, want: true},
		{when: `event.payload.name matches event.payload.n`, err: `cannot evaluate when: found 5, expected a regular expression (at "event.payload.name matches event.payload.n")`},
		{when: `event.payload.name matches event.payload.ip + "("`, err: `cannot evaluate when: found "10.1.2.3(", expected a regular expression (at "event.payload.name matches event.payload.ip…")`},
		{when: `event.payload.n startsWith "x"`, err: `cannot evaluate when: found 5 and "x", expected two texts (at "event.payload.n startsWith \"x\"")`},
		{when: `"x" in event.payload.n`, err: `cannot evaluate when: found 5, expected a list, an object or a text (at "\"x\" in event.payload.n")`},
		{when: `event.payload.n in event.payload.name`, err: `cannot evaluate when: found 5, expected a text (at "event.payload.n in event.payload.name")`},
		{when: `len(event.payload.n) == 1`, err: `cannot evaluate when: found 5, expected a text, a list or an object (at "len(event.payload.n) == …")`},
		{when: `keys(event.payload.list) == []`, err: `cannot evaluate when: found a list, expected an object (at "keys(event.payload.list)…")`},
		{when: `join(event.payload.n) == ""`, err: `cannot evaluate when: found 5, expected a list (at "join(event.payload.n) ==…")`},
		{when: `replace(event.payload.n, "a", "b") == ""`, err: `cannot evaluate when: found 5, expected a text (at "replace(event.payload.n,…")`},
		{when: `cidr(event.payload.ip, event.payload.name)`, err: `cannot evaluate when: found "Ada", expected a range of addresses like "10.0.0.0/8" (at "cidr(event.payload.ip, e…")`},
		{when: `event.payload.name[event.payload.flag:] == ""`, err: `cannot evaluate when: found true, expected a number (at "event.payload.name[event.payload.flag:] ==…")`},
		{when: `1e308 * event.payload.n > 0`, err: `cannot evaluate when: the result of * is too large (at "1e308 * event.payload.n > 0")`},

		// Filters.
		{when: `event.payload.missing | default(0) > 5`, want: false},
		{when: `event.payload.n | default(0) > 4 and event.payload.missing | default("x") == "x"`, want: true},
		{when: `event.payload.name | upper == "ADA" and event.payload.name|lower|length == 3`, want: true},
		{when: `"x" + event.payload.name | upper == "xADA"`, want: true},
		{when: `event.payload.texts | join(", ") == "a, b" and event.payload.list | first == 1 and event.payload.list | last == 3`, want: true},
		{when: `not event.payload.missing | default(false)`, want: true},
		{when: `event.payload.empty | default("x", true) == "x" and event.payload.empty | default("x") == ""`, want: true},
		{when: `any(event.payload.items, .tags | first == "x")`, want: true},
		{when: `event.payload.items | filter(.ok) | map(.id) | first == 1`, want: true},
		{when: `(event.payload.n + 1) | string == "6"`, want: true},

		// What cannot be evaluated is told.
		{when: `event.payload.name > 5`, err: `cannot evaluate when: cannot compare "Ada" with 5 by order (at "event.payload.name > 5")`},
		{when: `event.payload.name`, err: `cannot evaluate when: found "Ada", expected true or false`},
		{when: `event.payload.n && true`, err: `cannot evaluate when: found 5, expected true or false (at "event.payload.n && true")`},
		{when: `event.payload.n matches "5"`, err: `cannot evaluate when: found 5, expected a text (at "event.payload.n matches \"5\"")`},
		{when: `lower(event.payload.n) == "5"`, err: `cannot evaluate when: found a number, expected a text (at "lower(event.payload.n) =…")`},
		{when: `any(event.payload.o, true)`, err: `cannot evaluate when: found an object, expected a list (at "any(event.payload.o, true)")`},
		{when: `event.payload.n % event.payload.zero == 1`, err: `cannot evaluate when: cannot divide by zero (at "event.payload.n % event.payload.zero == …")`},
		{when: `event.payload.missing + 1 > 0`, err: `cannot evaluate when: + does not go with nil and 1 (at "event.payload.missing + 1 > 0")`},
		{when: `event.payload.name + 1 == "x"`, err: `cannot evaluate when: cannot add 1 to a text; write string(…) (at "event.payload.name + 1 == \"x\"")`},
		{when: `cidr(event.payload.name, "10.0.0.0/8")`, err: `cannot evaluate when: found "Ada", expected an address (at "cidr(event.payload.name,…")`},
	} {
		t.Run(c.when, func(t *testing.T) {
			t.Parallel()
			got, err := compileWhen(t, c.when).Match(testEnv(t))
			message := ""
			if err != nil {
				message = err.Error()
			}
			if diff := cmp.Diff(c.err, message); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if got != c.want {
				t.Errorf("found %t, expected %t", got, c.want)
			}
		})
	}
}

func TestMatchWithoutCondition(t *testing.T) {
	t.Parallel()
	r := compileWhen(t, "")
	if got, err := r.Match(&Env{}); !got || err != nil {
		t.Errorf("found %t, %v, expected a match", got, err)
	}
	if parts := r.Explain(&Env{}); parts != nil {
		t.Errorf("found %v, expected no parts", parts)
	}
}

func TestMatchWithoutPayload(t *testing.T) {
	t.Parallel()
	for _, when := range []string{`event.payload.x.y == nil`, `pack.config.x == nil`, `len(event.payload) == 0`} {
		if got, err := compileWhen(t, when).Match(&Env{}); !got || err != nil {
			t.Errorf("%s: found %t, %v, expected a match", when, got, err)
		}
	}
}

// findings shows errors as "line:col severity message; hint".
func findings(errs Errors) []string {
	var list []string
	for _, e := range errs {
		line := fmt.Sprintf("%d:%d %s", e.Line, e.Col, e.Message)
		if e.Severity == SeverityWarning {
			line = "warning " + line
		}
		if e.Hint != "" {
			line += "; " + e.Hint
		}
		list = append(list, line)
	}
	return list
}

func TestCompileWhenFindings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ when, want string }{
		{`evnt.payload.x == 1`, `5:7 cannot compile when: unknown name evnt; did you mean "event"?`},
		{`true and evnt.x`, `5:16 cannot compile when: unknown name evnt; did you mean "event"?`},
		{`event.paylod.x == 1`, `5:13 cannot compile when: unknown name event.paylod; did you mean "payload"?`},
		{`event.body.x == 1`, `5:13 cannot compile when: unknown name event.body; write event.payload.x`},
		{`trigger.data.x == 1`, `5:15 cannot compile when: trigger is a text, it has no data; write event.payload.x`},
		{`trigger.body.a.b == 1`, `5:15 cannot compile when: trigger is a text, it has no body; write event.payload.a.b`},
		{`trigger.payload["a-b"] == 1`, `5:15 cannot compile when: trigger is a text, it has no payload; write event.payload["a-b"]`},
		{`trigger.ref == "x"`, `5:15 cannot compile when: trigger is a text, it has no ref; write trigger, which is the trigger's ref`},
		{`payload.x == 1`, `5:7 cannot compile when: unknown name payload; write event.payload.x`},
		{`pack.limit > 1`, `5:12 cannot compile when: unknown name pack.limit; write pack.config.limit`},
		{`rule.name == "x"`, `5:12 cannot compile when: unknown name rule.name`},
		{`event.payload.x == null`, `5:26 cannot compile when: unknown name null; write nil`},
		{`event.payload.x == True`, `5:26 cannot compile when: unknown name True; write true`},
		{`item.x == 1`, `5:7 cannot compile when: item is only known with for_each; add for_each to the rule`},
		{`secret.x == "1"`, `5:7 cannot compile when: a secret is only known in an action's parameters`},
		{`$env.event.id == 1`, `5:7 cannot compile when: unknown name $env`},
		{`$now == 1`, `5:7 cannot compile when: unknown name $now`},
		{`now > event.time`, `5:7 cannot compile when: now is a function; write now(…)`},
		{`event.payload.x = 1`, `5:23 cannot compile when: unexpected =; compare with ==`},
		{`event.payload.x is defined`, `5:23 cannot compile when: unexpected is; write x != nil for "is defined"`},
		{`event.payload.x == `, `5:25 cannot compile when: it ends too early`},
		{`event.payload.x == "a`, `5:28 cannot compile when: literal not terminated`},
		{`(event.payload.x`, `5:22 cannot compile when: it ends too early`},
		{`"a" ~ "b" == "ab"`, `5:11 cannot compile when: unexpected ~; texts are joined with +, like "a" + string(event.payload.x)`},
		{`"a" < 5`, `5:11 cannot compile when: < does not go with a text and a number`},
		{`event.id == "5"`, `5:16 cannot compile when: == does not go with a number and a text`},
		{`lower(5) == "x"`, `5:13 cannot compile when: lower: found a number, expected a text`},
		{`lower() == "x"`, `5:7 cannot compile when: not enough arguments to call lower`},
		{`event.payload.x matches "(?=a)"`, "5:31 cannot compile when: found \"(?=a)\", expected a regular expression (RE2, without lookahead): invalid or unsupported Perl syntax: `(?=`"},
		{`cidr(event.payload.x, "10.0.0.0")`, `5:29 cannot compile when: found "10.0.0.0", expected a range of addresses; write it like "10.0.0.0/8"`},
		{`now() - event.time > duration("5 minutes")`, `5:37 cannot compile when: found "5 minutes", expected a duration; write it like "1m30s"`},
		{`"abc"`, `5:7 cannot compile when: it gives a text, expected true or false; compare it with something, like == or >`},
		{`event.id + 1`, `5:7 cannot compile when: it gives a number, expected true or false; compare it with something, like == or >`},
		{`repeat("x", 100) == ""`, `5:7 cannot compile when: unknown function repeat; there is none: a text repeated often enough fills the memory`},
		{`lenght(event.payload.x) > 1`, `5:7 cannot compile when: unknown function lenght; did you mean "length"?`},
		{`event.payload.x.lower() == "a"`, `5:23 cannot compile when: values have no methods; write value | lower`},
		{`event.payload.get("x") == "a"`, `5:21 cannot compile when: values have no methods; write value.name or value["name"]; a missing one is nil`},
		{`event.payload.x | title == "A"`, `5:25 cannot compile when: unknown filter title; write upper or lower`},
		{`event.payload.x | uper == "A"`, `5:25 cannot compile when: unknown filter uper; did you mean "upper"?`},
		{`event.payload.x | count > 1`, `5:25 cannot compile when: unknown filter count; write length`},
		{`event.payload.x | upper | nope`, `5:33 cannot compile when: unknown filter nope; did you mean "none"?`},
		{`event.payload.x | upper and evnt.x`, `5:35 cannot compile when: unknown name evnt; did you mean "event"?`},
		{`any(event.payload.a, any(.b, any(.c, # > 1)))`, `5:36 cannot compile when: loops cannot be nested more than 2 deep; use one loop after the other, or let the action do it`},
		{strings.Repeat("(", maxExpression) + "1", `5:7 cannot compile when: found 8193 bytes, expected at most 8192`},
		{"1" + strings.Repeat(" + 1", maxExpressionNodes) + " > 0", `5:2009 cannot compile when: it has more than 1000 parts`},
		{nestedElvis(200), `5:219 cannot compile when: it has more than 1000 parts`},
	} {
		r := rule(c.when)
		r.Texts = Places{"/when": {File: "p/rules/rule.yaml", Line: 5, Col: 7}}
		compiled, errs := CompileRule(r, nil, nil)
		if compiled != nil {
			t.Errorf("%s: compiled", c.when)
		}
		for _, e := range errs {
			if e.Kind != KindRule || e.Ref != "p.rule" || e.File != "p/rules/rule.yaml" {
				t.Errorf("%s: found %+v", c.when, e)
			}
		}
		if diff := cmp.Diff([]string{c.want}, findings(errs)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.when, diff)
		}
	}
}

// nestedElvis makes a tree that holds its innermost name 2^n times, from n parts of text.
func nestedElvis(n int) string {
	return strings.Repeat("(", n) + "event.id" + strings.Repeat(" ?: 1)", n)
}

func TestFindingsTellAllAtOnce(t *testing.T) {
	t.Parallel()
	r := rule("evnt.x and pak.y")
	r.Actions = []Use{{Ref: "a.b", Parameters: map[string]any{"m": "{{ nope }} and {{ lowr(event.payload.x) }}"}}}
	_, errs := CompileRule(r, nil, nil)
	want := []string{
		`0:0 cannot compile parameters.m: unknown function lowr; did you mean "lower"?`,
		`0:0 cannot compile parameters.m: unknown name nope`,
		`0:0 cannot compile when: unknown name evnt; did you mean "event"?`,
		`0:0 cannot compile when: unknown name pak; did you mean "pack"?`,
	}
	// The first expression of a text that cannot be compiled hides the others of the same text.
	want = append(want[1:2:2], want[2:]...)
	if diff := cmp.Diff(want, findings(errs)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestPayloadPaths(t *testing.T) {
	t.Parallel()
	const properties = `"properties":{"name":{"type":"string"},"o":{"type":"object","properties":{"x":{}},"additionalProperties":false},"free":{"type":"object"},"list":{"type":"array","items":{"type":"object","properties":{"id":{}}}}}`
	closed := &Trigger{Type: TriggerCustom, PayloadSchema: schemaOf(t, `{"type":"object","additionalProperties":false,`+properties+`}`, true)}
	open := &Trigger{Type: TriggerCustom, PayloadSchema: schemaOf(t, `{"type":"object",`+properties+`}`, true)}
	bare := &Trigger{Type: TriggerCustom, PayloadSchema: schemaOf(t, `{"type":"object"}`, true)}
	webhook := &Trigger{Type: TriggerWebhook}
	for _, c := range []struct {
		name    string
		trigger *Trigger
		when    string
		want    []string
	}{
		{"listed", closed, `event.payload.name == "x" and event.payload.o.x == 1 and event.payload.free.any.thing == 1 and event.payload.list[0].id == 1`, nil},
		{"closed", closed, `event.payload.nmae == "x"`, []string{`1:1 cannot compile when: the trigger's payload_schema does not list event.payload.nmae; did you mean "name"?`}},
		{"open", open, `event.payload.nmae == "x"`, []string{`warning 1:1 cannot be sure of when: the trigger's payload_schema does not list event.payload.nmae; did you mean "name"?`}},
		{"closed inside open", open, `event.payload.o.y == "x"`, []string{`1:1 cannot compile when: the trigger's payload_schema does not list event.payload.o.y`}},
		{"elements", open, `event.payload.list[0].idd == "x"`, []string{`warning 1:1 cannot be sure of when: the trigger's payload_schema does not list event.payload.list["0"].idd; did you mean "id"?`}},
		{"below a text", open, `event.payload.name.first == "x"`, nil},
		{"without properties", bare, `event.payload.x == "x"`, nil},
		{"without a trigger", nil, `event.payload.x == "x"`, nil},
		{"webhook body", webhook, `event.payload.body.action == "opened" and event.payload.headers["x-a"] == "b"`, nil},
		{"webhook header", webhook, `event.payload.headers["X-GitHub-Event"] == "push"`, []string{`warning 1:1 cannot be sure of when: a webhook has no event.payload.headers["X-GitHub-Event"]: the names of its headers are in small letters; write event.payload.headers["x-github-event"]`}},
		{"webhook", webhook, `true and event.payload.action == "opened"`, []string{`warning 1:10 cannot be sure of when: a webhook has no event.payload.action: its fields are under event.payload.body; write event.payload.body.action`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := rule(c.when)
			r.Texts = Places{"/when": {File: "f", Line: 1, Col: 1}}
			compiled, errs := CompileRule(r, c.trigger, nil)
			if diff := cmp.Diff(c.want, findings(errs)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if (compiled == nil) != errs.HasErrors() {
				t.Errorf("found %v with %v", compiled, errs)
			}
		})
	}
}

// evaluate compiles a rule with one action of these parameters and gives what it makes of the event.
func evaluate(t testing.TB, parameters string, action *Action, env *Env) (*Values, Errors, error) {
	t.Helper()
	r := rule("")
	r.Actions = []Use{{Ref: "p.act", Parameters: params(t, parameters)}}
	compiled, errs := CompileRule(r, nil, map[string]*Action{"p.act": action})
	if errs.HasErrors() {
		return nil, errs, nil
	}
	values, err := compiled.Actions[0].Evaluate(env)
	return values, errs, err
}

func TestEvaluate(t *testing.T) {
	t.Parallel()
	action := &Action{Parameters: schemaOf(t, `{"s":{"type":"string"},"sn":{"type":["string","null"]},"i":{"type":"integer"},"o":{"type":"object","properties":{"deep":{"type":"string"}}},"l":{"type":"array","items":{"type":"string"}},"any":{}}`, true)}
	for _, c := range []struct {
		parameters, want string
		warnings         []string
		secrets          map[string]string
		err              string
	}{
		{parameters: `{}`, want: `{}`},
		{parameters: `{"any":"plain","i":5,"l":["a"],"o":{"x":null}}`, want: `{"any":"plain","i":5,"l":["a"],"o":{"x":null}}`},
		// A whole-string template keeps its type, unless the schema wants a text.
		{parameters: `{"any":"{{ event.payload.n }}","i":"{{event.payload.n}}"}`, want: `{"any":5,"i":5}`},
		{parameters: `{"s":"{{ event.payload.n }}","sn":"{{ event.payload.flag }}"}`, want: `{"s":"5","sn":"true"}`},
		{parameters: `{"any":"{{ event.payload.list }}","s":"{{ event.payload.list }}"}`, want: `{"any":[1,2,3],"s":"[1,2,3]"}`},
		{parameters: `{"any":"{{ event.payload.o }}","s":"{{ event.payload.o }}"}`, want: `{"any":{"a-b":1,"k":{"z":"deep"}},"s":"{\"a-b\":1,\"k\":{\"z\":\"deep\"}}"}`},
		{parameters: `{"any":"{{ event.time }}","s":"{{ now() - event.time }}"}`, want: `{"any":"2026-03-01T12:00:00Z","s":"10m0s"}`},
		{parameters: `{"any":"{{ event.payload.n + 1 }}\n"}`, want: `{"any":6}`},
		{parameters: `{"any":" {{ event.payload.n }}"}`, want: `{"any":" 5"}`},
		// What has no value is absent, empty inside text, and null in a list.
		{parameters: `{"any":"{{ event.payload.missing }}","s":"{{ event.payload.nothing }}"}`, want: `{}`},
		{
			parameters: `{"s":"a {{ event.payload.missing.x }} b"}`, want: `{"s":"a  b"}`,
			warnings: []string{`parameters.s: {{ event.payload.missing.x }} had no value`},
		},
		{parameters: `{"l":["{{ event.payload.missing }}","b"],"o":{"deep":"{{ event.payload.missing }}","x":1}}`, want: `{"l":[null,"b"],"o":{"x":1}}`},
		// Inside text it is printed.
		{parameters: `{"s":"{{ event.payload.name }} has {{ event.payload.n }}, {{ event.payload.half }}, {{ event.payload.big }}"}`, want: `{"s":"Ada has 5, 1.5, 9007199254740992"}`},
		{parameters: `{"s":"{{ 1000000 * 1000000.0 }} {{ event.payload.flag }} {{ event.payload.list }} {{ event.payload.o }} {{ event.payload.html }}"}`, want: `{"s":"1000000000000 true [1,2,3] {\"a-b\":1,\"k\":{\"z\":\"deep\"}} <b>&"}`},
		{parameters: `{"s":"x{{ event.payload.texts | join(\"-\") }}y{{ event.payload.missing | default(\"d\") }}"}`, want: `{"s":"xa-byd"}`},
		{parameters: `{"s":"{{ event.payload.texts | json }}{{ event.payload.name | upper | lower | trim | length }}"}`, want: `{"s":"[\"a\",\"b\"]3"}`},
		{parameters: `{"any":"{{ {\"a\": {\"b\": event.payload.n}} }}","s":"{{ \"}}\" }}x{{ '{{' }}"}`, want: `{"any":{"a":{"b":5}},"s":"}}x{{"}`},
		{parameters: `{"s":"{{ \"{{\" }} stays {{ \"{%\" }}"}`, want: `{"s":"{{ stays {%"}`},
		{parameters: `{"any":"{{ event | json }}"}`, want: `{"any":"{\"id\":42,\"payload\":` + strings.ReplaceAll(compactPayload(t), `"`, `\"`) + `,\"time\":\"2026-03-01T12:00:00Z\",\"trigger\":\"core.webhook\"}"}`},
		{parameters: `{"any":"{{ groupBy(event.payload.items, .id) }}","o":{"x":"{{ split('a b', ' ') }}"}}`, want: `{"any":{"1":[{"id":1,"ok":true,"tags":["x"]}],"2":[{"id":2}]},"o":{"x":["a","b"]}}`},
		{parameters: `{"any":"{{ rule }}","o":{"deep":"{{ pack }}"},"s":"{{ [1..2, now() - event.time] }}"}`, want: `{"any":{"ref":"p.rule"},"o":{"deep":"{\"config\":{\"limit\":5,\"region\":\"eu\"}}"},"s":"[[1,2],\"10m0s\"]"}`},
		{parameters: `{"s":"{{ 1e300 }} {{ 1e20 }} {{ 0.1 }} {{ nil | default('x') }}"}`, want: `{"s":"1e+300 100000000000000000000 0.1 x"}`},
		// At every depth, by the schema at that depth.
		{parameters: `{"o":{"deep":"{{ event.payload.n }}","other":"{{ event.payload.n }}"},"l":["{{ event.payload.n }}"]}`, want: `{"l":["5"],"o":{"deep":"5","other":5}}`},
		// Secrets are references, and nothing of them is a value.
		{
			parameters: `{"s":"{{ secret.token }}","o":{"a/b":"{{ secret[\"my-key\"] }}"},"l":["x","{{secret.third}}"]}`,
			want:       `{"l":["x",null],"o":{}}`,
			secrets:    map[string]string{"/s": "token", "/o/a~1b": "my-key", "/l/1": "third"},
		},
		{parameters: `{"s":"{{ event.payload.name > 5 }}"}`, err: `cannot evaluate parameters.s: cannot compare "Ada" with 5 by order (at " event.payload.name > 5 ")`},
	} {
		t.Run(c.parameters, func(t *testing.T) {
			t.Parallel()
			values, errs, err := evaluate(t, c.parameters, action, testEnv(t))
			if len(errs) > 0 {
				t.Fatal(errs)
			}
			message := ""
			if err != nil {
				message = err.Error()
			}
			if diff := cmp.Diff(c.err, message); diff != "" {
				t.Fatalf("-want +got\n%s", diff)
			}
			if err != nil {
				return
			}
			got, err := canonicalJSON(values.Parameters)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(c.warnings, values.Warnings); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if c.secrets == nil {
				c.secrets = map[string]string{}
			}
			if diff := cmp.Diff(c.secrets, values.Secrets); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func compactPayload(t testing.TB) string {
	text, err := canonicalJSON(testEnv(t).Payload)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), `\`, `\\`)
}

func TestTemplateFindings(t *testing.T) {
	t.Parallel()
	action := &Action{Parameters: schemaOf(t, `{"cmd":{"literal":true},"fixed":{"immutable":true,"default":"x"},"o":{"properties":{"cmd":{"literal":true}}},"m":{}}`, true)}
	for _, c := range []struct{ parameters, want string }{
		{`{"m":"{{ evnt.x }}"}`, `9:21 cannot compile parameters.m: unknown name evnt; did you mean "event"?`},
		{`{"m":"Hello {{ evnt.x }}"}`, `9:27 cannot compile parameters.m: unknown name evnt; did you mean "event"?`},
		{`{"m":"äöü {{ evnt.x }}"}`, `9:25 cannot compile parameters.m: unknown name evnt; did you mean "event"?`},
		{`{"m":"one\ntwo {{ evnt.x }}\n"}`, `10:25 cannot compile parameters.m: unknown name evnt; did you mean "event"?`},
		{`{"m":"{{ event.payload.x"}`, `9:18 cannot compile parameters.m: {{ is not closed; close it with }}, or write {{ "{{" }} for the two characters`},
		{`{"m":"{{ }}"}`, `9:20 cannot compile parameters.m: it is empty`},
		{`{"m":"{{ it's }}"}`, `9:26 cannot compile parameters.m: literal not terminated`},
		{`{"m":"{{- event.payload.x -}}"}`, `9:18 cannot compile parameters.m: there is no {{- in templates; write {{ event.payload.x }}`},
		{`{"m":"a {% if x %}b{% endif %}"}`, `9:20 cannot compile parameters.m: there are no {% statements %} in templates; write {{ condition ? a : b }}, {{ map(list, .name) | join(", ") }}, or {{ "{%" }} for the two characters`},
		{`{"m":"{{ item.x }}"}`, `9:21 cannot compile parameters.m: item is only known with for_each; add for_each to the rule`},
		{`{"m":"Bearer {{ secret.x }}"}`, `9:27 cannot compile parameters.m: a secret cannot be part of a text; give the parameter as "{{ secret.x }}" and nothing else`},
		{`{"m":"{{ lower(secret.x) }}"}`, `9:27 cannot compile parameters.m: a secret cannot be part of an expression; give the parameter as "{{ secret.name }}" or "{{ secret['the-name'] }}" and nothing else`},
		{`{"m":"{{ secret.my-1 }}"}`, `9:21 cannot compile parameters.m: a secret cannot be part of an expression; give the parameter as "{{ secret.name }}" or "{{ secret['the-name'] }}" and nothing else`},
		{`{"m":"{{ secret }}"}`, `9:21 cannot compile parameters.m: a secret has a name and no parts; write secret.name`},
		{`{"m":"{{ secret[\"../x\"] }}"}`, `9:28 cannot compile parameters.m: found "../x", expected the name of a secret; use letters, digits, _, - and .`},
		{`{"cmd":"{{ event.payload.x }}"}`, `9:18 cannot compile parameters.cmd: found a template, expected a fixed text; the action marks this parameter literal: no event may fill it`},
		{`{"cmd":["a","{{ event.payload.x }}"]}`, `9:18 cannot compile parameters.cmd.1: found a template, expected a fixed text; the action marks this parameter literal: no event may fill it`},
		{`{"o":{"cmd":"{{ secret.x }}"}}`, `9:18 cannot compile parameters.o.cmd: found a template, expected a fixed text; the action marks this parameter literal: no event may fill it`},
		{`{"fixed":"{{ event.payload.x }}"}`, `9:18 cannot compile parameters.fixed: found a template, expected nothing; the action marks this parameter immutable: leave it out`},
		{`{"o":{"{{ x }}":1}}`, `9:18 cannot compile parameters.o: a name cannot be a template; put the template into the value`},
	} {
		r := rule("")
		r.Places, r.Texts = Places{"/actions/0/parameters": {File: "f", Line: 9, Col: 18}}, Places{}
		for _, pointer := range []string{"/m", "/cmd", "/fixed", "/cmd/1", "/o/cmd"} {
			r.Texts["/actions/0/parameters"+pointer] = Place{File: "f", Line: 9, Col: 18}
		}
		r.Actions = []Use{{Ref: "p.act", Parameters: params(t, c.parameters)}}
		compiled, errs := CompileRule(r, nil, map[string]*Action{"p.act": action})
		if compiled != nil {
			t.Errorf("%s: compiled", c.parameters)
		}
		if diff := cmp.Diff([]string{c.want}, findings(errs)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.parameters, diff)
		}
	}
}

func TestForEach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		forEach string
		want    []any
		err     string
	}{
		{forEach: ``},
		{forEach: `event.payload.texts`, want: []any{"a", "b"}},
		{forEach: `{{ event.payload.texts }}`, want: []any{"a", "b"}},
		{forEach: `filter(event.payload.items, .id > 1)`, want: []any{map[string]any{"id": 2.0}}},
		{forEach: `1..3`, want: []any{int64(1), int64(2), int64(3)}},
		{forEach: `event.payload.missing`, want: []any{}},
		{forEach: `event.payload.name`, err: `cannot evaluate for_each: found "Ada", expected a list`},
		{forEach: `event.payload.o`, err: `cannot evaluate for_each: found an object, expected a list`},
		{forEach: `1..9000000000`, err: `cannot evaluate for_each: it makes more than 100000 elements (at "1..9000000000")`},
	} {
		r := rule("")
		r.ForEach = c.forEach
		r.Actions = []Use{{Ref: "p.act"}}
		if c.forEach != "" {
			r.Actions[0].Parameters = map[string]any{"m": "{{ item }}"}
		}
		compiled, errs := CompileRule(r, nil, nil)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		env := testEnv(t)
		got, err := compiled.ForEach(env)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if diff := cmp.Diff(c.err, message); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.forEach, diff)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.forEach, diff)
		}
		for _, item := range got {
			env.Item = item
			values, err := compiled.Actions[0].Evaluate(env)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]any{"m": item}, values.Parameters); diff != "" {
				t.Errorf("%s (-want +got)\n%s", c.forEach, diff)
			}
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	read := func(path string, value any) Read { return Read{Path: path, Value: value} }
	for _, c := range []struct {
		when string
		want []Part
	}{
		{`event.payload.n > 4 and event.payload.missing > 5 && event.payload.name > 1`, []Part{
			{Source: `event.payload.n > 4`, Value: true, Reads: []Read{read("event.payload.n", 5.0)}},
			{Source: `event.payload.missing > 5`, Value: false, Reads: []Read{read("event.payload.missing", nil)}},
			{Source: `event.payload.name > 1`, Error: `cannot compare "Ada" with 1 by order (at "event.payload.name > 1")`, Reads: []Read{read("event.payload.name", "Ada")}},
		}},
		{`event.payload.n == 1 && true || (event.payload.n == 5 and event.id == 42)`, []Part{
			{Source: `event.payload.n == 1 && true`, Value: false, Reads: []Read{read("event.payload.n", 5.0)}},
			{Source: `(event.payload.n == 5 and event.id == 42)`, Value: true, Reads: []Read{read("event.payload.n", 5.0), read("event.id", int64(42))}},
		}},
		{`{{ event.payload.list[1] == 2 and any(event.payload.texts, # == "a or b") }}`, []Part{
			{Source: `event.payload.list[1] == 2`, Value: true, Reads: []Read{read(`event.payload.list["1"]`, 2.0)}},
			{Source: `any(event.payload.texts, # == "a or b")`, Value: false, Reads: []Read{read("event.payload.texts", []any{"a", "b"})}},
		}},
		{`let n = event.payload.n; n > 4 and n < 6`, []Part{
			{Source: `let n = event.payload.n; n > 4 and n < 6`, Value: true, Reads: []Read{read("event.payload.n", 5.0)}},
		}},
		{`event.payload.missing`, []Part{{Source: `event.payload.missing`, Reads: []Read{read("event.payload.missing", nil)}}}},
	} {
		got := compileWhen(t, c.when).Explain(testEnv(t))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.when, diff)
		}
	}
}

func TestExpressionsCannotRunAway(t *testing.T) {
	t.Parallel()
	list := make([]any, 200_000)
	for i := range list {
		list[i] = float64(i)
	}
	env := &Env{Payload: map[string]any{"l": list, "s": strings.Repeat("x", 1<<20)}}
	var doubling strings.Builder
	doubling.WriteString(`let a0 = event.payload.s; `)
	for i := range 40 {
		fmt.Fprintf(&doubling, "let a%d = a%d + a%d; ", i+1, i, i)
	}
	doubling.WriteString(`len(a40) > 0`)
	for _, when := range []string{
		`len(join(map(event.payload.l, event.payload.s), "")) > 0`,
		`len(map(event.payload.l, event.payload.s + "x")) > 0`,
		`any(event.payload.l, any(event.payload.l, # < 0))`,
		`all(event.payload.l, event.payload.l == event.payload.l)`,
		`all(event.payload.l, -1 not in event.payload.l)`,
		`len(uniq(event.payload.l)) > 0`,
		`all(event.payload.l, event.payload.s matches "(x+x+)+y" or true)`,
		`all(event.payload.l, len(lower(event.payload.s)) > 0)`,
		`len(replace(event.payload.s, "x", event.payload.s)) > 0`,
		`reduce(event.payload.l, #acc + event.payload.s, "") == ""`,
		doubling.String(),
	} {
		r := compileWhen(t, when)
		_, err := r.Match(env) // one that runs away meets the time limit of all tests
		if err == nil || !strings.Contains(err.Error(), "too many steps") && !strings.Contains(err.Error(), "makes more than") {
			t.Errorf("%s: found %v, expected a refusal", excerpt(when, 0), err)
		}
	}
}

func TestCompiledRuleIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	r := rule(`event.payload.n >= 0 and any(event.payload.l, # == event.payload.n)`)
	r.Actions = []Use{{Ref: "p.act", Parameters: map[string]any{"m": "n={{ event.payload.n }}", "o": map[string]any{"l": "{{ event.payload.l }}"}, "s": "{{ secret.s }}"}}}
	compiled, errs := CompileRule(r, nil, nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	shared := []any{1.0, 2.0}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				n := float64((i + j) % 4)
				env := &Env{Payload: map[string]any{"n": n, "l": shared}}
				if got, err := compiled.Match(env); err != nil || got != (n == 1 || n == 2) {
					t.Errorf("%v: found %t, %v", n, got, err)
				}
				values, err := compiled.Actions[0].Evaluate(env)
				if err != nil || values.Parameters["m"] != fmt.Sprintf("n=%v", n) {
					t.Errorf("%v: found %v, %v", n, values, err)
				}
				// What one caller does with its values reaches neither the event nor the next caller.
				values.Parameters["o"].(map[string]any)["l"].([]any)[0] = "changed"
				compiled.Explain(env)
			}
		})
	}
	wg.Wait()
}

func TestEventDataIsNeverEvaluated(t *testing.T) {
	t.Parallel()
	for _, data := range []string{`{{ secret.x }}`, `$(id)`, "; rm -rf /", "\n", `${HOME}`, `{{ 1 + 1 }}`, `"`, `{% x %}`, `{{ "{{" }}`, "a\x00b"} {
		env := &Env{Payload: map[string]any{"x": data, "o": map[string]any{data: data}}}
		values, errs, err := evaluate(t, `{"alone":"{{ event.payload.x }}","inside":"<{{ event.payload.x }}>","o":"{{ event.payload.o }}","filtered":"{{ event.payload.x | default(\"d\") }}"}`, nil, env)
		if len(errs) > 0 || err != nil {
			t.Fatal(errs, err)
		}
		want := map[string]any{"alone": data, "inside": "<" + data + ">", "o": map[string]any{data: data}, "filtered": data}
		if diff := cmp.Diff(want, values.Parameters); diff != "" {
			t.Errorf("%q (-want +got)\n%s", data, diff)
		}
		if len(values.Secrets) > 0 {
			t.Errorf("%q made secrets: %v", data, values.Secrets)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range [][2]string{
		{`{{ event.payload.x }}`, `{{ secret.x }}`},
		{`a {{ event.payload.x | default("y") | upper }} b`, `$(id)`},
		{`{{ any(event.payload.l, any(.m, # > 1)) ? 1 : secret.x }}`, "; rm\n"},
		{`{{ "{{" }}{{ {"a": [1, event.payload.x[1:2]]} }}`, `${x}`},
		{`{% if x %}{{- y -}}`, `'`},
		{`{{ let a = event; a.payload.x ?? 1..3 | join(",") }}`, "`"},
		{`{{ 1 < event.id < 3 ?: not event.payload }}`, ``},
		{`{{ groupBy(event.payload.l, #).x | json }}`, `x`},
		{`{{ sortBy(event.payload.l, .a) | first }}{{ reduce(1..9, #acc * #) }}`, `x`},
		{`{{ now() - event.time > "5m" and date("2026-01-01") < now() }}`, `x`},
	} {
		f.Add(seed[0], seed[1])
	}
	trigger := &Trigger{PayloadSchema: schemaOf(f, `{"x":{"type":"string"},"l":{"type":"array","items":{}}}`, true)}
	action := &Action{Parameters: schemaOf(f, `{"fuzzed":{"type":["integer","boolean"]},"alone":{},"inside":{}}`, false)}
	f.Fuzz(func(t *testing.T, template, data string) {
		r := rule("")
		r.Actions = []Use{{Ref: "p.act", Parameters: map[string]any{
			"fuzzed": template, "alone": "{{ event.payload.x }}", "inside": "<{{ event.payload.x }}>",
		}}}
		env := &Env{Payload: map[string]any{"x": data, "l": []any{data, 1.0, nil, map[string]any{"a": data}}}}
		if r2, errs := CompileRule(rule(template), nil, nil); r2 != nil {
			_, _ = r2.Match(env)
			r2.Explain(env)
		} else if !errs.HasErrors() {
			t.Error("neither a rule nor an error")
		}
		guarded := rule("")
		guarded.Throttle = &Throttle{Max: 1, Per: 1, Key: template}
		if r3, _ := CompileRule(guarded, nil, nil); r3 != nil {
			_, _ = r3.ThrottleKey.Text(env)
		}
		NewCompiler().checkRule(r, trigger, map[string]*Action{"p.act": action})
		compiled, errs := CompileRule(r, nil, nil)
		if (compiled == nil) != errs.HasErrors() {
			t.Fatalf("found %v with %v", compiled, errs)
		}
		if compiled == nil {
			return
		}
		values, err := compiled.Actions[0].Evaluate(env)
		if err != nil {
			return
		}
		if values.Parameters["alone"] != data || values.Parameters["inside"] != "<"+data+">" {
			t.Errorf("%q arrived as %q and %q", data, values.Parameters["alone"], values.Parameters["inside"])
		}
		if _, err := compactJSON(values.Parameters); err != nil {
			t.Errorf("%q gave what JSON cannot say: %v", template, err)
		}
		for pointer := range values.Secrets {
			if pointer != "/fuzzed" {
				t.Errorf("%q made a secret at %s", template, pointer)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	r := compileWhen(b, `event.payload.kind == "disk" && event.payload.usage > 90 && event.payload.host in ["a", "b", "c"]`)
	env := &Env{EventID: 1, Trigger: "p.t", Payload: map[string]any{"kind": "disk", "usage": 95.0, "host": "c"}}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := r.Match(env); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	r := rule(`event.payload.kind == "disk" && event.payload.usage > 90 && event.payload.host in ["a", "b", "c"]`)
	r.Actions = []Use{{Ref: "p.act", Parameters: map[string]any{"message": "{{ event.payload.host }} is at {{ event.payload.usage | default(0) }} %"}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, errs := CompileRule(r, nil, nil); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	r := rule("")
	r.Actions = []Use{{Ref: "p.act", Parameters: map[string]any{"message": "{{ event.payload.host }} is at {{ event.payload.usage }} %", "host": "{{ event.payload.host }}"}}}
	compiled, errs := CompileRule(r, nil, nil)
	if len(errs) > 0 {
		b.Fatal(errs)
	}
	env := &Env{Payload: map[string]any{"usage": 95.0, "host": "c"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := compiled.Actions[0].Evaluate(env); err != nil {
			b.Fatal(err)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	r := rule("")
	r.Throttle = &Throttle{Max: 1, Per: 1, Key: "event.payload.name"}
	r.Debounce = &Debounce{Window: 1, Key: "{{ event.payload.name }}/{{ event.payload.nothing }}/{{ trigger }}"}
	compiled, errs := CompileRule(r, nil, nil)
	if compiled == nil {
		t.Fatal(errs)
	}
	for _, c := range []struct {
		key  *CompiledKey
		want string
	}{{compiled.ThrottleKey, "Ada"}, {compiled.DebounceKey, "Ada//core.t"}, {compiled.DedupeKey, ""}} {
		env := testEnv(t)
		env.Trigger = "core.t"
		if text, err := c.key.Text(env); err != nil || text != c.want {
			t.Errorf("found %q, %v, expected %q", text, err, c.want)
		}
	}
	key, err := CompileConcurrencyKey(&Action{Concurrency: &Concurrency{Max: 1, Key: "{{ parameters.host | lower }}:{{ parameters.port }}"}})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := key.Text(&Env{Parameters: map[string]any{"host": "DB1", "port": float64(5432)}}); err != nil || text != "db1:5432" {
		t.Errorf("found %q, %v", text, err)
	}
	if _, err := CompileConcurrencyKey(&Action{Concurrency: &Concurrency{Max: 1, Key: "event.id"}}); err == nil {
		t.Error("a key of concurrency reads an event")
	}
}
