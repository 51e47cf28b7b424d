package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/attune-io/attune/daemon/api"
)

// daemons is what a command meets that follows an execution: one after the other, the last for ever.
type daemons []struct {
	// there is how long it answers, before it fails; 0: it does not.
	there time.Duration
	says  string
	err   error
}

func (d *daemons) Output(_ context.Context, id int64, _ bool, each func(*api.OutputLine) error) (*api.ExecutionDetail, error) {
	now := (*d)[0]
	if len(*d) > 1 {
		*d = (*d)[1:]
	}
	<-time.After(now.there)
	if now.says != "" {
		if err := each(&api.OutputLine{Stream: "stdout", Text: now.says, Attempt: 1}); err != nil {
			return nil, err
		}
	}
	if now.err != nil {
		return nil, now.err
	}
	e := &api.ExecutionDetail{}
	e.ID = id
	return e, nil
}

// A daemon that goes away is waited for each time anew, however silent what it runs is.
func TestRunWaitsForTheDaemon(t *testing.T) {
	t.Parallel()
	gone := fmt.Errorf("cannot reach a daemon at x: %w", api.ErrNoDaemon)
	stops := &api.BrokenOffError{Err: &api.Error{Code: api.CodeUnavailable, Detail: "the daemon stops"}}
	for _, test := range []struct {
		name           string
		meets          daemons
		stdout, stderr string
		took           time.Duration
		err            error
	}{
		{
			name:   "restarted twice under a silent action",
			meets:  daemons{{there: time.Hour, err: stops}, {err: gone}, {there: time.Hour, err: stops}, {err: gone}, {there: time.Minute}},
			stderr: "the daemon stops; waiting for it\nthe daemon stops; waiting for it\n",
			took:   2*time.Hour + time.Minute + 4*awayPause,
		},
		{
			name:   "what was printed is not printed again",
			meets:  daemons{{there: 1, says: "on", err: stops}, {there: 1, says: "once"}},
			stdout: "once", stderr: "the daemon stops; waiting for it\n",
			took: awayPause + 2,
		},
		{
			name:   "never started again",
			meets:  daemons{{there: time.Hour, err: stops}, {err: gone}},
			stderr: "the daemon stops; waiting for it\n",
			took:   time.Hour + awayPatience + awayPause, err: api.ErrNoDaemon,
		},
		{
			name:  "refused",
			meets: daemons{{err: &api.Error{Code: api.CodeNotFound}}},
			err:   &api.Error{Code: api.CodeNotFound},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var stdout, stderr bytes.Buffer
				c := &command{sys: System{Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }}, output: outputTable}
				began := time.Now()
				e, err := newPrinter(c, 7).follow(t.Context(), &test.meets)
				if took := time.Since(began); took != test.took {
					t.Errorf("took %s, want %s", took, test.took)
				}
				switch {
				case test.err == nil && (err != nil || e.ID != 7):
					t.Errorf("found %+v, %v", e, err)
				case errors.Is(test.err, api.ErrNoDaemon) && (!errors.Is(err, api.ErrNoDaemon) || !strings.Contains(err.Error(), "execution show 7")):
					t.Errorf("found %v", err)
				case test.err != nil && err == nil:
					t.Error("found an end")
				}
				if stdout.String() != test.stdout || stderr.String() != test.stderr {
					t.Errorf("printed %q and %q", stdout.String(), stderr.String())
				}
			})
		})
	}
}
