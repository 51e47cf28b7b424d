package manifest_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/manifest"
)

func TestDurationJSON(t *testing.T) {
	t.Parallel()
	tests := map[string]manifest.Duration{
		"0":                     0,
		"90":                    manifest.Duration(90 * time.Second),
		"0.5":                   manifest.Duration(500 * time.Millisecond),
		"-1.5":                  manifest.Duration(-1500 * time.Millisecond),
		"0.000000001":           1,
		"9223372036.854775807":  1<<63 - 1,
		"-9223372036.854775808": -1 << 63,
	}
	for want, d := range tests {
		got, err := json.Marshal(d)
		if err != nil || string(got) != want {
			t.Errorf("%d nanoseconds: got %s, %v, want %s", d, got, err, want)
		}
	}
	for _, text := range []string{`"1m30s"`, `90`, `90.0`, `"90"`, `9e1`} {
		var d manifest.Duration
		if err := json.Unmarshal([]byte(text), &d); err != nil || d != manifest.Duration(90*time.Second) {
			t.Errorf("%s: got %v, %v, want 1m30s", text, d, err)
		}
	}
	for _, text := range []string{`"x"`, `true`, `1e300`, `{}`, `"1e99999999999"`} {
		var d manifest.Duration
		if err := json.Unmarshal([]byte(text), &d); err == nil {
			t.Errorf("%s: got %v, want an error", text, d)
		}
	}
}

func TestDurationRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := manifest.Duration(rapid.Int64().Draw(t, "nanoseconds"))
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var again manifest.Duration
		if err := json.Unmarshal(text, &again); err != nil || again != d {
			t.Fatalf("%s: got %d, %v, want %d", text, again, err, d)
		}
	})
}

// ignorePlaces leaves out what belongs to the file and not to its meaning.
var ignorePlaces = cmp.Options{
	cmpopts.IgnoreFields(manifest.Header{}, "File", "Places", "Texts"),
	cmpopts.IgnoreFields(manifest.Pack{}, "Places"),
	cmp.Comparer(func(a, b *manifest.Schema) bool {
		x, errX := json.Marshal(a)
		y, errY := json.Marshal(b)
		return errX == nil && errY == nil && string(x) == string(y)
	}),
}

// roundTrip fails unless what is encoded decodes to the same model and encodes to the same bytes.
func roundTrip(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, b *manifest.Bundle,
) {
	t.Helper()
	if b.Pack != nil {
		first, err := manifest.Encode(b.Pack)
		if err != nil {
			t.Fatalf("%v", err)
		}
		again, err := manifest.DecodePack(first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if diff := cmp.Diff(b.Pack, again, ignorePlaces); diff != "" {
			t.Fatalf("the pack decodes to another (-want +got):\n%s", diff)
		}
		second, err := manifest.Encode(again)
		if err != nil || string(first) != string(second) {
			t.Fatalf("encoded again: %v\n%s\n%s", err, first, second)
		}
	}
	for _, c := range b.Components() {
		first, err := manifest.Encode(c)
		if err != nil {
			t.Fatalf("%v", err)
		}
		again, err := manifest.Decode(c.Kind(), first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if diff := cmp.Diff(c, again, ignorePlaces); diff != "" {
			t.Fatalf("%s decodes to another (-want +got):\n%s", c.Head().Ref, diff)
		}
		second, err := manifest.Encode(again)
		if err != nil || string(first) != string(second) {
			t.Fatalf("encoded again: %v\n%s\n%s", err, first, second)
		}
	}
}

func TestRoundTripOfCases(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("cannot find the cases: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range parseAll(readCase(t, archive).packs) {
			roundTrip(t, b)
		}
	}
}

// TestRoundTripOfValues writes random values as a manifest's parameters.
func TestRoundTripOfValues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		parameters := rapid.MapOfN(rapid.StringMatching(`[a-z]{1,5}`), plainValue(2), 0, 5).Draw(t, "parameters")
		text, err := json.Marshal(map[string]any{
			"trigger": "core.t", "action": map[string]any{"ref": "core.a", "parameters": parameters},
		})
		if err != nil {
			t.Fatal(err)
		}
		// JSON is YAML, so this is a manifest.
		b := manifest.Parse("p", map[string]manifest.File{
			"pack.yaml": {Content: []byte("version: 1.0.0\n")}, "rules/r.yaml": {Content: text},
		})
		if len(b.Rules) != 1 {
			t.Fatalf("%s: %v", text, b.Errors)
		}
		got, want := b.Rules[0].Actions[0].Parameters, parameters
		if len(want) == 0 {
			want = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s reads as another value (-want +got):\n%s", text, diff)
		}
		roundTrip(t, b)
	})
}

// plainValue draws what a manifest can hold.
func plainValue(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.Just[any](nil),
		rapid.Bool().AsAny(),
		rapid.Int64().AsAny(),
		rapid.Map(rapid.Float64Range(-1000, 1000), func(f float64) any {
			if f == float64(int64(f)) {
				return int64(f)
			}
			return f
		}),
		rapid.StringMatching(`[ -~äλ☃]{0,10}`).AsAny(),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	list := rapid.Map(rapid.SliceOfN(plainValue(depth-1), 0, 3), func(l []any) any {
		return append([]any{}, l...)
	})
	object := rapid.Map(rapid.MapOfN(rapid.StringMatching(`[a-z]{1,3}`), plainValue(depth-1), 0, 3), func(m map[string]any) any {
		return maps.Clone(m)
	})
	return rapid.OneOf(append(scalars, list, object)...)
}

func TestComponentsAreOrdered(t *testing.T) {
	t.Parallel()
	files := map[string]manifest.File{"pack.yaml": {Content: []byte("version: 1.0.0\n")}}
	for _, name := range []string{"b", "a"} {
		files["triggers/"+name+".yaml"] = manifest.File{Content: []byte("name: " + name)}
		files["actions/"+name+".yaml"] = manifest.File{Content: []byte("entry_point: x.sh")}
		files["sensors/"+name+".yaml"] = manifest.File{Content: []byte("entry_point: x.sh\ntrigger_type: a")}
		files["rules/"+name+".yaml"] = manifest.File{Content: []byte("trigger: a\naction: a")}
	}
	var got []string
	for _, c := range manifest.Parse("p", files).Components() {
		got = append(got, fmt.Sprint(c.Kind(), " ", c.Head().Ref))
	}
	want := []string{
		"trigger p.a", "trigger p.b", "action p.a", "action p.b", "sensor p.a", "sensor p.b", "rule p.a", "rule p.b",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestIsManifest(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		"pack.yaml": true, "config.schema.yaml": true, "actions/a.yaml": true, "rules/a.yml": true,
		"triggers/a.yaml": true, "sensors/a.yaml": true, "pack.yml": false, "actions/lib/a.yaml": false,
		"actions/a.json": false, "actions/.a.yaml": false, "workflows/a.yaml": false, "a.yaml": false,
		"actions/a.YAML": false, "lib/pack.yaml": false, "actions/#a.yaml": false, "actions": false, "": false,
	}
	for path, want := range tests {
		if got := manifest.IsManifest(path); got != want {
			t.Errorf("IsManifest(%q) = %v, want %v", path, got, want)
		}
	}
}
