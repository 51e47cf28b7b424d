package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

// signed is a request with the proof of its sender.
type signed struct {
	name   string
	spec   *manifest.Verify
	secret string
	header http.Header
	body   string
	at     time.Time // the signed time; zero: none
	id     string
}

// vectors are what providers publish for those who write receivers. Where one publishes a method and no
// values (GitLab, Stripe), OpenSSL has computed them.
func vectors() []signed {
	return []signed{
		{
			name: "github", spec: &manifest.Verify{Type: manifest.VerifyGitHub}, secret: "It's a Secret to Everybody", body: "Hello, World!",
			header: http.Header{
				"X-Hub-Signature-256": {"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
				"X-Github-Delivery":   {"72d3162e-cc78-11e3-81ab-4c9367dc0958"},
			},
			id: "72d3162e-cc78-11e3-81ab-4c9367dc0958",
		},
		{
			name: "slack", spec: &manifest.Verify{Type: manifest.VerifySlack}, secret: "8f742231b10e8888abcd99yyyzzz85a5",
			body: "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar" +
				"&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=" +
				"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN" +
				"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
			header: http.Header{
				"X-Slack-Signature":         {"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"},
				"X-Slack-Request-Timestamp": {"1531420618"},
			},
			at: time.Unix(1531420618, 0), id: "sha256:825d85f1380c13692f843f77083a8bbf4bc9df455f355b153a64590c7cc195e1",
		},
		{
			name: "standard", spec: &manifest.Verify{Type: manifest.VerifyStandard}, secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
			body: `{"test": 2432232314}`,
			header: http.Header{
				"Webhook-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Webhook-Timestamp": {"1614265330"},
				"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
			},
			at: time.Unix(1614265330, 0), id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
		},
		{
			name: "svix", spec: &manifest.Verify{Type: manifest.VerifyStandard}, secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
			body: `{"test": 2432232314}`,
			header: http.Header{
				"Svix-Id": {"msg_p5jXN8AQM9LWM0D4loKWxJek"}, "Svix-Timestamp": {"1614265330"},
				"Svix-Signature": {"v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="},
			},
			at: time.Unix(1614265330, 0), id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
		},
		{
			name: "stripe", spec: &manifest.Verify{Type: manifest.VerifyStripe}, secret: "whsec_test_secret", body: `{"id":"evt_test_webhook","object":"event"}`,
			header: http.Header{"Stripe-Signature": {"t=1492774577,v1=88a022085c6bdb887b02cb26ff76dd681234d9675c0f22844059f55552a8883a,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"}},
			at:     time.Unix(1492774577, 0), id: "evt_test_webhook",
		},
		{
			name: "gitlab token", spec: &manifest.Verify{Type: manifest.VerifyGitLab}, secret: "a-token-of-gitlab", body: `{"object_kind":"push"}`,
			header: http.Header{"X-Gitlab-Token": {"a-token-of-gitlab"}, "Idempotency-Key": {"f5e5f430-f57b-4e6e-9fac-d9128cd7232f"}},
			id:     "f5e5f430-f57b-4e6e-9fac-d9128cd7232f",
		},
		{
			name: "gitlab signing token", spec: &manifest.Verify{Type: manifest.VerifyGitLab}, secret: "whsec_dGVzdHRlc3R0ZXN0dGVzdHRlc3R0ZXN0dGVzdHRlc3Q=", body: `{"object_kind":"push"}`,
			header: http.Header{
				"Webhook-Id": {"f5e5f430-f57b-4e6e-9fac-d9128cd7232f"}, "Webhook-Timestamp": {"1774000000"}, "Webhook-Signature": {"v1,6wZetsWcE5EN6IJgS39ti1RM4yqnhQhc84vPyUMFDoE="},
				"Idempotency-Key": {"f5e5f430-f57b-4e6e-9fac-d9128cd7232f"},
			},
			at: time.Unix(1774000000, 0), id: "f5e5f430-f57b-4e6e-9fac-d9128cd7232f",
		},
		{
			name: "hmac hex", spec: &manifest.Verify{Type: manifest.VerifyHMAC, Header: "X-Signature", Prefix: "sha256=", DeliveryID: "X-Id"}, secret: "key",
			body: "The quick brown fox jumps over the lazy dog",
			header: http.Header{
				"X-Signature": {"sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"}, "X-Id": {"17"},
			},
			id: "17",
		},
		{
			name: "hmac base64", spec: &manifest.Verify{Type: manifest.VerifyHMAC, Header: "X-Signature", Encoding: "base64"}, secret: "key",
			body:   "The quick brown fox jumps over the lazy dog",
			header: http.Header{"X-Signature": {"97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg="}},
		},
	}
}

// now is a time at which the request is fresh.
func (s *signed) now() time.Time {
	if s.at.IsZero() {
		return time.Unix(1700000000, 0)
	}
	return s.at.Add(time.Minute)
}

func TestProvidersVectors(t *testing.T) {
	t.Parallel()
	for _, s := range vectors() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			id, reason := check(s.spec, []string{s.secret}, s.header, []byte(s.body), s.now())
			if reason != "" || id != s.id {
				t.Errorf("id %q, reason %q, want %q", id, reason, s.id)
			}
			// While a secret is rotated there are two.
			if _, reason := check(s.spec, []string{s.secret, "the next one"}, s.header, []byte(s.body), s.now()); reason != "" {
				t.Errorf("with a second secret: %s", reason)
			}
			if s.name == "gitlab signing token" {
				return // which way it is checked, its first secret says
			}
			if _, reason := check(s.spec, []string{"the next one", s.secret}, s.header, []byte(s.body), s.now()); reason != "" {
				t.Errorf("as the second secret: %s", reason)
			}
		})
	}
}

