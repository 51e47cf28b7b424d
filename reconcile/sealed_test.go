package reconcile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// sealing is a bench with a rule that gives its trigger a secret, and the file of the keys.
func sealing(t *testing.T) (b *bench, keyFile string) {
	t.Helper()
	b, _ = remembering(t)
	keyFile = filepath.Join(t.TempDir(), "keys")
	before := b.options
	open := func() *seal.Keys {
		keys := seal.New(seal.Options{Path: keyFile, Create: true})
		b.store = storetest.Open(t, b.url, func(o *store.Options) { o.Keys = keys })
		return keys
	}
	b.options = func(o *Options) {
		before(o)
		keys := open()
		o.Store, o.Seals = b.store, keys.Usable
	}
	b.pack("one")
	b.pack("two")
	b.write("two/triggers/told.yaml", "name: told\nparameters:\n  token: {type: string, secret: true}\n")
	b.write("two/rules/secret.yaml", "name: secret\ntrigger: {ref: two.told, parameters: {token: sesame}}\naction: act\n")
	return b, keyFile
}

func token(c *store.Catalog) any {
	return c.Rules["two.secret"].Spec.(*manifest.Rule).Trigger.Parameters["token"]
}

// The folder gives back what a lost key has taken, though none of its files changed.
func TestLostKeyIsMadeUpForByTheFolder(t *testing.T) {
	t.Parallel()
	b, keyFile := sealing(t)
	b.start()
	revision := b.catalog().Packs["two"].Revision
	b.stop()
	b.do(os.Remove(keyFile))
	b.start()
	c := b.catalog()
	if r := c.Rules["two.secret"]; r.Sealed != nil || token(c) != "sesame" {
		t.Errorf("it has the token %v: %v", token(c), r.Sealed)
	}
	if c.Packs["two"].Revision != revision {
		t.Errorf("revision %d, want %d", c.Packs["two"].Revision, revision)
	}
}

// Without a key nothing secret is stored: the rule is refused at its place, and the last good one stays.
func TestSecretsWithoutAKeyAreRefused(t *testing.T) {
	t.Parallel()
	b, keyFile := sealing(t)
	b.start()
	b.do(os.WriteFile(keyFile+".new", []byte("no key\n"), 0o600))
	b.do(os.Rename(keyFile+".new", keyFile))
	b.write("two/rules/secret.yaml", "name: secret\ntrigger: {ref: two.told, parameters: {token: other}}\naction: act\n")
	b.write("two/actions/act.sh", "#!/bin/bash\necho edited\n")
	b.write("two/actions/take.yaml", "name: take\nentry_point: act.sh\nparameter_delivery: file\nparameters:\n  token: {type: string, secret: true}\n")
	b.write("two/rules/given.yaml", "name: given\ntrigger: tick\naction: {ref: take, parameters: {token: other}}\n")
	b.write("two/rules/named.yaml", "name: named\ntrigger: tick\naction: {ref: take, parameters: {token: '{{ secret.name }}'}}\n")
	b.reload()
	c := b.catalog()
	told := c.Packs["two"].Errors.Error()
	for _, want := range []string{
		`two/rules/secret.yaml:2:46: cannot keep the secret trigger.parameters.token: cannot use the key file `,
		`two/rules/given.yaml:3:41: cannot keep the secret action.parameters.token: cannot use the key file `,
		"(secrets.key_file)",
	} {
		if !strings.Contains(told, want) {
			t.Errorf("%q is not in the errors: %s", want, told)
		}
	}
	if c.Rules["two.given"] != nil || c.Rules["two.named"] == nil {
		t.Error("the rule that gives an action a secret is in force, or the one that names it is not")
	}
	if c.Rules["two.secret"].TreeDigest == c.Packs["two"].TreeDigest || c.Actions["two.act"].TreeDigest != c.Packs["two"].TreeDigest {
		t.Error("the rule moved, or its neighbour did not")
	}
}
