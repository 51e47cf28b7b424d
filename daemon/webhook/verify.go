package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

// The reasons for which a request is not believed, as the metric's label says them.
const (
	reasonUnknown   = "unknown"   // no such trigger, or it is no webhook in force
	reasonMissing   = "missing"   // nothing proves who sent it
	reasonSignature = "signature" // the proof is wrong
	reasonStale     = "stale"     // it is right, and of another time
	reasonSecret    = "secret"    // there is no secret to check it with
)

// defaultTolerance is how old, or how far ahead, a signed time may be: what providers ask for.
const defaultTolerance = 5 * time.Minute

// standardPrefix begins the secrets of the Standard Webhooks, and what follows is base64.
const standardPrefix = "whsec_"

// proof is what a request brings to be believed.
type proof struct {
	message    []byte // what was signed
	signatures [][]byte
	// at is the signed time; zero: none is signed.
	at time.Time
	// plain says that the signature is the secret itself.
	plain bool
}

// check says whether a request is believed: by its signature over the body, made with one of the secrets,
// at a time that is not far from now. id tells a repeated delivery from a new one, "" where nothing does;
// reason is empty for who is believed. It must not be asked about VerifyToken and VerifyNone.
func check(spec *manifest.Verify, secrets []string, header http.Header, body []byte, now time.Time) (id, reason string) {
	if len(secrets) == 0 {
		return "", reasonSecret
	}
	standard := spec.Type == manifest.VerifyStandard
	if spec.Type == manifest.VerifyGitLab {
		// A signing token is GitLab's newer way; its older one sends the secret as it is.
		standard = strings.HasPrefix(secrets[0], standardPrefix)
	}
	p := prove(spec, standard, header, body)
	if p == nil {
		return "", reasonMissing
	}
	// Every secret and signature is looked at, so that the time does not tell which one is near.
	matches := 0
	for _, secret := range secrets {
		want := []byte(secret)
		if !p.plain {
			mac := hmac.New(sha256.New, key(secret, standard))
			mac.Write(p.message)
			want = mac.Sum(nil)
		}
		for _, have := range p.signatures {
			matches |= sameBytes(have, want)
		}
	}
	if matches != 1 {
		return "", reasonSignature
	}
	tolerance := time.Duration(spec.Tolerance)
	if tolerance == 0 {
		tolerance = defaultTolerance
	}
	if !p.at.IsZero() && now.Sub(p.at).Abs() > tolerance {
		return "", reasonStale
	}
	if id = deliveryID(spec, header, body); id == "" && !p.at.IsZero() {
		// What is sent again within the tolerance is the same to the byte, its time included.
		sum := sha256.Sum256(p.message)
		id = "sha256:" + hex.EncodeToString(sum[:])
	}
	return id, ""
}

// sameBytes is 1 where both are equal, in a time that depends on neither.
func sameBytes(a, b []byte) int {
	x, y := sha256.Sum256(a), sha256.Sum256(b)
	return subtle.ConstantTimeCompare(x[:], y[:])
}

// key is the secret as the signature is made with it.
func key(secret string, standard bool) []byte {
	if !standard {
		return []byte(secret)
	}
	text := strings.TrimPrefix(secret, standardPrefix)
	if decoded, err := base64.StdEncoding.DecodeString(text); err == nil && len(decoded) > 0 {
		return decoded
	}
	return []byte(text)
}

// prove reads what the sender brings; nil: nothing that can be checked.
func prove(spec *manifest.Verify, standard bool, header http.Header, body []byte) *proof {
	switch {
	case standard:
		return proveStandard(header, body)
	case spec.Type == manifest.VerifyGitHub:
		return proveOne(header.Get("X-Hub-Signature-256"), "sha256=", "", body)
	case spec.Type == manifest.VerifyGitLab:
		token := header.Get("X-Gitlab-Token")
		if token == "" {
			return nil
		}
		return &proof{signatures: [][]byte{[]byte(token)}, plain: true}
	case spec.Type == manifest.VerifyStripe:
		return proveStripe(header.Get("Stripe-Signature"), body)
	case spec.Type == manifest.VerifySlack:
		text := header.Get("X-Slack-Request-Timestamp")
		at, ok := unixTime(text)
		p := proveOne(header.Get("X-Slack-Signature"), "v0=", "", join("v0:"+text+":", body))
		if p == nil || !ok {
			return nil
		}
		p.at = at
		return p
	case spec.Type == manifest.VerifyHMAC:
		return proveOne(header.Get(spec.Header), spec.Prefix, spec.Encoding, body)
	}
	return nil
}