// Whatever is changed of a request that was signed, it is not believed.
func TestChangedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	for _, s := range vectors() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			refused := func(what string, secrets []string, header http.Header, body []byte, now time.Time) {
				t.Helper()
				if _, reason := check(s.spec, secrets, header, body, now); reason == "" {
					t.Errorf("believed with %s", what)
				}
			}
			good := []string{s.secret}
			if s.name != "gitlab token" { // which signs nothing: its secret is all
				for i := range s.body {
					body := []byte(s.body)
					body[i] ^= 1
					refused(fmt.Sprintf("byte %d of the body changed", i), good, s.header, body, s.now())
				}
				refused("a longer body", good, s.header, []byte(s.body+" "), s.now())
				refused("a shorter body", good, s.header, []byte(s.body[1:]), s.now())
				refused("no body", good, s.header, nil, s.now())
			}
			refused("another secret", []string{s.secret + "x"}, s.header, []byte(s.body), s.now())
			refused("no secret", nil, s.header, []byte(s.body), s.now())
			refused("no header", good, http.Header{}, []byte(s.body), s.now())
			for name, values := range s.header {
				if proves := strings.Contains(name, "Signature") || name == "X-Gitlab-Token"; !proves {
					continue
				}
				header := s.header.Clone()
				header.Del(name)
				refused("no "+name, good, header, []byte(s.body), s.now())
				header.Set(name, "")
				refused("an empty "+name, good, header, []byte(s.body), s.now())
				for _, cut := range []string{values[0][:len(values[0])/2], values[0] + "0", strings.ToUpper(values[0])} {
					// Of the lists the last is no signature that counts: whatever is added to it changes nothing.
					if list := s.name == "svix" || s.name == "stripe"; cut == values[0] || list && strings.HasPrefix(cut, values[0]) {
						continue
					}
					header.Set(name, cut)
					refused(name+" "+cut, good, header, []byte(s.body), s.now())
				}
			}
			if !s.at.IsZero() {
				const long = defaultTolerance + time.Second
				for _, now := range []time.Time{s.at.Add(long), s.at.Add(-long)} {
					if _, reason := check(s.spec, good, s.header, []byte(s.body), now); reason != reasonStale {
						t.Errorf("at %v from the signed time: %q, want %s", now.Sub(s.at), reason, reasonStale)
					}
				}
				wide := *s.spec
				wide.Tolerance = manifest.Duration(time.Hour)
				if _, reason := check(&wide, good, s.header, []byte(s.body), s.at.Add(time.Hour)); reason != "" {
					t.Errorf("within its own tolerance: %s", reason)
				}
			}
		})
	}
}

// A time that is signed stands for a delivery's id where the sender gives none.
func TestSentAgainIsTheSame(t *testing.T) {
	t.Parallel()
	spec := &manifest.Verify{Type: manifest.VerifyStripe}
	stripe := func(at, body string) http.Header {
		return http.Header{"Stripe-Signature": {"t=" + at + ",v1=" + hexMAC("k", at+"."+body)}}
	}
	now := time.Unix(1492774577, 0)
	one, _ := check(spec, []string{"k"}, stripe("1492774577", "{}"), []byte("{}"), now)
	again, _ := check(spec, []string{"k"}, stripe("1492774577", "{}"), []byte("{}"), now.Add(time.Minute))
	later, _ := check(spec, []string{"k"}, stripe("1492774578", "{}"), []byte("{}"), now)
	if one == "" || one != again || one == later {
		t.Errorf("ids %q, %q and %q: want two equal ones and another", one, again, later)
	}
	for _, header := range []string{"t=1,t=1492774577,v1=" + hexMAC("k", "1492774577.{}"), "t=,v1=00", "v1=00", "t=1492774577", "t=99999999999999999999,v1=00", ",,=,"} {
		if _, reason := check(spec, []string{"k"}, http.Header{"Stripe-Signature": {header}}, []byte("{}"), now); reason == "" {
			t.Errorf("believed with %q", header)
		}
	}
}

