package worker

import (
	"fmt"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	const second = manifest.Duration(time.Second)
	code := func(n int) *int { return &n }
	constant := &manifest.Retry{MaxAttempts: 3, Delay: 5 * second}
	doubling := &manifest.Retry{MaxAttempts: 100, Delay: 2 * second, Backoff: "exponential", MaxDelay: 15 * second}
	endless := &manifest.Retry{MaxAttempts: 1000, Delay: second, Backoff: "exponential"}
	codes := &manifest.Retry{MaxAttempts: 3, ExitCodes: []int{7, 75}}
	only := func(on ...string) *manifest.Retry { return &manifest.Retry{MaxAttempts: 3, On: on} }
	tests := []struct {
		name    string
		retry   *manifest.Retry
		attempt int
		status  store.Status
		code    *int
		want    time.Duration
		again   bool
	}{
		{"none", nil, 1, store.StatusFailed, code(1), 0, false},
		{"first", constant, 1, store.StatusFailed, code(1), 5 * time.Second, true},
		{"second", constant, 2, store.StatusTimedOut, nil, 5 * time.Second, true},
		{"last", constant, 3, store.StatusFailed, code(1), 0, false},
		{"succeeded", constant, 1, store.StatusSucceeded, code(0), 0, false},
		{"cancelled", constant, 1, store.StatusCancelled, nil, 0, false},
		{"doubling 1", doubling, 1, store.StatusFailed, nil, 2 * time.Second, true},
		{"doubling 2", doubling, 2, store.StatusFailed, nil, 4 * time.Second, true},
		{"doubling 3", doubling, 3, store.StatusFailed, nil, 8 * time.Second, true},
		{"doubling 4", doubling, 4, store.StatusFailed, nil, 15 * time.Second, true},
		{"doubling 99", doubling, 99, store.StatusFailed, nil, 15 * time.Second, true},
		{"code", codes, 1, store.StatusFailed, code(75), 0, true},
		{"another code", codes, 1, store.StatusFailed, code(1), 0, false},
		{"a signal", codes, 1, store.StatusFailed, nil, 0, false},
		{"codes say nothing of time", codes, 1, store.StatusTimedOut, nil, 0, true},
		{"on timed_out", only("timed_out"), 1, store.StatusTimedOut, nil, 0, true},
		{"not on failed", only("timed_out", "lost"), 1, store.StatusFailed, nil, 0, false},
	}
	for _, test := range tests {
		got, again := retryAfter(test.retry, test.attempt, test.status, test.code)
		if got != test.want || again != test.again {
			t.Errorf("%s: %v, %v; want %v, %v", test.name, got, again, test.want, test.again)
		}
	}
	if got := retryDelay(endless, 900); got <= 0 {
		t.Errorf("after 900 attempts: %v", got)
	}
}

// TestLostIsCountedAlike asks the reaper and this package after how long a lost attempt is followed by
// another: whoever comes first decides.
func TestLostIsCountedAlike(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	begun := m.now()
	second := manifest.Duration(time.Second)
	for i, r := range []manifest.Retry{
		{MaxAttempts: 100},
		{MaxAttempts: 100, Delay: 90 * second},
		{MaxAttempts: 100, Delay: 90 * second, Backoff: backoffExponential},
		{MaxAttempts: 100, Delay: 90 * second, Backoff: backoffExponential, MaxDelay: 600 * second},
		{MaxAttempts: 100, Delay: 90 * second, MaxDelay: 30 * second},
		{MaxAttempts: 5, Delay: second, Backoff: backoffExponential},
	} {
		r.On = []string{string(store.StatusLost)}
		ref := m.action(fmt.Sprintf("a%d", i), "", edit(func(a *manifest.Action) { a.Retry = &r }))
		for _, try := range []int{1, 2, 4, 5, 90} {
			id := m.enqueue(store.NewExecution{Action: ref})[0]
			m.sql("UPDATE attune.queue SET attempt = $2 + 2, spared = 2 WHERE execution_id = $1", id, try-1)
			claimed, err := m.store.Claim(t.Context(), "dead", 1)
			if err != nil || len(claimed) != 1 || claimed[0].Tries != try {
				t.Fatalf("claimed %+v: %v", claimed, err)
			}
			if _, err := m.store.Start(t.Context(), []string{claimed[0].Token}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := m.store.LoseNode(t.Context(), "dead"); err != nil {
				t.Fatal(err)
			}
			want, again := retryLost(&manifest.Action{Retry: &r}, &r, try)
			e, _ := m.execution(id)
			if again == e.Status.Final() {
				t.Errorf("%+v, attempt %d: it is %s, another attempt follows here: %v", r, try, e.Status, again)
			}
			if again && want < 365*24*time.Hour { // beyond, both only have to be far away
				if got := e.DueAt.Sub(begun); got < want || got > want+10*time.Minute {
					t.Errorf("%+v, attempt %d: due in %v, here after %v", r, try, got, want)
				}
			}
			m.sql("DELETE FROM attune.queue")
		}
	}
}

func TestRetryLost(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		action  *manifest.Action
		attempt int
		again   bool
	}{
		{"by default", &manifest.Action{}, 1, false},
		{"gone", nil, 1, false},
		{"on_lost", &manifest.Action{OnLost: "retry"}, 1, true},
		{"on_lost for ever", &manifest.Action{OnLost: "retry"}, store.MaxLostAttempts, false},
		{"retry.on", &manifest.Action{Retry: &manifest.Retry{MaxAttempts: 2, On: []string{"lost"}}}, 1, true},
		{"retry.on, the last", &manifest.Action{Retry: &manifest.Retry{MaxAttempts: 2, On: []string{"lost"}}}, 2, false},
		{"retry of others", &manifest.Action{Retry: &manifest.Retry{MaxAttempts: 2, On: []string{"failed"}}}, 1, false},
	}
	own := func(a *manifest.Action) *manifest.Retry {
		if a == nil {
			return nil
		}
		return a.Retry
	}
	for _, test := range tests {
		if _, again := retryLost(test.action, own(test.action), test.attempt); again != test.again {
			t.Errorf("%s: %v", test.name, again)
		}
	}
}
