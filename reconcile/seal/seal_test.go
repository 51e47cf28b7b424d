package seal_test

import (
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
)

func schema(t *testing.T, text string) *manifest.Schema {
	t.Helper()
	var doc any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	s, errs := manifest.NewSchema(doc, false)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return s
}

const secretSchema = `{
	"password": {"type": "string", "secret": true}, "pin": {"type": "integer", "secret": true}, "user": {"type": "string"},
	"auth": {"type": "object", "properties": {"key": {"type": "string", "secret": true}, "name": {"type": "string"}}},
	"keys": {"type": "array", "items": {"type": "string", "secret": true}},
	"whole": {"type": "object", "secret": true, "properties": {"inner": {"type": "string", "secret": true}}}}`

// keyLine is a key that is the same at every call with the same letter.
func keyLine(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32)))
}

func keyFile(t *testing.T, mode fs.FileMode, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	putKeys(t, path, mode, lines...)
	return path
}

// putKeys replaces the file, as editors do.
func putKeys(t *testing.T, path string, mode fs.FileMode, lines ...string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path+".new", mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// What is no parameter is sealed for its owner and place alone.
func TestSealForAnOwner(t *testing.T) {
	t.Parallel()
	keys := seal.New(seal.Options{Path: keyFile(t, 0o600, keyLine("a"))})
	sealed, err := keys.Seal("trigger p.t", "webhook_token", "attw_x")
	if err != nil || !seal.IsSealed(sealed) || strings.Contains(sealed, "attw_x") {
		t.Fatalf("sealed as %q: %v", sealed, err)
	}
	if value, err := keys.Open("trigger p.t", "webhook_token", sealed); err != nil || value != "attw_x" {
		t.Errorf("opened as %v: %v", value, err)
	}
	for _, other := range [][2]string{{"trigger p.u", "webhook_token"}, {"trigger p.t", "other"}, {"p.t", "webhook_token"}} {
		if value, err := keys.Open(other[0], other[1], sealed); err == nil {
			t.Errorf("%v opened it: %v", other, value)
		}
	}
	if _, err := seal.New(seal.Options{Path: "/nowhere/keys"}).Seal("trigger p.t", "webhook_token", "x"); err == nil || !strings.Contains(err.Error(), "cannot encrypt webhook_token of trigger p.t") {
		t.Errorf("without a key: %v", err)
	}
}

func TestHideAndOpen(t *testing.T) {
	t.Parallel()
	keys := seal.New(seal.Options{Path: keyFile(t, 0o600, "# ours", "", keyLine("a"))})
	given := map[string]any{
		"password": "p4ssw0rd", "pin": json.Number("12345678901234567890"), "user": "joe", "auth": map[string]any{"key": "k-e-y", "name": "n"},
		"keys": []any{"one", nil, "three"}, "whole": map[string]any{"inner": "i", "other": true},
	}
	before, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	hidden, secrets, err := keys.Hide("p.a", schema(t, secretSchema), given, map[string]string{"/token": "name", "/keys/2": "third"})
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := json.Marshal(given); string(after) != string(before) {
		t.Errorf("the argument was changed to %s", after)
	}
	want := map[string]any{
		"password": "***", "pin": "***", "user": "joe", "auth": map[string]any{"key": "***", "name": "n"},
		"keys": []any{"***", nil, "three"}, "whole": "***",
	}
	if diff := cmp.Diff(want, hidden); diff != "" {
		t.Errorf("hidden (-want +got):\n%s", diff)
	}
	values := map[string]any{
		"/password": "p4ssw0rd", "/pin": json.Number("12345678901234567890"), "/auth/key": "k-e-y", "/keys/0": "one",
		"/whole": map[string]any{"inner": "i", "other": true},
	}
	if secrets["/token"] != "name" || secrets["/keys/2"] != "third" || len(secrets) != len(values)+2 {
		t.Errorf("secrets %v", secrets)
	}
	for pointer, value := range values {
		got, err := keys.Open("p.a", pointer, secrets[pointer])
		if err != nil || !cmp.Equal(got, value) {
			t.Errorf("%s: %v, %v", pointer, got, err)
		}
		if !seal.IsSealed(secrets[pointer]) {
			t.Errorf("%s is not sealed", pointer)
		}
	}
	for name, err := range map[string]error{
		"another action": second(keys.Open("p.b", "/password", secrets["/password"])),
		"another place":  second(keys.Open("p.a", "/user", secrets["/password"])),
		"changed":        second(keys.Open("p.a", "/password", secrets["/password"][:len(secrets["/password"])-4]+"AAAA")),
		"cut":            second(keys.Open("p.a", "/password", secrets["/password"][:20])),
		"a name":         second(keys.Open("p.a", "/password", "name")),
	} {
		if err == nil || strings.Contains(err.Error(), "p4ssw0rd") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ any, err error) error { return err }

func TestHideNeedsNoKeyWithoutSecrets(t *testing.T) {
	t.Parallel()
	keys := seal.New(seal.Options{Path: "/nowhere/keys"})
	given, named := map[string]any{"user": "joe"}, map[string]string{"/password": "name"}
	for _, s := range []*manifest.Schema{nil, schema(t, `{"user": {}}`), schema(t, secretSchema)} {
		hidden, secrets, err := keys.Hide("p.a", s, given, named)
		if err != nil || !cmp.Equal(hidden, given) || !maps.Equal(secrets, named) {
			t.Errorf("%v, %v, %v", hidden, secrets, err)
		}
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "attune.key")
	s := schema(t, secretSchema)
	// Each has its own Keys, as several daemons have.
	sealed := make([]string, 20)
	var all sync.WaitGroup
	for i := range sealed {
		all.Go(func() {
			_, secrets, err := seal.New(seal.Options{Path: path, Create: true}).Hide("p.a", s, map[string]any{"password": "x"}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			sealed[i] = secrets["/password"]
		})
	}
	all.Wait()
	keys := seal.New(seal.Options{Path: path, Create: true})
	for _, text := range sealed {
		if value, err := keys.Open("p.a", "/password", text); err != nil || value != "x" {
			t.Errorf("%v, %v", value, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".attune.key-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	path := keyFile(t, 0o600, keyLine("a"))
	keys := seal.New(seal.Options{Path: path})
	s := schema(t, secretSchema)
	_, old, err := keys.Hide("p.a", s, map[string]any{"password": "x"}, map[string]string{"/user": "name"})
	if err != nil {
		t.Fatal(err)
	}
	if first, others, err := keys.Rotating(); first == "" || others || err != nil {
		t.Errorf("one key: %s, %v, %v", first, others, err)
	}

	putKeys(t, path, 0o600, keyLine("b"), keyLine("a"))
	first, others, err := keys.Rotating()
	if err != nil || !others || strings.HasPrefix(old["/password"], "sealed:"+first) {
		t.Errorf("two keys: %s, %v, %v", first, others, err)
	}
	if value, err := keys.Open("p.a", "/password", old["/password"]); err != nil || value != "x" {
		t.Errorf("with the old key: %v, %v", value, err)
	}
	renewed, changed, err := keys.Renew("p.a", old)
	if err != nil || !changed || renewed["/user"] != "name" || !strings.HasPrefix(renewed["/password"], "sealed:"+first+":") {
		t.Errorf("renewed: %v, %v, %v", renewed, changed, err)
	}
	if again, changed, err := keys.Renew("p.a", renewed); err != nil || changed || !maps.Equal(again, renewed) {
		t.Errorf("renewed twice: %v, %v, %v", again, changed, err)
	}

	putKeys(t, path, 0o600, keyLine("b"))
	if value, err := keys.Open("p.a", "/password", renewed["/password"]); err != nil || value != "x" {
		t.Errorf("with the new key: %v, %v", value, err)
	}
	if _, err := keys.Open("p.a", "/password", old["/password"]); err == nil || !strings.Contains(err.Error(), "is not in "+path) {
		t.Errorf("without the old key: %v", err)
	}
	if left, changed, err := keys.Renew("p.a", old); err != nil || changed || !maps.Equal(left, old) {
		t.Errorf("what cannot be opened: %v, %v, %v", left, changed, err)
	}
}

func TestKeyFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		path, want string
		guarded    bool
	}{
		"good":      {path: keyFile(t, 0o600, keyLine("a"))},
		"group":     {path: keyFile(t, 0o640, keyLine("a"))},
		"open":      {path: keyFile(t, 0o644, keyLine("a")), want: "others may read it (mode 0644); chmod 0600 it"},
		"guarded":   {path: keyFile(t, 0o444, keyLine("a")), guarded: true},
		"empty":     {path: keyFile(t, 0o600, "# nothing"), want: "there is no key in it"},
		"short":     {path: keyFile(t, 0o600, keyLine("a"), "c2hvcnQ="), want: "line 2: expected a key of 32 bytes"},
		"no base64": {path: keyFile(t, 0o600, "hunter2 hunter2"), want: "line 1: expected a key of 32 bytes"},
		"missing":   {path: "/nowhere/keys", want: "cannot read the key file"},
		"folder":    {path: t.TempDir(), want: "it is no regular file"},
	}
	for name, test := range tests {
		_, _, err := seal.New(seal.Options{Path: test.path, Guarded: test.guarded}).Hide("p.a", schema(t, secretSchema), map[string]any{"password": "x"}, nil)
		if (test.want == "") != (err == nil) || err != nil && (!strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	// Nothing was sealed with a key that is not made yet.
	if _, others, err := seal.New(seal.Options{Path: "/nowhere/keys", Create: true}).Rotating(); others || err != nil {
		t.Errorf("a key that is not made yet: %v, %v", others, err)
	}
	if _, _, err := seal.New(seal.Options{Path: "/nowhere/keys"}).Rotating(); err == nil {
		t.Error("a key file that should be there is not missed")
	}
}