func hexMAC(secret, message string) string { return hex.EncodeToString(mac([]byte(secret), message)) }

func mac(secret []byte, message string) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(message))
	return m.Sum(nil)
}

// FuzzCheck signs with one secret: nothing but what was signed is believed, and nothing panics.
func FuzzCheck(f *testing.F) {
	kinds := []string{
		manifest.VerifyGitHub, manifest.VerifyGitLab, manifest.VerifyStripe, manifest.VerifySlack, manifest.VerifyStandard, manifest.VerifyHMAC,
	}
	for i, s := range vectors() {
		name := slices.Sorted(func(yield func(string) bool) {
			for name := range s.header {
				if !yield(name) {
					return
				}
			}
		})
		f.Add(uint8(i), s.secret, []byte(s.body), s.header.Get(name[0]), "1531420618", uint16(3))
	}
	f.Add(uint8(0), "", []byte{}, "", "", uint16(0))
	f.Add(uint8(4), "whsec_", []byte("{}"), "v1,", "-1", uint16(9))
	f.Fuzz(func(t *testing.T, kind uint8, secret string, body []byte, junk, stamp string, flip uint16) {
		spec := &manifest.Verify{Type: kinds[int(kind)%len(kinds)], Header: "X-Signature"}
		now := time.Unix(1700000000, 0)
		// What a stranger sends is believed by nobody who has another secret.
		strange := http.Header{}
		for _, name := range []string{"X-Hub-Signature-256", "X-Gitlab-Token", "Stripe-Signature", "X-Slack-Signature", "X-Slack-Request-Timestamp", "Webhook-Signature", "X-Signature"} {
			strange.Set(name, junk)
		}
		strange.Set("X-Slack-Request-Timestamp", stamp)
		strange.Set("Webhook-Timestamp", stamp)
		strange.Set("Webhook-Id", junk)
		if _, reason := check(spec, []string{"9f86d081884c7d659a2feaa0c55ad015"}, strange, body, now); reason == "" && junk != "9f86d081884c7d659a2feaa0c55ad015" {
			t.Fatalf("%s believed %q", spec.Type, junk)
		}
		if secret == "" {
			return
		}
		header := sign(spec.Type, secret, "msg_1", "1700000000", body)
		if _, reason := check(spec, []string{secret}, header, body, now); reason != "" {
			t.Fatalf("%s did not believe what was signed: %s", spec.Type, reason)
		}
		if len(body) == 0 || spec.Type == manifest.VerifyGitLab && !strings.HasPrefix(secret, standardPrefix) {
			return
		}
		other := bytes.Clone(body)
		other[int(flip)%len(other)] ^= 1 << (flip % 8)
		if _, reason := check(spec, []string{secret}, header, other, now); reason == "" {
			t.Fatalf("%s believed a body that was changed", spec.Type)
		}
	})
}

// sign does what a sender does.
func sign(kind, secret, id, stamp string, body []byte) http.Header {
	h := http.Header{}
	standard := kind == manifest.VerifyStandard || kind == manifest.VerifyGitLab && strings.HasPrefix(secret, standardPrefix)
	switch {
	case standard:
		h.Set("Webhook-Id", id)
		h.Set("Webhook-Timestamp", stamp)
		h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac(key(secret, true), id+"."+stamp+"."+string(body))))
	case kind == manifest.VerifyGitHub:
		h.Set("X-Hub-Signature-256", "sha256="+hexMAC(secret, string(body)))
	case kind == manifest.VerifyGitLab:
		h.Set("X-Gitlab-Token", secret)
	case kind == manifest.VerifyStripe:
		h.Set("Stripe-Signature", "t="+stamp+",v1="+hexMAC(secret, stamp+"."+string(body)))
	case kind == manifest.VerifySlack:
		h.Set("X-Slack-Request-Timestamp", stamp)
		h.Set("X-Slack-Signature", "v0="+hexMAC(secret, "v0:"+stamp+":"+string(body)))
	default:
		h.Set("X-Signature", hexMAC(secret, string(body)))
	}
	return h
}
