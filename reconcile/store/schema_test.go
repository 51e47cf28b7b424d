package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestEveryQueryPrepares(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	conn, err := s.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	names := s.QueryNames()
	if len(names) < 40 {
		t.Errorf("found %d queries: they are not read", len(names))
	}
	for _, name := range names {
		// Missing arguments are NULL here, which is all that preparing needs.
		sql, _, err := pgx.NamedArgs{}.RewriteQuery(t.Context(), nil, s.Query(name), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := conn.Conn().Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v\n%s", name, err, sql)
		}
	}
}

// Every relation is named with its schema, so that a search_path decides nothing.
func TestNoQueryReliesOnSearchPath(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	conn := storetest.Connect(t, url)
	if _, err := conn.Exec(t.Context(), "SET search_path = ''"); err != nil {
		t.Fatal(err)
	}
	s := storetest.Open(t, url)
	for _, name := range s.QueryNames() {
		sql, _, err := pgx.NamedArgs{}.RewriteQuery(t.Context(), nil, s.Query(name), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryColumnHasAComment(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	rows, err := s.Pool().Query(t.Context(), `
		SELECT format('%I.%I', class.relname, attribute.attname)
		FROM pg_class class
		JOIN pg_namespace namespace ON namespace.oid = class.relnamespace
		JOIN pg_attribute attribute ON attribute.attrelid = class.oid AND attnum > 0 AND NOT attisdropped
		WHERE nspname = 'attune' AND relkind IN ('r', 'p', 'v')
			AND relname NOT LIKE '%\_default'
			AND COALESCE(col_description(class.oid, attnum), '') = ''
		UNION ALL
		SELECT relname FROM pg_class class
		JOIN pg_namespace namespace ON namespace.oid = class.relnamespace
		WHERE nspname = 'attune' AND relkind IN ('r', 'p', 'v')
			AND relname NOT LIKE '%\_default'
			AND COALESCE(obj_description(class.oid, 'pg_class'), '') = ''
		UNION ALL
		SELECT proname FROM pg_proc
		JOIN pg_namespace namespace ON namespace.oid = pronamespace
		WHERE nspname = 'attune' AND COALESCE(obj_description(pg_proc.oid, 'pg_proc'), '') = ''
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(silent) > 0 {
		t.Errorf("without a comment: %s", strings.Join(silent, ", "))
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	rows, err := s.Pool().Query(t.Context(), `
		SELECT relname FROM pg_class
		JOIN pg_namespace ON pg_namespace.oid = relnamespace
		WHERE nspname = 'attune' AND relkind IN ('r', 'p', 'v') AND NOT relispartition`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := strings.Fields(`pack revision file runtime action trigger sensor rule trigger_instance webhook_token notice errand
		event enforcement execution attempt output event_key rule_state queue node lease generation
		token audit idempotency_key concurrency pause execution_now schema_version`)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStatusesAgree(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[store.Status][]store.Status{}
	for _, line := range regexp.MustCompile(`(?m)^//\t(\w+) +-> (\w+) `).FindAllStringSubmatch(string(text), -1) {
		from := store.Status(line[1])
		documented[from] = append(documented[from], store.Status(line[2]))
	}
	inCode := map[store.Status][]store.Status{}
	var final, waiting []store.Status
	for _, status := range store.Statuses() {
		if next := status.Next(); len(next) > 0 {
			inCode[status] = next
		}
		if status.Final() {
			final = append(final, status)
		} else {
			waiting = append(waiting, status)
		}
	}
	if diff := cmp.Diff(documented, inCode); diff != "" {
		t.Errorf("the table in doc.go (-) and the code (+) differ:\n%s", diff)
	}

	s := storetest.New(t)
	for table, want := range map[string][]store.Status{
		"queue":     waiting,
		"execution": final,
	} {
		var check string
		err := s.Pool().QueryRow(t.Context(), `
			SELECT pg_get_constraintdef(oid) FROM pg_constraint
			WHERE conrelid = ('attune.' || $1)::regclass AND contype = 'c' AND conname = $1 || '_status_check'`, table).Scan(&check)
		if err != nil {
			t.Fatalf("%s: %v", table, err)
		}
		var got []store.Status
		for _, word := range regexp.MustCompile(`'(\w+)'::text`).FindAllStringSubmatch(check, -1) {
			got = append(got, store.Status(word[1]))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: code (-) and CHECK (+) differ:\n%s", table, diff)
		}
	}
}

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	t.Parallel()
	url := storetest.NewEmptyURL(t)
	var nodes sync.WaitGroup
	for range 3 {
		s := storetest.Open(t, url)
		nodes.Go(func() {
			_, to, err := s.Migrate(t.Context())
			if err != nil || to < 1 {
				t.Errorf("migrated to %d: %v", to, err)
			}
		})
	}
	nodes.Wait()
	from, to, err := storetest.Open(t, url).Migrate(t.Context())
	if err != nil || from != to {
		t.Errorf("the second time it went from %d to %d: %v", from, to, err)
	}
}

// A schema that another node creates while this one waits for its turn is seen.
func TestMigrateAfterAnotherCreatedTheSchema(t *testing.T) {
	t.Parallel()
	url := storetest.NewEmptyURL(t)
	s := storetest.Open(t, url)
	other := storetest.Connect(t, url)
	if _, err := other.Exec(t.Context(), fmt.Sprintf("BEGIN; SELECT pg_advisory_xact_lock(%d); CREATE SCHEMA attune", store.LockMigration)); err != nil {
		t.Fatal(err)
	}
	migrated := make(chan error, 1)
	go func() {
		_, _, err := s.Migrate(t.Context())
		migrated <- err
	}()
	waitFor(t, func() bool {
		return one[int](t, s, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == 1
	})
	if _, err := other.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Error(err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	url := storetest.NewURL(t)
	storetest.Exec(t, url, "INSERT INTO attune.schema_version (version_id, is_applied) VALUES (9999, TRUE)")
	_, known, err := storetest.Open(t, url).Migrate(t.Context())
	if !errors.Is(err, store.ErrSchemaNewer) {
		t.Fatalf("got %v, expected ErrSchemaNewer", err)
	}
	for _, version := range []string{"9999", fmt.Sprintf("up to %d;", known)} {
		if !strings.Contains(err.Error(), version) {
			t.Errorf("%q does not say %q", err, version)
		}
	}
	if store.IsTransient(err) {
		t.Error("a newer schema does not pass by itself")
	}
}

func TestServerInfo(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	info, err := s.ServerInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.SchemaVersion < 1 || info.SizeBytes == 0 || !regexp.MustCompile(`^\d+`).MatchString(info.Version) {
		t.Errorf("got %+v", info)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenHidesThePassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"postgres://attune:hunter2@:notaport/x",
		"postgres://attune:hun%ter2@localhost/x",
		"postgres://attune:hunter2/with@slash@localhost:5432/x",
		"host=/nowhere user=attune password=hunter2 sslmode=nonsense",
		"host=/nowhere user=attune password=hunter2 dbname=x",
		"postgres://attune:hunter2@127.0.0.1:1/x?sslmode=disable",
	} {
		s, err := store.Open(t.Context(), url, store.Options{})
		if err == nil {
			s.Close()
			t.Errorf("%s was opened", url)
			continue
		}
		for _, secret := range []string{"hunter2", "ter2"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the password is told: %v", err)
			}
		}
	}
}

func TestOpenRefusesUnknownPooler(t *testing.T) {
	t.Parallel()
	_, err := store.Open(context.Background(), "postgres:///x", store.Options{Pooler: "session"})
	if err == nil || !strings.Contains(err.Error(), `"transaction"`) {
		t.Errorf("got %v", err)
	}
}

// Opening is tried again while the server is away, with the same registry.
func TestOpenTwiceWithOneRegistry(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	for range 2 {
		_, err := store.Open(t.Context(), "host=/nonexistent user=x dbname=x", store.Options{Registerer: registry})
		if !store.IsTransient(err) {
			t.Errorf("got %v", err)
		}
	}
}
