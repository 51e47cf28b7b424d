package store_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

func TestCleanJSON(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, in, want, problem string }{
		{"plain", `{"a":[1,-2.5,true,null,"ü\n\u00e4"]}`, `{"a":[1,-2.5,true,null,"ü\n\u00e4"]}`, ""},
		{"absent", "", `{}`, ""},
		{"spaces", " \n", `{}`, ""},
		{"exponent", `{"a":1e10}`, `{"a":1e10}`, ""},
		{"pair", `["\ud83d\ude00"]`, `["\ud83d\ude00"]`, ""},
		{"escaped backslash", `["\\u0000"]`, `["\\u0000"]`, ""},
		{"replacement that was there", "[\"\uFFFD\",\"\\ud83d\\ude00\"]", "[\"\uFFFD\",\"\\ud83d\\ude00\"]", ""},
		{"NUL", `{"a":"x\u0000y"}`, `{"a":"x` + "\uFFFD" + `y"}`, "NUL"},
		{"NUL in a key", `{"a\u0000":1}`, `{"a` + "\uFFFD" + `":1}`, "NUL"},
		{"high half", `["\ud800"]`, "[\"\uFFFD\"]", "surrogate"},
		{"low half", `["\udc00x"]`, "[\"\uFFFDx\"]", "surrogate"},
		{"high half, then a letter", `["\ud800\u0041"]`, "[\"\uFFFDA\"]", "surrogate"},
		{"bad UTF-8", "[\"\xff\"]", "[\"\uFFFD\"]", "UTF-8"},
		{"too large", `[1e400]`, `["1e400"]`, "out of range"},
		{"much too large", `[-1e200000]`, `["-1e200000"]`, "out of range"},
		{"too small", `[1e-20000]`, `["1e-20000"]`, "out of range"},
		{"absurd exponent", `[1e99999999999999999999]`, `["1e99999999999999999999"]`, "out of range"},
		{"long", `[1.` + strings.Repeat("0", 500) + `]`, `["1.` + strings.Repeat("0", 500) + `"]`, "out of range"},
		{"no JSON", "hello\x00", `{"raw":"hello` + "\uFFFD" + `"}`, "not valid JSON"},
		{"two values", `{} {}`, `{"raw":"{} {}"}`, "not valid JSON"},
		{"deepest", nested(64), nested(64), ""},
		{"too deep", nested(66), strings.Repeat("[", 64) + `"[[]]"` + strings.Repeat("]", 64), "nested deeper than 64"},
		{"scalars at the bottom", strings.Repeat("[", 64) + `1,"\u0000",[2]` + strings.Repeat("]", 64), strings.Repeat("[", 64) + `1,"` + "\uFFFD" + `","[2]"` + strings.Repeat("]", 64), "nested deeper than 64"},
	} {
		clean, problem := store.CleanJSON(json.RawMessage(test.in))
		if string(clean) != test.want {
			t.Errorf("%s: got %.200s, expected %.200s", test.name, clean, test.want)
		}
		if (problem == "") != (test.problem == "") || !strings.Contains(problem, test.problem) {
			t.Errorf("%s: problem %q, expected one about %q", test.name, problem, test.problem)
		}
	}
}

func TestCleanKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 200)
	if got := store.CleanKey("plain"); got != "plain" {
		t.Error(got)
	}
	seen := map[string]string{}
	for _, id := range []string{"a\x00", "a\uFFFD", "a\xff", long, long + "x", long + "y"} {
		key := store.CleanKey(id)
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q share a key", id, other)
		}
		seen[key] = id
		if len(key) > 255 || !utf8.ValidString(key) || strings.Contains(key, "\x00") {
			t.Errorf("%q is no key", key)
		}
	}
	if store.CleanKey("") != "" {
		t.Error("no id is no key")
	}
}

