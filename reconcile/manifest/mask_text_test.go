package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shown is a manifest's text as people may see it.
func shown(t *testing.T, file, content string, texts ...string) string {
	t.Helper()
	b := Parse("p", map[string]File{
		"pack.yaml": {Content: []byte("version: 1.0.0\n")}, file: {Content: []byte(content)},
		"actions/x.sh": {}, "sensors/x.sh": {},
	})
	var v any = b.Pack
	var schemas []*Schema
	if b.Pack != nil {
		schemas = append(schemas, b.Pack.ConfSchema)
	}
	for _, c := range b.Components() {
		v = c
		if s, ok := c.(*Sensor); ok {
			schemas = []*Schema{s.Parameters}
		}
	}
	known := schemaOf(t, `{"type": "object", "properties": {"token": {"type": "string", "secret": true}, "open": {"type": "string"}}}`, false)
	places := HiddenPlaces(v, schemas, func(_ Kind, ref string) []*Schema {
		if ref == "p.known" {
			return []*Schema{known}
		}
		return nil
	})
	spans, ok := SecretSpans([]byte(content), places, texts)
	if !ok {
		return "not to be told"
	}
	lines := strings.Split(content, "\n")
	for i := range lines {
		lines[i] = MaskLine(lines[i], i+1, spans)
	}
	return strings.Join(lines, "\n")
}

func TestSecretSpans(t *testing.T) {
	t.Parallel()
	const head = "ref: p\nversion: 1.0.0\nconf_schema:\n  token: {type: string, secret: true}\n  pin: {type: integer, secret: true}\n" +
		"  deep: {type: object, secret: true}\n  list: {type: array, items: {type: string, secret: true}}\n  open: {type: string}\n"
	tests := map[string]struct{ file, content, want string }{
		"plain":             {"pack.yaml", head + "config:\n  token: ab # it was cd\n  open: seen\n", head + "config:\n  token: ***\n  open: seen\n"},
		"plain, two lines":  {"pack.yaml", head + "config:\n  token: ab\n    cd\n\n    ef\n  # seen\n  open: seen\n", head + "config:\n  token: ***\n    ***\n\n    ***\n  # seen\n  open: seen\n"},
		"double quotes":     {"pack.yaml", head + "config:\n  token: \"a\\\"b\\x63\" # seen\n", head + "config:\n  token: *** # seen\n"},
		"quoted, two lines": {"pack.yaml", head + "config: {token: \"ab\n  cd\", open: seen}\n", head + "config: {token: ***\n  ***, open: seen}\n"},
		"single quotes":     {"pack.yaml", head + "config: {token: 'a''b', open: seen}\n", head + "config: {token: ***, open: seen}\n"},
		"literal":           {"pack.yaml", head + "config:\n  token: |\n    ab\n\n      cd\n    # ef\n  # seen\n  open: seen\n", head + "config:\n  token: ***\n    ***\n\n      ***\n    ***\n  # seen\n  open: seen\n"},
		"folded at the end": {"pack.yaml", head + "config:\n  token: >-\n    ab\n    cd", head + "config:\n  token: ***\n    ***\n    ***"},
		"in brackets":       {"pack.yaml", head + "config: {token: ab, open: seen}\n", head + "config: {token: ***, open: seen}\n"},
		"brackets, lines":   {"pack.yaml", head + "config: {token: ab\n  cd, open: seen}\n", head + "config: {token: ***\n  ***open: seen}\n"},
		"number":            {"pack.yaml", head + "config: {pin: 0x7, open: seen}\n", head + "config: {pin: ***, open: seen}\n"},
		"mapping":           {"pack.yaml", head + "config:\n  deep:\n    a: ab\n    b: [cd, ef]\n  open: seen\n", head + "config:\n  deep:\n    ***\n    ***]\n  open: seen\n"},
		"list":              {"pack.yaml", head + "config:\n  list: [ab, \"cd\"]\n  open: seen\n", head + "config:\n  list: [***, ***]\n  open: seen\n"},
		"anchor":            {"pack.yaml", "x-a: &a ab\nx-b: seen\n" + head + "config: {token: *a}\n", "x-a: ***\nx-b: seen\n" + head + "config: {token: *a}\n"},
		"merged":            {"pack.yaml", "x-a: &a {token: ab, open: seen}\n" + head + "config: {<<: *a}\n", "x-a: &a {token: ***, open: seen}\n" + head + "config: {<<: *a}\n"},
		"template":          {"pack.yaml", head + "config: {token: \"{{ secret.x }}\"}\n", head + "config: {token: \"{{ secret.x }}\"}\n"},
		"tag":               {"pack.yaml", head + "config:\n  token: !!str 12\n  open: seen\n", head + "config:\n  token: ***\n  open: seen\n"},
		"windows":           {"pack.yaml", "\uFEFF" + strings.ReplaceAll(head, "\n", "\r\n") + "config: {token: 'ab', open: seen}\r\n", "\uFEFF" + strings.ReplaceAll(head, "\n", "\r\n") + "config: {token: ***, open: seen}\r\n"},
		"old line ends":     {"pack.yaml", head + "config: {token: ab}\n# \u2028\n", "not to be told"},
		"default": {
			"actions/x.yaml", "name: x\nentry_point: x.sh\nparameters:\n  token: {type: string, secret: true, default: ab, enum: [ab, cd]}\n  open: {type: string, default: seen}\n",
			"name: x\nentry_point: x.sh\nparameters:\n  token: {type: string, secret: true, default: ***, enum: ***]}\n  open: {type: string, default: seen}\n",
		},
		"default before its flag": {
			"actions/x.yaml", "name: x\nentry_point: x.sh\nparameters:\n  type: object\n  properties:\n    token:\n      default: |\n        ab\n      type: string\n      secret: true\n",
			"name: x\nentry_point: x.sh\nparameters:\n  type: object\n  properties:\n    token:\n      default: ***\n        ***\n      type: string\n      secret: true\n",
		},
		"sensor": {
			"sensors/x.yaml", "name: x\nentry_point: x.sh\ntrigger_types: [p.y]\nparameters:\n  token: {type: string, secret: true}\nconfig: {token: ab}\n",
			"name: x\nentry_point: x.sh\ntrigger_types: [p.y]\nparameters:\n  token: {type: string, secret: true}\nconfig: {token: ***}\n",
		},
		"rule": {
			"rules/x.yaml", "name: x\ntrigger: p.y\naction:\n  ref: p.known\n  parameters: {token: ab, open: seen}\n",
			"name: x\ntrigger: p.y\naction:\n  ref: p.known\n  parameters: {token: ***, open: seen}\n",
		},
		"rule, old form": {
			"rules/x.yaml", "name: x\ntrigger_ref: p.y\naction_ref: p.known\naction_params: {token: ab, open: seen}\n",
			"name: x\ntrigger_ref: p.y\naction_ref: p.known\naction_params: {token: ***, open: seen}\n",
		},
		"rule of an unknown action": {
			"rules/x.yaml", "name: x\ntrigger: p.y\nactions:\n  - ref: q.unknown\n    parameters:\n      token: ab\n      more: cd\n",
			"name: x\ntrigger: p.y\nactions:\n  - ref: q.unknown\n    parameters:\n      ***\n      ***\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, shown(t, test.file, test.content)); diff != "" {
				t.Errorf("(-want +have):\n%s", diff)
			}
		})
	}
	// What another manifest calls secret is found too, in whatever form it is written.
	have := shown(t, "pack.yaml", "version: 1.0.0\nlabel: \"h\\x75nter2\"\ndescription: seen\n", "hunter2")
	if want := "version: 1.0.0\nlabel: ***\ndescription: seen\n"; have != want {
		t.Errorf("found %q", have)
	}
}

