package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	ctx := store.WithOrigin(t.Context(), store.Origin{From: "192.0.2.7", RequestID: "r1"})
	if has, err := s.HasTokens(ctx); err != nil || has {
		t.Fatalf("found tokens, %v", err)
	}
	ci, err := s.AddToken(ctx, store.NewToken{Name: "ci", Hash: []byte("one"), Scope: "run", Pack: "tour", Life: time.Hour, By: "ada"})
	if err != nil || ci.Name != "ci" || *ci.Pack != "tour" || ci.ExpiresAt == nil || ci.CreatedBy != "ada" {
		t.Fatalf("found %+v, %v", ci, err)
	}
	if _, err := s.AddToken(ctx, store.NewToken{Name: "ci", Hash: []byte("two"), Scope: "read", By: "ada"}); !errors.Is(err, store.ErrTaken) {
		t.Errorf("of that name again: %v", err)
	}
	if _, err := s.AddToken(ctx, store.NewToken{Name: "root", Hash: []byte("three"), Scope: "root", By: "ada"}); err == nil {
		t.Error("a scope that is none was stored")
	}
	if err := s.UseTokens(ctx, map[int64]time.Duration{ci.ID: time.Minute, 999: 0}); err != nil {
		t.Fatal(err)
	}
	good, err := s.GoodTokens(ctx)
	if err != nil || len(good) != 1 || string(good[0].Hash) != "one" || good[0].Pack != "tour" || *good[0].Seconds < 3000 || *good[0].Seconds > 3600 {
		t.Fatalf("found %+v, %v", good, err)
	}
	if list, err := s.ListTokens(ctx, false); err != nil || len(list) != 1 || list[0].LastUsedAt == nil || time.Since(*list[0].LastUsedAt) < time.Minute {
		t.Errorf("found %+v, %v", list, err)
	}
	if _, err := s.RevokeToken(ctx, "nobody", "bob"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := s.RevokeToken(ctx, "ci", "bob"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RevokeToken(ctx, "ci", "bob"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
	if _, err := s.AddToken(ctx, store.NewToken{Name: "ci", Hash: []byte("four"), Scope: "read", By: "ada"}); err != nil {
		t.Errorf("a name that is free again: %v", err)
	}
	storetest.Exec(t, url, "UPDATE attune.token SET expires_at = now() WHERE hash = 'four'")
	if good, err := s.GoodTokens(ctx); err != nil || len(good) != 0 {
		t.Errorf("one revoked, one expired: found %+v, %v", good, err)
	}
	if all, err := s.ListTokens(ctx, true); err != nil || len(all) != 2 || all[0].RevokedBy == nil || *all[0].RevokedBy != "bob" || !all[1].Expired {
		t.Errorf("found %+v, %v", all, err)
	}
	rows, err := s.ListAudit(ctx, store.AuditFilter{Object: "ci", Origin: "192.0.2.7"})
	if err != nil || len(rows) != 3 || rows[1].Action != "revoke token" || rows[1].Actor != "bob" || rows[1].RequestID != "r1" || rows[1].Before == nil || rows[1].After != nil {
		t.Errorf("the audit tells %+v, %v", rows, err)
	}
}

func TestEnqueueOnce(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url)
	ask := func(key, digest string) ([]int64, json.RawMessage, error) {
		return s.EnqueueOnce(t.Context(), store.Once{
			Key: key, Digest: digest,
			Answer: func(ids []int64) (json.RawMessage, error) { return fmt.Appendf(nil, `{"ids": [%d]}`, ids[0]), nil },
		}, &store.NewAudit{Actor: "ada", Action: "run action"}, []store.NewExecution{{Action: "a.x", RequestedBy: "ada"}})
	}
	const asking = 8
	var wg sync.WaitGroup
	answers := make([]string, asking)
	var mu sync.Mutex
	first := 0
	for i := range asking {
		wg.Go(func() {
			ids, former, err := ask("ada k1", "d1")
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if ids != nil {
				first++
				former = fmt.Appendf(nil, `{"ids": [%d]}`, ids[0])
			}
			answers[i] = string(former)
		})
	}
	wg.Wait()
	for _, answer := range answers {
		if answer != answers[0] {
			t.Errorf("answers %q", answers)
		}
	}
	if n := count(t, s, "attune.queue"); n != 1 || first != 1 {
		t.Errorf("%d are queued by %d of %d that asked for the same", n, first, asking)
	}
	if _, _, err := ask("ada k1", "d2"); !errors.Is(err, store.ErrOtherRequest) {
		t.Errorf("another request with the key: %v", err)
	}
	if ids, _, err := ask("bob k1", "d1"); err != nil || len(ids) != 1 {
		t.Errorf("another caller's key: %v, %v", ids, err)
	}
	rows, err := s.ListAudit(t.Context(), store.AuditFilter{})
	if err != nil || len(rows) != 2 {
		t.Errorf("the audit tells %+v, %v", rows, err)
	}
	// What is old goes, of the keys and of the audit.
	storetest.Exec(t, url, "UPDATE attune.idempotency_key SET created_at = now() - interval '25 hours' WHERE key LIKE 'ada%'")
	storetest.Exec(t, url, "UPDATE attune.audit SET created_at = now() - interval '3 days' WHERE id = (SELECT min(id) FROM attune.audit)")
	if _, err := s.Maintain(t.Context(), store.Retention{Audit: 48 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	if keys, rows := count(t, s, "attune.idempotency_key"), count(t, s, "attune.audit"); keys != 1 || rows != 1 {
		t.Errorf("%d keys and %d rows of the audit are left, want one each", keys, rows)
	}
	if ids, _, err := ask("ada k1", "d2"); err != nil || len(ids) != 1 {
		t.Errorf("a key that was forgotten: %v, %v", ids, err)
	}
}

func count(t *testing.T, s *store.Store, table string) (n int) {
	t.Helper()
	if err := s.Pool().QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
