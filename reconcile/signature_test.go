package reconcile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// signer is a key in a file, and what trusts it.
func signer(t testing.TB, mode string) (SigningKey, Trust) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	key, err := NewSigningKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadSigningKey(path)
	if err != nil || !again.key.Equal(key.key) {
		t.Fatalf("the key was read back as another: %v", err)
	}
	public, err := ParsePublicKey(key.Public().Encoded() + " ada")
	if err != nil || public.String() != "ada" {
		t.Fatalf("public key %v: %v", public, err)
	}
	return key, Trust{Signatures: mode, Keys: []PublicKey{public}}
}

// TestSignature: each way in which a pack is not what was signed is found, and named.
func TestSignature(t *testing.T) {
	t.Parallel()
	key, trust := signer(t, SignaturesEnforce)
	other, _ := signer(t, SignaturesEnforce)
	edit := func(f *testTree, change func(s map[string]any)) {
		data, err := os.ReadFile(f.path("p/pack.sig"))
		f.do(err)
		var s map[string]any
		f.do(json.Unmarshal(data, &s))
		change(s)
		data, err = json.Marshal(s)
		f.do(err)
		f.write("p/pack.sig", string(data))
	}
	for _, test := range []struct {
		name string
		make func(f *testTree)
		want string // empty: it is good
	}{
		{"good", func(*testTree) {}, ""},
		{"touched", func(f *testTree) { f.do(os.Chmod(f.path("p/pack.yaml"), 0o600)) }, ""},
		{"ignored files", func(f *testTree) { f.write("p/.git/config", "x"); f.write("p/actions/act.sh~", "x") }, ""},
		{"none", func(f *testTree) { f.remove("p/pack.sig") }, "it has no signature"},
		{"edited", func(f *testTree) { f.write("p/actions/act.sh", "evil\n") }, "it was changed since it was signed: actions/act.sh differs"},
		{"x bit", func(f *testTree) { f.do(os.Chmod(f.path("p/actions/act.sh"), 0o644)) }, "actions/act.sh has another x bit"},
		{"added", func(f *testTree) { f.write("p/actions/evil.sh", "evil\n") }, "actions/evil.sh is new"},
		{"removed", func(f *testTree) { f.remove("p/rules/rule.yaml") }, "rules/rule.yaml is gone"},
		{"link", func(f *testTree) { f.do(os.Symlink("act.sh", f.path("p/actions/other.sh"))) }, "actions/other.sh is new"},
		{"many", func(f *testTree) {
			for _, name := range []string{"a", "b", "c", "d", "e"} {
				f.write("p/lib/"+name, name)
			}
		}, "lib/a is new, lib/b is new, lib/c is new and 2 more"},
		{"list changed with the file", func(f *testTree) {
			f.write("p/actions/act.sh", "evil\n")
			edit(f, func(s map[string]any) {
				s["files"].(map[string]any)["actions/act.sh"] = "executable " + digestOf([]byte("evil\n"))
			})
		}, "its signature is broken: pack.sig was changed"},
		{
			"signed by somebody else", func(f *testTree) { _, err := Sign(f.path("p"), other); f.do(err) },
			"it is signed with a key that packs.keys does not have, " + other.Public().Encoded(),
		},
		{"another's key named", func(f *testTree) {
			_, err := Sign(f.path("p"), other)
			f.do(err)
			edit(f, func(s map[string]any) { s["key"] = key.Public().Encoded() })
		}, "its signature is broken: pack.sig was changed"},
		{"of another pack", func(f *testTree) {
			f.pack("q")
			_, err := Sign(f.path("q"), key)
			f.do(err)
			f.rename("q/pack.sig", "p/pack.sig")
		}, "its signature is that of pack q"},
		{"of a pack with the same files", func(f *testTree) {
			for _, ref := range []string{"p", "q"} {
				f.remove(ref)
				f.write(ref+"/pack.yaml", "label: any\nversion: 1.0.0\n")
			}
			_, err := Sign(f.path("q"), key)
			f.do(err)
			f.rename("q/pack.sig", "p/pack.sig")
		}, "its signature is that of pack q"},
		{"another pack's as a whole", func(f *testTree) { // as if somebody renamed a signed pack
			edit(f, func(s map[string]any) { s["pack"] = "q" })
		}, ""}, // what names the pack is only told, what was signed is the folder's ref
		{"cut", func(f *testTree) { f.write("p/pack.sig", "{") }, "pack.sig cannot be read: unexpected end of JSON input"},
		{"other form", func(f *testTree) { edit(f, func(s map[string]any) { s["format"] = "attune pack signature 2" }) }, `it is in the form "attune pack signature 2"`},
		{"a link", func(f *testTree) { f.rename("p/pack.sig", "p/sig"); f.do(os.Symlink("sig", f.path("p/pack.sig"))) }, "it is no file of a sensible size"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newTree(t)
			f.pack("p")
			if _, err := Sign(f.path("p"), key); err != nil {
				t.Fatal(err)
			}
			test.make(f)
			_, by, err := trust.Verify(f.path("p"))
			switch {
			case test.want == "" && (err != nil || by.Name != "ada"):
				t.Errorf("found %v, by %q", err, by)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("found %v, want %q", err, test.want)
			}
			// The daemon says the same, in each mode.
			for mode, severity := range map[string]manifest.Severity{SignaturesOff: "", SignaturesWarn: manifest.SeverityWarning, SignaturesEnforce: manifest.SeverityError} {
				asked := trust
				asked.Signatures = mode
				v := look(t, newScanner(uncovered{}, 0), f, "p")
				b, err := v.folder.bundle(v.content)
				f.do(err)
				f.do(asked.judge(v.folder, v.content, b))
				wanted := test.want != "" && mode != SignaturesOff
				if isSigned("p", b.Errors) == wanted || (b.Pack == nil) != (wanted && mode == SignaturesEnforce) {
					t.Errorf("mode %s: %s, pack %v", mode, errorTexts(b.Errors), b.Pack)
				}
				for _, e := range b.Errors {
					if e.File == "p/pack.sig" && e.Severity != severity {
						t.Errorf("mode %s: severity %v", mode, e.Severity)
					}
				}
			}
		})
	}
}

func TestSigningKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if _, err := NewSigningKey(path); err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigningKey(path); err == nil {
		t.Error("a key was written over another")
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSigningKey(path); err == nil || !strings.Contains(err.Error(), "others may read it (mode 0640, expected 0600 or 0400); chmod 600 "+path) {
		t.Errorf("a key that others may read: %v", err)
	}
	for name, text := range map[string]string{
		"no key": "hello", "half a key": "MCowBQYDK2VwAyEA",
		"an X25519 key": "MCowBQYDK2VuAyEAR5Pz3bHSLKrHcQb0wJEZ0oEkB4jD0bVJ0pJ3TzmyyhU=",
	} {
		if _, err := ParsePublicKey(text); err == nil || !strings.Contains(err.Error(), "expected an Ed25519 public key") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnsignedDependency: a pack that needs one without a signature is told so, and where to sign.
func TestUnsignedDependency(t *testing.T) {
	t.Parallel()
	f := newTree(t)
	f.pack("base")
	f.pack("top")
	f.write("base/triggers/beat.yaml", "name: beat\n")
	f.write("top/rules/beat.yaml", "name: beat\ntrigger: {ref: base.beat}\naction: {ref: top.act}\n")
	key, trust := signer(t, SignaturesEnforce)
	_, err := Sign(f.path("top"), key)
	f.do(err)
	report, err := Lint([]string{f.dir}, LintOptions{Trust: trust})
	f.do(err)
	have := errorTexts(report.Errors)
	for _, want := range []string{
		"sign it with `attune pack sign --key FILE " + f.path("base") + "`",
		`cannot find trigger "base.beat"; pack "base" is refused itself; correct that pack first`,
	} {
		if !strings.Contains(have, want) {
			t.Errorf("not found: %s\n%s", want, have)
		}
	}
}

// TestSignedPacks has a daemon that enforces: what is not signed does not come into force, what was in force stays,
// and what was signed once can be gone back to.
func TestSignedPacks(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key, trust := signer(t, SignaturesEnforce)
	b.options = func(o *Options) { o.Trust = trust }
	sign := func() {
		t.Helper()
		_, err := Sign(b.path("one"), key)
		b.do(err)
	}
	// A pass tells Prometheus after it has committed what the catalog shows.
	counted := func(signed, unsigned float64) {
		t.Helper()
		awaitCondition(t, "the metric", func() bool {
			return b.metric("attune_pack_signatures", "signed") == signed && b.metric("attune_pack_signatures", "unsigned") == unsigned
		}, b.log.String)
	}
	b.pack("one")
	b.start()
	if p := b.catalog().Packs["one"]; p != nil && p.Enabled {
		t.Fatal("a pack without a signature came into force")
	}
	counted(0, 1)
	sign()
	b.await("the signed pack", func(c *store.Catalog) bool { return c.Packs["one"].Enabled })
	first := b.catalog().Packs["one"]
	counted(1, 0)
	b.write("one/actions/act.sh", "echo two\n")
	b.await("the refusal", func(c *store.Catalog) bool { return c.Packs["one"].Errors.HasErrors() })
	p := b.catalog().Packs["one"]
	if !p.Enabled || p.TreeDigest != first.TreeDigest {
		t.Error("the last good version did not stay")
	}
	if text := errorTexts(p.Errors); !strings.Contains(text, "one/pack.sig: cannot trust the pack: it was changed since it was signed: actions/act.sh differs; what is in force stays; sign it with") {
		t.Errorf("found %s", text)
	}
	sign()
	b.await("the second", func(c *store.Catalog) bool { return c.Packs["one"].TreeDigest != first.TreeDigest })
	// A start that remembers the packs knows without reading them that they are signed.
	b.stop()
	b.start()
	counted(1, 0)
	if _, err := b.Rollback(t.Context(), "one", first.Revision, "ada", ""); err != nil {
		t.Fatal(err)
	}
	if now := b.catalog().Packs["one"]; now.TreeDigest != first.TreeDigest {
		t.Error("what was signed once was not gone back to")
	}
}

// TestEnforcedLater: what an earlier process found good without asking for signatures is asked for them.
func TestEnforcedLater(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, trust := signer(t, SignaturesOff)
	memory := filepath.Join(t.TempDir(), "memory")
	b.options = func(o *Options) { o.Trust, o.Memory = trust, memory }
	b.pack("one")
	b.start()
	b.stop()
	trust.Signatures = SignaturesEnforce
	b.start()
	if p := b.catalog().Packs["one"]; !p.Errors.HasErrors() || !p.Enabled {
		t.Errorf("in force: %v, %s", p.Enabled, errorTexts(p.Errors))
	}
}

// TestRollbackToUnsigned is refused where signatures are enforced.
func TestRollbackToUnsigned(t *testing.T) {
	t.Parallel()
	b := setup(t)
	key, trust := signer(t, SignaturesOff)
	b.options = func(o *Options) { o.Trust = trust }
	b.pack("one")
	b.start()
	first := b.catalog().Packs["one"]
	b.stop()
	_, err := Sign(b.path("one"), key)
	b.do(err)
	trust.Signatures = SignaturesEnforce
	b.start()
	b.await("the signed pack", func(c *store.Catalog) bool { return c.Packs["one"].TreeDigest != first.TreeDigest })
	if _, err := b.Rollback(t.Context(), "one", first.Revision, "ada", ""); err == nil {
		t.Error("an unsigned revision came into force")
	}
}

// What is signed begins with what it is: a signature that a key has made of anything else is none of a pack.
func TestSignedTextSaysWhatItIs(t *testing.T) {
	t.Parallel()
	if text := string(signedText("p", nil)); !strings.Contains(text, "attune pack signature 1") {
		t.Errorf("signed is %q", text)
	}
}
