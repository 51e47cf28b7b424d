package store_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func token(text string) store.NewWebhookToken {
	return store.NewWebhookToken{Trigger: "a.t", Hash: bytes.Repeat([]byte(text[:1]), 32), Sealed: "sealed:old:" + text, By: "ada"}
}

// hashesOf gives the first letters of the hashes that count for a.t.
func hashesOf(t *testing.T, s *store.Store) string {
	t.Helper()
	tokens, err := s.WebhookTokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text string
	for _, hash := range tokens["a.t"] {
		text += string(hash[:1])
	}
	return text
}

// A webhook has the token that was made first, whoever asks, until it is renewed.
func TestWebhookToken(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	if have := hashesOf(t, s); have != "" {
		t.Fatalf("tokens before any was made: %q", have)
	}
	for _, text := range []string{"one", "two"} {
		stored, err := s.AddWebhookToken(t.Context(), token(text))
		if err != nil || stored.Sealed != "sealed:old:one" || stored.CreatedBy != "ada" || stored.FormerUntil != nil {
			t.Fatalf("after %s: %+v, %v", text, stored, err)
		}
	}
	if have := hashesOf(t, s); have != "o" {
		t.Errorf("tokens %q, want the first", have)
	}
	stored, err := s.RenewWebhookToken(t.Context(), token("3"), time.Hour)
	if err != nil || stored.Sealed != "sealed:old:3" || stored.FormerUntil == nil || stored.FormerUntil.Sub(stored.CreatedAt) != time.Hour {
		t.Fatalf("renewed: %+v, %v", stored, err)
	}
	if have := hashesOf(t, s); have != "3o" {
		t.Errorf("tokens %q, want the new and the former", have)
	}
	if _, err := s.Pool().Exec(t.Context(), "UPDATE attune.webhook_token SET former_until = now()"); err != nil {
		t.Fatal(err)
	}
	if have := hashesOf(t, s); have != "3" {
		t.Errorf("tokens %q after the grace, want the new", have)
	}
	if stored, err = s.RenewWebhookToken(t.Context(), token("4"), 0); err != nil || stored.FormerUntil != nil || hashesOf(t, s) != "4" {
		t.Errorf("renewed without a grace: %+v, %v, tokens %q", stored, err, hashesOf(t, s))
	}
	entries, err := s.ListAudit(t.Context(), store.AuditFilter{Object: "a.t"})
	if err != nil {
		t.Fatal(err)
	}
	var done []string
	for _, e := range entries {
		done = append(done, e.Actor+" "+e.Action)
		if strings.Contains(string(e.Detail), "sealed") {
			t.Errorf("the audit holds %s", e.Detail)
		}
	}
	if want := []string{"ada rotate webhook token", "ada rotate webhook token", "ada make webhook token"}; !slices.Equal(done, want) {
		t.Errorf("audit %q, want %q", done, want)
	}
}

// Tokens get a new key with everything else, each for its own trigger.
func TestWebhookTokensAreResealed(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	if _, err := s.AddWebhookToken(t.Context(), token("one")); err != nil {
		t.Fatal(err)
	}
	renew := func(owner string, secrets map[string]string) (map[string]string, bool, error) {
		renewed := maps.Clone(secrets)
		for place, text := range secrets {
			if owner != "trigger a.t" || place != "webhook_token" {
				t.Errorf("asked about %s, %s", owner, place)
			}
			renewed[place] = strings.Replace(text, ":old:", ":new:", 1)
		}
		return renewed, !maps.Equal(renewed, secrets), nil
	}
	for _, want := range []int{1, 0} {
		if n, err := s.Reseal(t.Context(), renew); err != nil || n != want {
			t.Errorf("%d sealed anew, want %d; %v", n, want, err)
		}
	}
	if stored, err := s.AddWebhookToken(t.Context(), token("two")); err != nil || stored.Sealed != "sealed:new:one" || hashesOf(t, s) != "o" {
		t.Errorf("after it %+v, %v", stored, err)
	}
	_, err := s.Reseal(t.Context(), func(string, map[string]string) (map[string]string, bool, error) {
		return nil, false, errors.New("no key")
	})
	if err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("a key that cannot be read: %v", err)
	}
}