// Whatever comes in, what goes out is JSON that encoding/json reads and that needs no more cleaning.
func FuzzCleanJSON(f *testing.F) {
	for _, seed := range []string{
		`{"a":1}`, `["\u0000","\ud800\udc00","\udc00"]`, `1e400`, nested(70), "\xff", `"`, `{"a":{"b":[1e-500]}}`, `{"raw":"\\u0000"}`, "null", `""`,
		` {"a" : [ true , false,null ] , "b":-0.5} `, `[01]`, `[-]`, `[1.]`, `{"a":1,}`, `[,]`, `["\x"]`, `["\u12g4"]`, "[\"\t\"]", "1\x00", `{"a"}`, `{1:2}`, `[1 2]`, `tru`, `"\u12`, `"\u`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		clean, problem := store.CleanJSON(in)
		if !json.Valid(clean) || !utf8.Valid(clean) || bytes.IndexByte(clean, 0) >= 0 {
			t.Fatalf("%q became %q", in, clean)
		}
		var value any
		if err := json.Unmarshal(clean, &value); err != nil {
			t.Fatalf("%q became %q, which cannot be read: %v", in, clean, err)
		}
		if problem == "" && len(bytes.TrimSpace(in)) > 0 && !bytes.Equal(in, clean) {
			t.Fatalf("%q became %q without a word", in, clean)
		}
		again, problem := store.CleanJSON(clean)
		if problem != "" || !bytes.Equal(again, clean) {
			t.Fatalf("%q was cleaned to %q, and again to %q: %s", in, clean, again, problem)
		}
	})
}

// What a string may hold is looked at eight bytes at once: each byte stands in each place once.
func TestPlainFieldsOfEachByte(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		for place := range 20 {
			text := bytes.Repeat([]byte("x"), 20)
			text[place] = byte(c)
			line := append(append([]byte(` {"k" : "`), text...), `","l":[{}]} `...)
			var found []string
			plain := store.PlainFields(line, func(key, value []byte) bool {
				found = append(found, string(key), string(value))
				return true
			})
			if want := json.Valid(line) && utf8.Valid(line); plain != want {
				t.Fatalf("%q: plain %v, want %v", line, plain, want)
			}
			if want := []string{"k", `"` + string(text) + `"`, "l", "[{}]"}; plain && !slices.Equal(found, want) {
				t.Fatalf("%q: found %q", line, found)
			}
		}
	}
	all := func(key, value []byte) bool { return true }
	for text, want := range map[string]bool{
		"{}": true, ` { } `: true, `{"a":1,"a":2}`: true, "": false, "[]": false, "{": false, `{"a":1}x`: false, `{"a":1} {}`: false,
		`{"a":1,}`: false, `{"a"}`: false, `{a:1}`: false, "{}\x00": false, `{"a":1e5}`: false,
		`{"a":` + nested(63) + `}`: true, `{"a":` + nested(64) + `}`: false,
	} {
		if got := store.PlainFields([]byte(text), all); got != want {
			t.Errorf("%.40q: plain %v, want %v", text, got, want)
		}
	}
	if store.PlainFields([]byte(`{"a":1,"b":2}`), func(key, _ []byte) bool { return string(key) != "b" }) {
		t.Error("nobody looks closer where one of the fields wants it")
	}
}

// The corpus of the fuzzer's seeds and of the table, against the real judge.
func TestPostgresTakesWhatIsClean(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for _, in := range []string{
		`["\u0000"]`, `["\ud800"]`, `["\udc00\ud800"]`, `[1e400]`, `[1e-20000]`, nested(20000), nested(9000), "\x00\xff", `{"\u0000":{"\ud800":1}}`,
		`[` + strings.Repeat("9", 200_000) + `]`, `[0.` + strings.Repeat("0", 20_000) + `1]`,
	} {
		clean, _ := store.CleanJSON(json.RawMessage(in))
		var back string
		if err := s.Pool().QueryRow(t.Context(), "SELECT $1::text::jsonb::text", string(clean)).Scan(&back); err != nil {
			t.Errorf("%.60q became %.60q: %v", in, clean, err)
		}
	}
	var back string
	if err := s.Pool().QueryRow(t.Context(), "SELECT $1::text", store.CleanText("a\x00\xffb")).Scan(&back); err != nil || back != "a\uFFFD\uFFFDb" {
		t.Errorf("%q: %v", back, err)
	}
}
