package manifest

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// verifiers are the types of verify, and what each may say beside its type.
var verifiers = map[string]struct{ secret, signature, time bool }{
	VerifyGitHub:   {secret: true},
	VerifyGitLab:   {secret: true},
	VerifyStripe:   {secret: true, time: true},
	VerifySlack:    {secret: true, time: true},
	VerifyStandard: {secret: true, time: true},
	VerifyHMAC:     {secret: true, signature: true},
	VerifyToken:    {},
	VerifyNone:     {},
}

// secretReference is what stands for a secret in a manifest.
var secretReference = regexp.MustCompile(`^\s*\{\{\s*(secret|pack\.config)\s*(\.\s*[A-Za-z_][A-Za-z0-9_.]*|\[\s*("[^"]+"|'[^']+')\s*\])\s*\}\}\s*$`)

// Reference tells what Secret stands for: the name of a secret, or else the keys that lead to a value in
// the pack's configuration.
func (v *Verify) Reference() (secret string, config []string) {
	m := secretReference.FindStringSubmatch(v.Secret)
	if m == nil {
		return "", nil
	}
	path := strings.Trim(m[3], `"'`)
	dotted := path == ""
	if dotted {
		path = strings.TrimSpace(strings.TrimPrefix(m[2], "."))
	}
	switch {
	case m[1] == "secret":
		return path, nil
	case dotted:
		return "", strings.Split(path, ".")
	default:
		return "", []string{path}
	}
}

// verify reads how a webhook's sender is checked: a mapping, or one word, which is its type.
func (o *mapping) verify(triggerType string) *Verify {
	e := o.get("verify")
	if e == nil {
		return nil
	}
	if triggerType != TriggerWebhook {
		o.d.warn(e.place, "remove it, or write type: webhook", "cannot use verify: only a webhook is verified")
	}
	if word, ok := e.scalar.(string); ok {
		return o.verifyWord(e, word)
	}
	if e.kind != mappingValue {
		o.d.mismatch(e, "a mapping, token or none", "")
		return nil
	}
	c := o.d.mapping(e.value, e.pointer, verifyKeys)
	v := &Verify{
		Type: c.choice("type"), Secret: c.secretReference("secret"), Header: c.str("header"), Prefix: c.str("prefix"),
		Encoding: c.choice("encoding"), Tolerance: c.duration("tolerance"), DeliveryID: c.str("delivery_id"),
	}
	c.needs("verify", "type", VerifyGitHub)
	if v.Type != "" {
		c.checkVerify(v)
		o.warnUnverified(e, v.Type)
	}
	c.finish()
	return v
}

// verifyWord reads a type that needs nothing beside it.
func (o *mapping) verifyWord(e *entry, word string) *Verify {
	kind, known := verifiers[word]
	switch {
	case !known:
		names := slices.Sorted(maps.Keys(verifiers))
		o.d.mismatch(e, orList(names), didYouMean(word, names))
	case kind.secret:
		o.d.fail(e.place, "write {type: "+word+`, secret: "{{ secret.my_hook }}"}`, "cannot use verify: %s needs a secret", word)
	default:
		o.warnUnverified(e, word)
		return &Verify{Type: word}
	}
	return nil
}

// warnUnverified warns of a webhook that everybody may fire.
func (o *mapping) warnUnverified(e *entry, word string) {
	if word == VerifyNone {
		o.d.warn(e.place, "write verify: token, or check the sender's signature",
			"cannot tell who fires this webhook: with verify none, everybody who reaches it may")
	}
}

func (o *mapping) checkVerify(v *Verify) {
	kind := verifiers[v.Type]
	switch {
	case kind.secret && !o.has("secret"):
		o.d.fail(o.v.place, `add secret: "{{ secret.my_hook }}"`, "cannot use verify: %s needs a secret", v.Type)
	case kind.signature && !o.has("header"):
		o.d.fail(o.v.place, "add header: X-Signature", "cannot use verify: it does not say which header has the signature")
	}
	unused := func(used bool, keys ...string) {
		for _, key := range keys {
			if o.has(key) && !used {
				o.d.fail(o.place(key), "remove it", "cannot use verify.%s with type %s", key, v.Type)
			}
		}
	}
	unused(kind.secret, "secret")
	unused(kind.signature, "header", "prefix", "encoding")
	unused(kind.time, "tolerance")
}

// secretReference reads a reference to a secret. A secret itself is refused, and in no message.
func (o *mapping) secretReference(key string) string {
	e := o.get(key)
	if e == nil {
		return ""
	}
	text, ok := e.scalar.(string)
	if !ok || !secretReference.MatchString(text) {
		o.d.fail(e.place, `write "{{ secret.name }}", and put the secret into the folder of secrets`,
			"cannot use %s: found a literal value, expected a reference: whoever reads the pack would read the secret", e.path)
		return ""
	}
	return text
}