// proveOne reads a single signature of message, behind a prefix.
func proveOne(text, prefix, encoding string, message []byte) *proof {
	text, ok := strings.CutPrefix(strings.TrimSpace(text), prefix)
	if !ok {
		return nil
	}
	var signature []byte
	var err error
	if encoding == "base64" {
		signature, err = base64.StdEncoding.DecodeString(text)
	} else {
		signature, err = hex.DecodeString(text)
	}
	if err != nil || len(signature) == 0 {
		return nil
	}
	return &proof{message: message, signatures: [][]byte{signature}}
}

// maxSignatures bounds the list that a header may hold: providers send two while a secret is rotated.
const maxSignatures = 8

// proveStripe reads "t=1492774577,v1=5257a8…,v1=…".
func proveStripe(text string, body []byte) *proof {
	p := &proof{}
	stamp := ""
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			if stamp != "" {
				return nil
			}
			stamp = value
		case "v1":
			if signature, err := hex.DecodeString(value); err == nil && len(p.signatures) < maxSignatures {
				p.signatures = append(p.signatures, signature)
			}
		}
	}
	at, ok := unixTime(stamp)
	if !ok || len(p.signatures) == 0 {
		return nil
	}
	p.at, p.message = at, join(stamp+".", body)
	return p
}

// proveStandard reads the three headers of the Standard Webhooks, or those of Svix, where they come from.
func proveStandard(header http.Header, body []byte) *proof {
	for _, family := range []string{"Webhook-", "Svix-"} {
		id, stamp := header.Get(family+"Id"), header.Get(family+"Timestamp")
		at, ok := unixTime(stamp)
		if id == "" || !ok {
			continue
		}
		p := &proof{message: join(id+"."+stamp+".", body), at: at}
		for one := range strings.FieldsSeq(header.Get(family + "Signature")) {
			// v1a is a signature of another kind, for which a shared secret is no key.
			text, ok := strings.CutPrefix(one, "v1,")
			signature, err := base64.StdEncoding.DecodeString(text)
			if ok && err == nil && len(p.signatures) < maxSignatures {
				p.signatures = append(p.signatures, signature)
			}
		}
		if len(p.signatures) > 0 {
			return p
		}
	}
	return nil
}

// unixTime reads seconds since 1970.
func unixTime(text string) (time.Time, bool) {
	const latest = 1 << 40 // seconds; far beyond it a time has no room
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil || seconds <= 0 || seconds > latest {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0), true
}

func join(text string, body []byte) []byte {
	return append([]byte(text), body...)
}

// deliveryID is what the sender calls this delivery, the same when it comes again.
func deliveryID(spec *manifest.Verify, header http.Header, body []byte) string {
	kind := manifest.VerifyToken
	if spec != nil {
		kind = spec.Type
		if spec.DeliveryID != "" {
			return header.Get(spec.DeliveryID)
		}
	}
	switch kind {
	case manifest.VerifyGitHub:
		return header.Get("X-Github-Delivery")
	case manifest.VerifyStandard:
		return first(header.Get("Webhook-Id"), header.Get("Svix-Id"))
	case manifest.VerifyGitLab:
		return first(header.Get("Webhook-Id"), header.Get("Idempotency-Key"))
	case manifest.VerifyStripe:
		return field(body, "id")
	case manifest.VerifySlack:
		return field(body, "event_id")
	default:
		return header.Get("Idempotency-Key")
	}
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// field reads a text out of a JSON object.
func field(body []byte, name string) string {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil {
		return ""
	}
	var text string
	if json.Unmarshal(object[name], &text) != nil {
		return ""
	}
	return text
}
