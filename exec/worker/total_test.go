package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// timeout_total bounds all attempts together: what runs then is stopped, none begins after, and what ends
// before is tried again only where there is time for it.
func TestTimeoutTotal(t *testing.T) {
	t.Parallel()
	const all = "all attempts together may take 1m0s (timeout_total)"
	for name, test := range map[string]struct {
		since   time.Duration // that the first attempt began
		attempt int
		ends    time.Duration // by itself with exit 1, after that; 0: not
		delay   time.Duration
		takes   time.Duration // at most
		status  store.Status
		text    string
		again   bool
		own     bool // the bound is the execution's
	}{
		"the first is stopped":          {attempt: 1, takes: time.Minute, status: store.StatusTimedOut, text: "timed out: " + all},
		"a later one is stopped sooner": {since: 50 * time.Second, attempt: 3, takes: 10 * time.Second, status: store.StatusTimedOut, text: "timed out: " + all},
		"one timeout comes before it":   {since: 10 * time.Second, attempt: 2, takes: 40 * time.Second, status: store.StatusTimedOut, text: "timed out after 40s", again: true},
		"none begins after it":          {since: time.Minute, attempt: 2, status: store.StatusTimedOut, text: "timed out before it began again: " + all},
		"one that fails is tried again": {since: 10 * time.Second, attempt: 2, ends: time.Second, delay: 48 * time.Second, takes: time.Second, status: store.StatusFailed, text: "exit 1", again: true},
		"no time is left for another":   {since: 10 * time.Second, attempt: 2, ends: time.Second, delay: 49 * time.Second, takes: time.Second, status: store.StatusFailed, text: "exit 1; not tried again: " + all},
		"its own comes first":           {own: true, since: 50 * time.Second, attempt: 3, takes: 10 * time.Second, status: store.StatusTimedOut, text: "timed out: " + all},
		"what began is not asked anew":  {since: time.Hour, attempt: 1, takes: time.Minute, status: store.StatusTimedOut, text: "timed out: " + all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onStage(t, false, func(s *stage, _ func()) {
				action := &manifest.Action{
					Header: manifest.Header{Ref: "p.a", Pack: "p", Name: "a"}, TimeoutTotal: manifest.Duration(time.Minute), Timeout: manifest.Duration(40 * time.Second),
					Retry: &manifest.Retry{MaxAttempts: 9, Delay: manifest.Duration(test.delay)},
				}
				if test.takes == time.Minute {
					action.Timeout = manifest.Duration(time.Hour)
				}
				action.RunnerType, action.EntryPoint = manifest.RuntimeNative, "a"
				var own time.Duration
				if test.own {
					own, action.TimeoutTotal = time.Minute, manifest.Duration(time.Hour)
				}
				s.queue.set(func() {
					s.queue.since = test.since
					s.queue.waiting = append(s.queue.waiting, store.Claimed{
						ExecutionID: 1, Token: token(1), Attempt: test.attempt, Tries: test.attempt, Action: "p.a", QueuedAt: time.Now(), Record: &store.Record{Spec: action}, TimeoutTotal: own,
					})
				})
				var began time.Time
				for range 50 {
					pass(100 * time.Millisecond)
					if s.started() > 0 {
						began = s.proc(t, 1).began
						break
					}
				}
				if test.ends > 0 {
					pass(test.ends - time.Since(began))
					s.proc(t, 1).end(child.Exit{Code: 1})
				}
				var took time.Duration
				for range 3 * 60 * 10 {
					pass(100 * time.Millisecond)
					if len(s.queue.told().outcomes) > 0 {
						if !began.IsZero() {
							took = time.Since(began)
						}
						break
					}
				}
				got := s.queue.told().outcomes
				if len(got) != 1 || got[0].Status != test.status || !strings.HasSuffix(got[0].Error, test.text) || (got[0].RetryAt != nil) != test.again {
					t.Fatalf("outcomes %+v", got)
				}
				if took < test.takes-time.Second || took > test.takes+time.Second {
					t.Errorf("it took %v, expected %v", took, test.takes)
				}
			})
		})
	}
}

// With a real queue, which knows when the first began: it is tried for a second, and no more.
func TestTimeoutTotalOfManyAttempts(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.action("fails", `exit 1`, func(a *manifest.Action) {
		a.TimeoutTotal = manifest.Duration(time.Second)
		a.Retry = &manifest.Retry{MaxAttempts: 1 << 20, Delay: manifest.Duration(50 * time.Millisecond)}
	})
	m.run()
	e := m.do("p.fails", `{}`)
	if e.Status != store.StatusFailed && e.Status != store.StatusTimedOut || !strings.HasSuffix(*e.Error, "all attempts together may take 1s (timeout_total)") {
		t.Errorf("it is %s: %s", e.Status, *e.Error)
	}
}
