package manifest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSelector(t *testing.T) {
	t.Parallel()
	a := func(value any, field ...string) *Selector { return &Selector{Field: field, Value: value} }
	for when, want := range map[string]*Selector{
		`event.payload.host == "web1"`:                          a("web1", "host"),
		`event.payload.o.k == 'x' and event.payload.n > 3`:      a("x", "o", "k"),
		`event.payload.n == 1_000 && not (a or b)`:              a(1000.0, "n"),
		`{{ event.payload.flag == true }}`:                      a(true, "flag"),
		`event.payload.flag == false and (true or false)`:       a(false, "flag"),
		`event.payload.x == 2.5`:                                a(2.5, "x"),
		`event.payload.x == "a" and {"k": 1}.k == 1`:            a("a", "x"),
		`event.payload.x == "a" and any([1], # == 1 or # == 2)`: a("a", "x"),
		`event.payload.x == 9007199254740993`:                   nil,
		`event.payload.x == "a" or event.payload.y == "b"`:      nil,
		`event.payload.x == "a" and true or true`:               nil,
		`event.payload.x == "a" ? true : true`:                  nil,
		`event.payload.x == "a" and false ? false : true`:       nil,
		`event.payload.x == "a" | upper`:                        nil,
		`event.payload.x == "a" + "b"`:                          nil,
		`event.payload.x == "a" == true`:                        nil,
		`event.payload.x != "a"`:                                nil,
		`event.payload == "a"`:                                  nil,
		`event.trigger == "a"`:                                  nil,
		`event.payload.x[0] == "a"`:                             nil,
		`event.payload.list.0 == "a"`:                           nil,
		`event.payload?.x == "a"`:                               nil,
		`"a" == event.payload.x`:                                nil,
		`not event.payload.x == "a"`:                            nil,
		`event.payload.x == nil`:                                nil,
		`event.payload.x == -1`:                                 nil,
		`let y = 1; event.payload.x == "a"`:                     nil,
		`if event.payload.x == "a" {true} else {true}`:          nil,
		`event.payload.x == "a" and let y = 1; y == 2`:          nil,
		``:                               nil,
		`event.payload.x == "a`:          nil,
		`event.payload.x`:                nil,
		`event.payload.x == "a" ?? true`: nil,
		`event.payload.x == "a" and event.payload.y ?? false`: nil,
	} {
		if diff := cmp.Diff(want, rule(when).Selector()); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
}

func TestSelectorFinds(t *testing.T) {
	t.Parallel()
	payload, err := DecodePayload([]byte(`{"a": {"b": "x", "n": 3, "big": 9007199254740993, "list": [1]}, "t": true}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		field []string
		want  any
	}{
		{[]string{"a", "b"}, "x"},
		{[]string{"a", "n"}, 3.0},
		{[]string{"t"}, true},
		{[]string{"a"}, nil},
		{[]string{"a", "list"}, nil},
		{[]string{"a", "b", "c"}, nil},
		{[]string{"z"}, nil},
		{[]string{"a", "big"}, nil},
	} {
		if got := (&Selector{Field: c.field}).Find(payload); got != c.want {
			t.Errorf("%v: found %v, want %v", c.field, got, c.want)
		}
	}
}