// Whatever the text is, no part of a secret is left of it, and nobody waits for it.
func FuzzSecretSpans(f *testing.F) {
	f.Add("token: |\n  hunter2\n\n  hunter2\nb: 'x\n  hunter2'\nc: - hunter2\nd:\n- hunter2\n- >2\n     hunter2\n   hunter2\n")
	f.Add("{token: \"hunter2\n hunter2\", a: &a [x, hunter2\n hunter2, {b: *a}]}\n")
	f.Add("a: &a {<<: [*a, *a]}\nb: {<<: *a, secret: true, default: *a}\n")
	f.Fuzz(func(t *testing.T, text string) {
		content := []byte("x-before: 1\n" + text)
		v, errs := readYAML("f", content)
		if v == nil || errs.HasErrors() {
			return
		}
		const secret = "hunter2"
		places, texts := Places{}, Places{}
		v.register(places, texts, "")
		var all []Place
		for pointer, place := range places {
			if pointer != "" {
				all = append(all, place)
			}
		}
		spans, ok := SecretSpans(content, all, []string{secret})
		if !ok {
			return
		}
		for i, line := range strings.Split(string(content), "\n") {
			if strings.Contains(MaskLine(line, i+1, spans), secret) && !strings.Contains(line, "#") && !strings.Contains(line, secret+":") {
				t.Errorf("line %d of %q shows a secret", i+1, content)
			}
		}
	})
}
