package store_test

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// sealing replaces every parameter called password, as encryption would.
func sealing(_ string, parameters json.RawMessage, secrets map[string]string) (json.RawMessage, map[string]string, error) {
	text := string(parameters)
	if strings.Contains(text, "unsealable") {
		return nil, nil, errors.New("cannot seal")
	}
	if !strings.Contains(text, "hush") {
		return parameters, secrets, nil
	}
	all := maps.Clone(secrets)
	if all == nil {
		all = map[string]string{}
	}
	all["/password"] = "sealed:old:x"
	return json.RawMessage(strings.ReplaceAll(text, "hush", "***")), all, nil
}

// Whoever queues, nothing that is secret is stored as it is, and all of it gets a new key.
func TestSeal(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, storetest.NewURL(t), func(o *store.Options) { o.Seal = sealing })
	apply(t, s, change("a", action("a", "x"), trigger("a", "t")))
	asked := enqueue(t, s,
		store.NewExecution{Action: "a.x", Parameters: json.RawMessage(`{"password": "hush"}`), Secrets: map[string]string{"/token": "name"}, RequestedBy: "t"},
		store.NewExecution{Action: "a.x", Parameters: json.RawMessage(`{}`), RequestedBy: "t"})
	caused := commit(t, s, matchAll("a.x", 1),
		store.NewEvent{Trigger: "a.t", Source: "s", Payload: json.RawMessage(`{"password": "hush"}`)},
		store.NewEvent{Trigger: "a.t", Source: "s", Payload: json.RawMessage(`{"password": "unsealable"}`)},
	)
	if len(caused[0].Executions) != 1 || len(caused[1].Executions) != 0 {
		t.Fatalf("executions %v and %v", caused[0].Executions, caused[1].Executions)
	}
	if m := caused[1].Matches[0]; m.Status != store.EnforcementError || m.Error != "cannot seal" {
		t.Errorf("what cannot be encrypted: %+v", m)
	}
	if _, err := s.Enqueue(t.Context(), []store.NewExecution{{Action: "a.x", Parameters: json.RawMessage(`{"a": "unsealable"}`)}}); err == nil {
		t.Error("what cannot be encrypted was queued")
	}
	// One has ended by then.
	ended := claim(t, s, "n", 1)
	start(t, s, ended...)
	finish(t, s, store.Outcome{Token: ended[0].Token, Status: store.StatusSucceeded})
	for table, want := range map[string]int{"execution": 1, "queue": 1} {
		if n := one[int](t, s, "SELECT count(*)::int FROM attune."+table+" AS r WHERE r.parameters::text LIKE '%hush%'"); n != 0 {
			t.Errorf("%s holds what is secret", table)
		}
		if n := one[int](t, s, "SELECT count(*)::int FROM attune."+table+" AS r WHERE r.secrets->>'/password' = 'sealed:old:x'"); n != want {
			t.Errorf("%s has %d sealed values, want %d", table, n, want)
		}
	}

	renew := func(action string, secrets map[string]string) (map[string]string, bool, error) {
		if action != "a.x" || secrets["/password"] == "" {
			t.Errorf("asked about %s %v", action, secrets)
		}
		if secrets["/password"] != "sealed:old:x" {
			return secrets, false, nil
		}
		renewed := maps.Clone(secrets)
		renewed["/password"] = "sealed:new:y"
		return renewed, true, nil
	}
	for _, want := range []int{2, 0} {
		if n, err := s.Reseal(t.Context(), renew); err != nil || n != want {
			t.Errorf("%d were sealed anew, want %d; %v", n, want, err)
		}
	}
	for _, c := range claim(t, s, "n", 10) {
		want := map[string]string{"/password": "sealed:new:y"}
		switch c.ExecutionID {
		case asked[0]:
			want["/token"] = "name"
		case asked[1]:
			want = nil
		}
		if !maps.Equal(c.Secrets, want) {
			t.Errorf("execution %d is claimed with %v, want %v", c.ExecutionID, c.Secrets, want)
		}
	}
	if n := one[int](t, s, "SELECT count(*)::int FROM attune.execution WHERE secrets->>'/password' = 'sealed:new:y'"); n != 1 {
		t.Errorf("history has %d with the new key, want 1", n)
	}
	_, err := s.Reseal(t.Context(), func(string, map[string]string) (map[string]string, bool, error) {
		return nil, false, errors.New("no key")
	})
	if err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("a key that cannot be read: %v", err)
	}
}
