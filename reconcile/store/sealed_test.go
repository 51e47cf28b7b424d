package store_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// keyFile is a file with a key.
func keyFile(t *testing.T) *seal.Keys {
	t.Helper()
	at := filepath.Join(t.TempDir(), "keys")
	putKeys(t, at, "a")
	return seal.New(seal.Options{Path: at})
}

// putKeys writes a file with keys that are the same for the same letters, the first of which seals.
func putKeys(t *testing.T, at, letters string) {
	t.Helper()
	var lines strings.Builder
	for _, letter := range letters {
		lines.WriteString(base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(letter), 32))) + "\n")
	}
	if err := os.WriteFile(at+".new", []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at+".new", at); err != nil {
		t.Fatal(err)
	}
}

func withKeys(keys *seal.Keys) func(*store.Options) {
	return func(o *store.Options) { o.Keys = keys }
}

// secretive is a trigger with a parameter that is secret, and one that is secret and no part of the identity.
func secretive(t *testing.T, secret bool) *manifest.Trigger {
	t.Helper()
	const schema = `{"url": {"type": "string"}, "token": {"type": "string", "secret": SECRET},
		"list": {"type": "array", "items": {"type": "object", "properties": {"pin": {"type": "integer", "secret": SECRET}}}},
		"note": {"type": "string", "secret": SECRET, "x-identity": false}}`
	text := strings.ReplaceAll(schema, "SECRET", map[bool]string{true: "true", false: "false"}[secret])
	var doc any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	s, errs := manifest.NewSchema(doc, false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	tr := trigger("a", "t")
	tr.ParametersSchema = s
	return tr
}

// handy is an action to which rules give secrets.
func handy(t *testing.T, secret bool) *manifest.Action {
	t.Helper()
	const schema = `{"open": {"type": "string"}, "password": {"type": "string", "secret": SECRET}, "login": {"type": "object", "secret": SECRET},
		"list": {"type": "array", "items": {"type": "object", "properties": {"pin": {"type": "integer", "secret": SECRET}}}}}`
	var doc any
	if err := json.Unmarshal([]byte(strings.ReplaceAll(schema, "SECRET", strconv.FormatBool(secret))), &doc); err != nil {
		t.Fatal(err)
	}
	s, errs := manifest.NewSchema(doc, false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return action("a", "act", func(a *manifest.Action) { a.Parameters = s })
}

// handing is a rule of several actions, two of which are given that secret.
func handing(name, password string) *manifest.Rule {
	r := rule("b", name, "a.plain", nil)
	r.ForEach = "event.payload.list"
	use := func(password string) manifest.Use {
		return manifest.Use{Ref: "a.act", Parameters: map[string]any{
			"open": "seen", "password": password, "login": map[string]any{"user": "{{ event.payload.user }}", "word": password},
			"list": []any{map[string]any{"pin": json.Number("7310255"), "name": "n"}},
		}}
	}
	r.Actions = []manifest.Use{use(password), {Ref: "a.other", Parameters: map[string]any{"open": "seen"}}, use(password + "-again"), {
		Ref: "a.act", Parameters: map[string]any{"password": "{{ secret.name }}", "open": "{{ item }}"},
	}}
	return r
}

// handed is what the catalog has of such a rule.
func handed(t *testing.T, s *store.Store, ref string) *store.Record {
	t.Helper()
	catalog, err := s.Catalog(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return catalog.Rules[ref]
}

// wantHanded compares a rule of the catalog with what was put.
func wantHanded(t *testing.T, s *store.Store, want *manifest.Rule) {
	t.Helper()
	record := handed(t, s, want.Ref)
	if record.Sealed != nil || record.SealedActions != nil {
		t.Errorf("%s: %v", want.Ref, record.Sealed)
	}
	text := func(c manifest.Component) string {
		data, err := manifest.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if diff := cmp.Diff(text(want), text(record.Spec)); diff != "" {
		t.Errorf("%s: %s", want.Ref, diff)
	}
}

// given are parameters with that secret.
func given(token string) map[string]any {
	return map[string]any{
		"url": "u", "token": token, "note": token + "-aside", "list": []any{map[string]any{"pin": 7_310_255, "name": "n"}},
	}
}

// ruleFile is how the rule lies in its pack.
func ruleFile(token string) map[string]string {
	return map[string]string{"pack.yaml": "a", "rules/r.yaml": "token: " + token + "\nnote: " + token + "-aside\npin: 7310255\n"}
}

// dump is all that the tables hold, unpacked.
func dump(t *testing.T, s *store.Store) string {
	t.Helper()
	var b strings.Builder
	tables, err := s.Pool().Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = 'attune'::regnamespace AND relkind IN ('r', 'p')")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for tables.Next() {
		var name string
		if err := tables.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	for _, name := range names {
		b.WriteString(one[string](t, s, "SELECT COALESCE(string_agg(row::text, E'\n'), '') FROM attune."+name+" AS row"))
	}
	unpack, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unpack.Close()
	files, err := s.Pool().Query(t.Context(), "SELECT content FROM attune.file")
	if err != nil {
		t.Fatal(err)
	}
	for files.Next() {
		var content []byte
		if err := files.Scan(&content); err != nil {
			t.Fatal(err)
		}
		if plain, err := unpack.DecodeAll(content, nil); err == nil {
			content = plain
		}
		b.Write(content)
	}
	return b.String()
}

func wantHidden(t *testing.T, s *store.Store, secrets ...string) {
	t.Helper()
	all := dump(t, s)
	for _, secret := range append(secrets, "7310255") {
		if at := strings.Index(all, secret); at >= 0 {
			t.Errorf("the tables hold %s: …%s…", secret, all[max(0, at-120):min(len(all), at+60)])
		}
	}
}

// told are the trigger instances as sensors get them.
func told(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	list, err := s.TriggerInstances(t.Context(), []string{"a.t"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, i := range list {
		if i.Sealed != nil {
			t.Errorf("%s: %v", i.ID, i.Sealed)
		}
		got[strings.Join(i.Rules, " ")] = string(i.Parameters)
	}
	return got
}

func parametersOf(token string) string {
	return `{"list":[{"name":"n","pin":7310255}],"note":"` + token + `-aside","token":"` + token + `","url":"u"}`
}

func instanceOf(t *testing.T, s *store.Store, rule string) string {
	t.Helper()
	return one[string](t, s, "SELECT instance_id FROM attune.rule WHERE ref = $1", rule)
}

// What a rule gives its trigger and a schema calls secret stands nowhere in clear, sensors and rules have it as
// it is, and equal parameters make one instance.
func TestSecretParametersAreEncrypted(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.NewURL(t), withKeys(keyFile(t)))
	one1, two := rule("a", "one", "a.t", given("sesame-one")), rule("a", "two", "a.t", given("sesame-one"))
	c := change("a", secretive(t, true), one1, two, rule("a", "r", "a.t", given("sesame-other")))
	c.Revision = files(ruleFile("sesame-one"))
	apply(t, s, c)
	wantHidden(t, s, "sesame")
	want := map[string]string{"a.one a.two": parametersOf("sesame-one"), "a.r": parametersOf("sesame-other")}
	if diff := cmp.Diff(want, told(t, s)); diff != "" {
		t.Error(diff)
	}
	for _, content := range c.Revision.Tree {
		if _, err := s.FileContent(t.Context(), content.Digest); err != nil {
			t.Error(err)
		}
	}
	catalog, err := s.Catalog(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	record := catalog.Rules["a.r"]
	if got := record.Spec.(*manifest.Rule).Trigger.Parameters["token"]; got != "sesame-other" || record.Instance != instanceOf(t, s, "a.r") {
		t.Errorf("the rule has the token %v and the instance %s", got, record.Instance)
	}
	for _, wrong := range []string{"a.one", "a.two"} {
		if id, _ := secretive(t, true).Instance(wrong, given("sesame-one")); id == instanceOf(t, s, wrong) {
			t.Error("who guesses the secret can tell by the instance's id")
		}
	}
	// One secret is edited: its rule moves, and nobody else does.
	stays := instanceOf(t, s, "a.one")
	edit := change("a", rule("a", "two", "a.t", given("sesame-new")))
	edit.Revision = files(ruleFile("sesame-new"))
	generation := apply(t, s, edit)
	wantHidden(t, s, "sesame")
	want = map[string]string{"a.one": parametersOf("sesame-one"), "a.two": parametersOf("sesame-new"), "a.r": parametersOf("sesame-other")}
	if diff := cmp.Diff(want, told(t, s)); diff != "" || instanceOf(t, s, "a.one") != stays {
		t.Error(diff)
	}
	// The same once more changes nothing.
	if again := apply(t, s, edit); again != generation {
		t.Errorf("generation %d, expected %d", again, generation)
	}
}

// A schema says of a parameter only later that it is secret: what was stored goes on, encrypted.
func TestParameterBecomesSecret(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.NewURL(t), withKeys(keyFile(t)))
	c := change("b", rule("b", "r", "a.t", given("sesame")))
	c.Revision = files(ruleFile("sesame"))
	apply(t, s, change("a", secretive(t, false)), c)
	anchor := one[string](t, s, "UPDATE attune.trigger_instance SET anchor_at = now() - INTERVAL '1 day', last_due = now() RETURNING anchor_at::text || last_due")
	apply(t, s, change("a", secretive(t, true)))
	wantHidden(t, s, "sesame")
	if diff := cmp.Diff(map[string]string{"b.r": parametersOf("sesame")}, told(t, s)); diff != "" {
		t.Error(diff)
	}
	if got := one[string](t, s, "SELECT string_agg(anchor_at::text || last_due, ' ') FROM attune.trigger_instance"); got != anchor {
		t.Errorf("there is %s, expected %s", got, anchor)
	}
}

// Rows that were written before anything was encrypted.
func TestSealParametersOfBefore(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	before := storetest.Open(t, url)
	c := change("a", secretive(t, true), rule("a", "one", "a.t", given("sesame-one")), rule("a", "two", "a.t", given("sesame-one")), rule("a", "r", "a.t", nil))
	c.Revision = files(ruleFile("sesame-one"))
	apply(t, before, c)
	apply(t, before, change("a", rule("a", "two", "a.t", given("sesame-left"))))
	apply(t, before, change("a", rule("a", "two", "a.t", given("sesame-one"))))
	if all := dump(t, before); !strings.Contains(all, "sesame-one") || !strings.Contains(all, "sesame-left") {
		t.Fatal("nothing is in clear, so this test tests nothing")
	}
	anchor := one[string](t, before, `UPDATE attune.trigger_instance SET anchor_at = now() - INTERVAL '1 day', last_due = now()
		WHERE parameters ->> 'token' = 'sesame-one' RETURNING anchor_at::text || last_due`)
	plain := instanceOf(t, before, "a.r")
	s := storetest.Open(t, url, withKeys(keyFile(t)))
	for _, want := range []int{2, 0} {
		if n, err := s.SealParameters(t.Context()); err != nil || n != want {
			t.Fatalf("%d rules, expected %d: %v", n, want, err)
		}
	}
	wantHidden(t, s, "sesame")
	if diff := cmp.Diff(map[string]string{"a.one a.two": parametersOf("sesame-one"), "a.r": "{}"}, told(t, s)); diff != "" {
		t.Error(diff)
	}
	if got := one[string](t, s, "SELECT anchor_at::text || last_due FROM attune.trigger_instance WHERE id = $1", instanceOf(t, s, "a.one")); got != anchor {
		t.Errorf("anchor and last due %s, expected %s", got, anchor)
	}
	if instanceOf(t, s, "a.r") != plain {
		t.Error("a rule without secrets has another instance")
	}
}

// Keys are rotated, and instances stay what they are. A lost key costs what it has encrypted, until the folder
// is loaded again.
func TestKeysOfParameters(t *testing.T) {
	t.Parallel()
	at := filepath.Join(t.TempDir(), "keys")
	putKeys(t, at, "a")
	keys := seal.New(seal.Options{Path: at})
	url := storetest.NewURL(t)
	s := storetest.Open(t, url, withKeys(keys))
	c := change("a", secretive(t, true), rule("a", "one", "a.t", given("sesame")))
	c.Revision = files(ruleFile("sesame"))
	apply(t, s, c)
	id := instanceOf(t, s, "a.one")
	putKeys(t, at, "ba")
	for _, want := range []int{3, 0} { // a rule, an instance, a file
		if n, err := s.Reseal(t.Context(), keys.Renew); err != nil || n != want {
			t.Fatalf("%d sealed anew, expected %d: %v", n, want, err)
		}
	}
	putKeys(t, at, "b")
	apply(t, s, change("b", rule("b", "two", "a.t", given("sesame"))))
	want := map[string]string{"a.one b.two": parametersOf("sesame")}
	if diff := cmp.Diff(want, told(t, s)); diff != "" || instanceOf(t, s, "b.two") != id {
		t.Errorf("rotated: %s", diff)
	}
	if _, err := s.FileContent(t.Context(), digest([]byte(ruleFile("sesame")["rules/r.yaml"]))); err != nil {
		t.Error(err)
	}

	putKeys(t, at, "c")
	lost := storetest.Open(t, url, withKeys(seal.New(seal.Options{Path: at})))
	catalog, err := lost.Catalog(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := catalog.Rules["a.one"]; r.Sealed == nil || r.Digest != "" || !strings.Contains(r.Sealed.Error(), "not in "+at) {
		t.Errorf("digest %q, %v", r.Digest, r.Sealed)
	}
	if list, err := lost.TriggerInstances(t.Context(), nil); err != nil || list[0].Sealed == nil {
		t.Errorf("%v %v", list, err)
	}
	again := change("b", rule("b", "two", "a.t", given("sesame")))
	apply(t, lost, c, again)
	wantHidden(t, lost, "sesame")
	if diff := cmp.Diff(want, told(t, lost)); diff != "" {
		t.Errorf("loaded anew: %s", diff)
	}
	if catalog, err = lost.Catalog(t.Context(), catalog); err != nil || catalog.Rules["a.one"].Sealed != nil {
		t.Errorf("%v %v", catalog.Rules["a.one"].Sealed, err)
	}
	if _, err := lost.FileContent(t.Context(), digest([]byte(ruleFile("sesame")["rules/r.yaml"]))); err != nil {
		t.Error(err)
	}
}

// What a rule gives an action and its schema calls secret stands nowhere in clear, whichever of its actions it is,
// and whichever pack that is of. References stay to be seen.
func TestSecretsOfActionsAreEncrypted(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.NewURL(t), withKeys(keyFile(t)))
	r := handing("r", "sesame")
	both := rule("b", "both", "a.t", given("sesame-told"))
	both.Actions = handing("both", "sesame-both").Actions
	plain := rule("b", "plain", "a.plain", nil)
	plain.Actions = []manifest.Use{{Ref: "a.act", Parameters: map[string]any{"open": "plain"}}, {Ref: "a.act"}}
	c := change("b", r, both, plain)
	c.Revision = files(ruleFile("sesame"))
	apply(t, s, change("a", handy(t, true), secretive(t, true), trigger("a", "plain")), c)
	wantHidden(t, s, "sesame")
	for _, rule := range []*manifest.Rule{r, both, plain} {
		wantHanded(t, s, rule)
	}
	if row := one[string](t, s, "SELECT manifest::text FROM attune.rule WHERE ref = 'b.r'"); strings.Count(row, "seen") != 3 || !strings.Contains(row, "{{ secret.name }}") {
		t.Errorf("what is no secret is not to be seen: %s", row)
	} else if strings.Count(row, "{{ encrypted }}") != 6 {
		t.Errorf("an older daemon would run it with what stands for secrets: %s", row)
	}
	if n := one[int](t, s, "SELECT count(*)::integer FROM attune.rule WHERE action_secrets IS NOT NULL"); n != 2 {
		t.Errorf("%d rules have secrets for actions, expected 2", n)
	}
	if got := handed(t, s, "b.r").Instance; got != "" {
		t.Errorf("a rule that gives its trigger nothing secret has the instance %s", got)
	}
	// What becomes a reference does not come back, also where the pack is switched on and off.
	edited := handing("r", "{{ secret.new }}")
	edited.Actions[0].Parameters["list"], edited.Actions[2].Parameters["list"] = nil, nil
	apply(t, s, change("b", edited))
	wantHanded(t, s, edited)
	if n := one[int](t, s, "SELECT count(*)::integer FROM attune.rule WHERE ref = 'b.r' AND action_secrets IS NULL"); n != 1 {
		t.Error("secrets are left of a rule that has none")
	}
	off := change("b")
	off.Manifest.Enabled = false
	apply(t, s, off)
	wantHanded(t, s, edited)
	wantHanded(t, s, both)
	wantHidden(t, s, "sesame")
	generation := apply(t, s, change("b", edited, both))
	if again := apply(t, s, change("b", edited, both)); again != generation {
		t.Errorf("generation %d, expected %d", again, generation)
	}
}

// An action says only later that a parameter is secret: rules of other packs are encrypted with that.
func TestActionParameterBecomesSecret(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.NewURL(t), withKeys(keyFile(t)))
	r := handing("r", "sesame")
	c := change("b", r)
	c.Revision = files(ruleFile("sesame"))
	apply(t, s, change("a", handy(t, false), trigger("a", "plain")), c)
	if !strings.Contains(dump(t, s), "sesame") {
		t.Fatal("nothing is in clear, so this test tests nothing")
	}
	instance := instanceOf(t, s, "b.r")
	apply(t, s, change("a", handy(t, true)))
	wantHidden(t, s, "sesame")
	wantHanded(t, s, r)
	if got := instanceOf(t, s, "b.r"); got != instance {
		t.Errorf("the rule has the instance %s, expected %s", got, instance)
	}
	// No longer secret, it can still be read.
	apply(t, s, change("a", handy(t, false)))
	wantHanded(t, s, r)
	off := change("b")
	off.Manifest.Enabled = false
	apply(t, s, off)
	wantHanded(t, s, r)
	edited := handing("r", "open")
	apply(t, s, change("b", edited))
	wantHanded(t, s, edited)
}

// Rows of before, of rules on several triggers.
func TestSealActionsOfBefore(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	before := storetest.Open(t, url)
	other := secretive(t, true)
	other.Header = header("a", "u")
	other.ParametersSchema = handy(t, true).Parameters
	first, last := rule("b", "a", "a.t", given("sesame-first")), rule("b", "z", "a.t", given("sesame-last"))
	middle := rule("b", "m", "a.u", map[string]any{"password": "sesame-middle"})
	r, templates := handing("r", "sesame-act"), rule("b", "s", "a.plain", nil)
	templates.Actions = []manifest.Use{{Ref: "a.act", Parameters: map[string]any{"password": "{{ secret.name }}"}}}
	both := rule("b", "both", "a.t", given("sesame-both"))
	both.Actions = templates.Actions
	c := change("b", rule("b", "0", "a.t", nil), first, both, middle, r, templates, last)
	c.Revision = files(ruleFile("sesame-act"))
	apply(t, before, change("a", handy(t, true), secretive(t, true), other, trigger("a", "plain")), c)
	if all := dump(t, before); !strings.Contains(all, "sesame-act") {
		t.Fatal("nothing is in clear, so this test tests nothing")
	}
	plain := instanceOf(t, before, "b.r")
	s := storetest.Open(t, url, withKeys(keyFile(t)))
	for _, want := range []int{5, 0} {
		if n, err := s.SealParameters(t.Context()); err != nil || n != want {
			t.Fatalf("%d rules, expected %d: %v", n, want, err)
		}
	}
	wantHidden(t, s, "sesame")
	for _, rule := range []*manifest.Rule{first, both, middle, r, templates, last} {
		wantHanded(t, s, rule)
	}
	if got := instanceOf(t, s, "b.r"); got != plain {
		t.Errorf("the rule has the instance %s, expected %s", got, plain)
	}
}

// Keys are rotated for what actions are given too. A lost one is told, and nothing masked is taken for a value.
func TestKeysOfActions(t *testing.T) {
	t.Parallel()
	at := filepath.Join(t.TempDir(), "keys")
	putKeys(t, at, "a")
	keys := seal.New(seal.Options{Path: at})
	url := storetest.NewURL(t)
	s := storetest.Open(t, url, withKeys(keys))
	r, both := handing("r", "sesame"), rule("b", "both", "a.t", given("sesame"))
	both.Actions = r.Actions
	c := change("b", r, both)
	c.Revision = files(ruleFile("sesame"))
	apply(t, s, change("a", handy(t, true), secretive(t, true), trigger("a", "plain")), c)
	putKeys(t, at, "ba")
	for _, want := range []int{4, 0} { // two rules, an instance, a file
		if n, err := s.Reseal(t.Context(), keys.Renew); err != nil || n != want {
			t.Fatalf("%d sealed anew, expected %d: %v", n, want, err)
		}
	}
	putKeys(t, at, "b")
	rotated := storetest.Open(t, url, withKeys(keys))
	if n := one[int](t, rotated, "SELECT count(*)::integer FROM attune.rule WHERE trigger_secrets IS NULL"); n != 1 {
		t.Errorf("%d rules give their trigger nothing secret, expected 1", n)
	}
	wantHanded(t, rotated, r)
	wantHanded(t, rotated, both)

	putKeys(t, at, "c")
	lost := storetest.Open(t, url, withKeys(seal.New(seal.Options{Path: at})))
	record := handed(t, lost, "b.r")
	const told = "cannot read /0/parameters/password of actions of rule b.r"
	if record.SealedActions == nil || record.Digest != "" || !strings.Contains(record.SealedActions.Error(), told) || !strings.Contains(record.SealedActions.Error(), "not in "+at) {
		t.Errorf("digest %q, %v", record.Digest, record.SealedActions)
	}
	if got := record.Spec.(*manifest.Rule).Actions[0].Parameters["password"]; got != manifest.Mask {
		t.Errorf("found %v", got)
	}
	// Its action changes meanwhile: what cannot be read stays, for the key may come back.
	apply(t, lost, change("a", action("a", "act", func(a *manifest.Action) { a.Label, a.Parameters = "Edited", handy(t, true).Parameters })))
	putKeys(t, at, "b")
	wantHanded(t, storetest.Open(t, url, withKeys(seal.New(seal.Options{Path: at}))), r)
	putKeys(t, at, "c")
	apply(t, lost, c)
	wantHidden(t, lost, "sesame")
	wantHanded(t, lost, r)
	wantHanded(t, lost, both)
	// Lost again, and the rule gives nothing any more.
	putKeys(t, at, "d")
	bare := rule("b", "r", "a.plain", nil)
	bare.Actions = []manifest.Use{{Ref: "a.act"}}
	again := storetest.Open(t, url, withKeys(seal.New(seal.Options{Path: at})))
	apply(t, again, change("b", bare))
	wantHanded(t, again, bare)
}
