package store_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// history fills 90 days with executions that have ended, attempts included.
func history(t testing.TB, s *store.Store, rows int) {
	t.Helper()
	sql(t, s, "SELECT attune.make_partitions((now() AT TIME ZONE 'UTC')::date - 90, (now() AT TIME ZONE 'UTC')::date - 1)")
	if rows == 0 {
		return
	}
	sql(t, s, `
		WITH old AS (
			INSERT INTO attune.execution (created_at, action_ref, pack_ref, status, attempt, finished_at, parameters)
			SELECT now() - random() * INTERVAL '90 days', 'a.x', 'a', 'succeeded', 1, now(), '{}'
			FROM generate_series(1, $1)
			RETURNING id, created_at
		)
		INSERT INTO attune.attempt (execution_id, created_at, number, token, status, node, queued_at, started_at, finished_at)
		SELECT id, created_at, 1, gen_random_uuid(), 'succeeded', 'n', created_at, created_at, now()
		FROM old`, rows)
	sql(t, s, "ANALYZE")
}

// BenchmarkClaimFinish is one execution claimed, started and finished, in groups; queueing is not in it.
func BenchmarkClaimFinish(b *testing.B) {
	for _, rows := range []int{0, 200_000} {
		for _, group := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("history=%d/group=%d", rows, group), func(b *testing.B) {
				s := storetest.New(b)
				history(b, s, rows)
				apply(b, s, change("a", action("a", "x")))
				for left := b.N; left > 0; left -= 1000 {
					enqueue(b, s, times(min(left, 1000), store.NewExecution{Action: "a.x", Parameters: json.RawMessage(`{"message":"hello"}`)})...)
				}
				b.ResetTimer()
				for done := 0; done < b.N; {
					claimed := claim(b, s, "n", group)
					if len(claimed) == 0 {
						b.Fatalf("nothing to claim after %d", done)
					}
					start(b, s, claimed...)
					outcomes := make([]store.Outcome, len(claimed))
					for i, c := range claimed {
						outcomes[i] = store.Outcome{Token: c.Token, Status: store.StatusSucceeded, ExitCode: new(0), Stdout: store.Output{Text: "hello\n", Bytes: 6}}
					}
					finish(b, s, outcomes...)
					done += len(claimed)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "executions/s")
			})
		}
	}
}

// BenchmarkCommitEvents is one event, alone and with an enforcement and an execution, in groups.
func BenchmarkCommitEvents(b *testing.B) {
	for _, each := range []int{0, 1} {
		for _, group := range []int{1, 1000} {
			b.Run(fmt.Sprintf("executions=%d/group=%d", each, group), func(b *testing.B) {
				s := storetest.New(b)
				apply(b, s, change("a", action("a", "x"), trigger("a", "t")))
				events := make([]store.NewEvent, group)
				for i := range events {
					events[i] = store.NewEvent{Trigger: "a.t", Source: "a.s", Payload: json.RawMessage(`{"n": 1, "text": "some 190 bytes of payload, as a sensor of files or of a queue would print them for each thing that it sees, with a path like /var/spool/incoming/2026/11/23/some-file.csv"}`)}
				}
				match := matchAll("a.x", each)
				if each == 0 {
					match = nil
				}
				b.ResetTimer()
				done := 0
				for done < b.N {
					commit(b, s, match, events...)
					done += group
				}
				b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}

// BenchmarkApply is one edit of a pack among many, with the catalog's reload.
func BenchmarkApply(b *testing.B) {
	for _, packs := range []int{10, 1000} {
		b.Run(fmt.Sprintf("packs=%d", packs), func(b *testing.B) {
			s := storetest.New(b)
			var all []store.PackChange
			for i := range packs {
				all = append(all, whole(fmt.Sprint("p", i)))
			}
			apply(b, s, all...)
			current := catalog(b, s, nil)
			b.ResetTimer()
			for i := range b.N {
				edit := whole("p1")
				edit.Revision = files(map[string]string{"pack.yaml": fmt.Sprint(i)})
				apply(b, s, edit)
				current = catalog(b, s, current)
			}
			b.StopTimer()
			if len(current.Packs) != packs {
				b.Errorf("%d packs", len(current.Packs))
			}
		})
	}
}
