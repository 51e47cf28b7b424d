package manifest

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEffectiveConfig(t *testing.T) {
	t.Parallel()
	schema := schemaOf(t, `{"type": "object", "properties": {
		"a": {"type": "integer", "default": 1}, "b": {"type": "string"}, "deep": {"type": "object", "properties": {"x": {"type": "integer"}}}}}`, false)
	pack := &Pack{Ref: "p", ConfSchema: schema, Config: map[string]any{"b": "own", "deep": map[string]any{"x": int64(1)}}}
	tests := map[string]struct {
		operator map[string]any
		want     map[string]any
		misfits  []string
	}{
		"nothing": {want: map[string]any{"a": int64(1), "b": "own", "deep": map[string]any{"x": int64(1)}}},
		"overlaid": {
			operator: map[string]any{"a": int64(7), "deep": map[string]any{}},
			want:     map[string]any{"a": int64(7), "b": "own", "deep": map[string]any{}},
		},
		"refused": {
			operator: map[string]any{"a": "seven", "b": int64(3), "deep": map[string]any{"x": "y"}, "other": true},
			want:     map[string]any{"a": int64(1), "b": "own", "deep": map[string]any{"x": int64(1)}},
			misfits:  []string{"/a", "/b", "/deep/x", "/other"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, misfits := pack.EffectiveConfig(test.operator)
			var pointers []string
			for _, m := range misfits {
				pointers = append(pointers, m.Pointer)
			}
			if diff := cmp.Diff(test.misfits, pointers); diff != "" {
				t.Errorf("misfits (-want +have):\n%s", diff)
			}
			got, err := Encode(config)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Encode(test.want)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("found %s, want %s", got, want)
			}
		})
	}
	free := &Pack{Ref: "p", Config: map[string]any{"b": "own"}}
	if config, misfits := free.EffectiveConfig(map[string]any{"any": true}); len(config) != 2 || misfits != nil {
		t.Errorf("without a schema: %v, %v", config, misfits)
	}
}

func TestConfigFindingsHaveTheirPlace(t *testing.T) {
	t.Parallel()
	b := Parse("p", map[string]File{"pack.yaml": {Content: []byte(
		"ref: p\nversion: 1.0.0\nconf_schema:\n  url: {type: string}\n  must: {type: string, required: true}\nconfig: {url: 3}\n")}})
	place := func(pack, key string) Place {
		if pack == "p" && key == "url" {
			return Place{File: "/etc/attune/attune.toml", Line: 12, Col: 1}
		}
		return Place{}
	}
	var have []string
	for _, f := range ConfigFindings(b, map[string]any{"url": int64(4), "urk": 1}, place) {
		have = append(have, f.Error())
	}
	want := []string{
		`p/pack.yaml:5:9: cannot use packs.config.p.must: missing required property "must"; give it in [packs.config.p] of attune.toml, or under config here`,
		`/etc/attune/attune.toml:12:1: cannot use packs.config.p.url: found 4, expected string`,
		`p/pack.yaml:4:3: unknown key packs.config.p.urk: conf_schema of pack p does not name it; did you mean "url"?`,
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
	have = nil
	for _, f := range ConfigFindings(b, map[string]any{"must": "x"}, place) {
		have = append(have, f.Error())
	}
	if diff := cmp.Diff([]string{"p/pack.yaml:6:15: cannot use config.url: found 3, expected string"}, have); diff != "" {
		t.Errorf("(-want +have):\n%s", diff)
	}
}

// References to secrets stay references in the configuration that is in force, and are filled in only for a
// child; what is shared is not touched.
func TestConfigurationWithSecrets(t *testing.T) {
	t.Parallel()
	schema := schemaOf(t, `{"type": "object", "properties": {"token": {"type": "string", "minLength": 30, "secret": true}, "url": {"type": "string"},
		"list": {"type": "array", "items": {"type": "string"}, "secret": true}}}`, false)
	pack := &Pack{Ref: "p", ConfSchema: schema, Config: map[string]any{"url": "x"}}
	config, misfits := pack.EffectiveConfig(map[string]any{
		"token": "{{ secret.api }}", "url": "{{ secret.api }}", "list": []any{"{{secret.a.b}}", "{{ event.x }}"},
	})
	if len(misfits) != 1 || misfits[0].Pointer != "/url" || config["url"] != "x" || config["token"] != "{{ secret.api }}" {
		t.Fatalf("found %v, misfits %v", config, misfits)
	}
	asked := []string{}
	resolved, err := ResolvedConfig(config, func(name string) (string, error) {
		asked = append(asked, name)
		return "value of " + name, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"token": "value of api", "url": "x", "list": []any{"value of a.b", "{{ event.x }}"}}
	if diff := cmp.Diff(want, resolved); diff != "" {
		t.Errorf("resolved (-want +have):\n%s", diff)
	}
	if config["token"] != "{{ secret.api }}" {
		t.Error("what is in force was changed")
	}
	if diff := cmp.Diff([]string{"a.b", "api"}, asked); diff != "" {
		t.Errorf("asked (-want +have):\n%s", diff)
	}
	if shown := MaskedValues(config, schema); shown["token"] != "{{ secret.api }}" {
		t.Errorf("shown as %v", shown)
	}
	if _, err := ResolvedConfig(config, func(string) (string, error) { return "", errors.New("away") }); err == nil || err.Error() != "cannot use pack.config.list.0: away" {
		t.Errorf("found %v", err)
	}
	text, err := Encode(ReferringConfig(config))
	if err != nil || !strings.Contains(string(text), `"token":"{{ secret.api }}"`) {
		t.Errorf("encoded as %s, %v", text, err)
	}
	plain := map[string]any{"a": "b"}
	if same, err := ResolvedConfig(plain, nil); err != nil || len(same) != 1 || len(ReferringConfig(plain)) != 1 {
		t.Errorf("found %v, %v", same, err)
	}
}
