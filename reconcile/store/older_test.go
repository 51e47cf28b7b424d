package store_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// A number that was seen is not given again, by whichever connection, when the database comes back older.
func TestNumbersGoOn(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	url := storetest.NewURL(t)
	s := storetest.Open(t, url, func(o *store.Options) { o.Registerer = registry })
	apply(t, s, change("a", action("a", "x")))
	var seen []int64
	for range 5 {
		seen = append(seen, enqueue(t, s, store.NewExecution{Action: "a.x"})...)
	}
	// What a restored copy is like: less, and other sessions.
	storetest.Exec(t, url, "SELECT setval('attune.execution_id', 2)")
	storetest.Exec(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	var fresh []int64
	for range 20 {
		ids, err := s.Enqueue(t.Context(), []store.NewExecution{{Action: "a.x"}})
		if err != nil && !store.IsTransient(err) {
			t.Fatal(err)
		}
		fresh = append(fresh, ids...)
	}
	if len(fresh) == 0 || slices.Min(fresh) <= slices.Max(seen) {
		t.Errorf("after %v came %v", seen, fresh)
	}
	const want = "# HELP attune_db_older_total Times that the database was found older than it had been, so that something is lost.\n# TYPE attune_db_older_total counter\nattune_db_older_total 1\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "attune_db_older_total"); err != nil {
		t.Error(err)
	}
}
