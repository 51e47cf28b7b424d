package api

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/exec/worker"
	"github.com/attune-io/attune/reconcile/store"
)

// script is what a follower sees of the database and of the workers, look by look.
type script struct {
	rows  []store.Execution // what each look finds; the last one stays
	runs  []run             // what each question to the workers gives
	asked int
}

// run is an attempt and what it prints; 0: none runs here.
type run struct {
	attempt int
	printed []string
}

func (s *script) look(context.Context, int64) (*ExecutionDetail, error) {
	row := s.rows[0]
	if len(s.rows) > 1 {
		s.rows = s.rows[1:]
	}
	return &ExecutionDetail{Execution: row}, nil
}

func (s *script) Follow(context.Context, int64) (<-chan worker.Chunk, int) {
	if s.asked >= len(s.runs) || s.runs[s.asked].attempt == 0 {
		s.asked++
		return nil, 0
	}
	now := s.runs[s.asked]
	s.asked++
	chunks := make(chan worker.Chunk, len(now.printed))
	for _, text := range now.printed {
		chunks <- worker.Chunk{Stream: "stdout", Text: text}
	}
	close(chunks)
	return chunks, now.attempt
}

func (s *script) Stats() worker.Stats { return worker.Stats{} }

func TestFollow(t *testing.T) {
	t.Parallel()
	row := func(status store.Status, attempt int, stdout string) store.Execution {
		return store.Execution{ID: 7, Status: status, Attempt: attempt, Stdout: stdout}
	}
	waiting, running, again := row(store.StatusRequested, 0, ""), row(store.StatusRunning, 1, ""), row(store.StatusRunning, 2, "")
	tests := []struct {
		name string
		rows []store.Execution // the first is what was known before
		runs []run
		want []string
	}{
		{"over already", []store.Execution{row(store.StatusSucceeded, 1, "a"), row(store.StatusSucceeded, 1, "a")}, nil, []string{"a", "succeeded"}},
		{"cancelled before it ran", []store.Execution{waiting, row(store.StatusCancelled, 0, "")}, nil, []string{"cancelled"}},
		{"runs here", []store.Execution{running, row(store.StatusSucceeded, 1, "ab")}, []run{{1, []string{"a", "b"}}}, []string{"a", "b", "succeeded"}},
		{"runs elsewhere", []store.Execution{running, running, row(store.StatusFailed, 1, "ab")}, nil, []string{"ab", "failed"}},
		{
			"begins here after it was looked at",
			[]store.Execution{waiting, running, row(store.StatusSucceeded, 1, "a")},
			[]run{{1, []string{"a"}}},
			[]string{"a", "succeeded"},
		},
		{
			"can be followed longer than it runs: nothing is told twice",
			[]store.Execution{running, running, running, row(store.StatusSucceeded, 1, "a")},
			[]run{{1, []string{"a"}}, {1, []string{"a"}}, {1, []string{"a"}}},
			[]string{"a", "succeeded"},
		},
		{
			"claimed, and not begun yet",
			[]store.Execution{waiting, waiting, running, row(store.StatusSucceeded, 1, "a")},
			[]run{{1, nil}, {1, []string{"a"}}},
			[]string{"a", "succeeded"},
		},
		{
			"tried again here",
			[]store.Execution{running, row(store.StatusScheduled, 1, ""), again, row(store.StatusSucceeded, 2, "b")},
			[]run{{1, []string{"a"}}, {}, {2, []string{"b"}}},
			[]string{"a", "attempt", "b", "succeeded"},
		},
		{
			"tried again elsewhere",
			[]store.Execution{running, row(store.StatusScheduled, 1, ""), again, row(store.StatusSucceeded, 2, "b")},
			[]run{{1, []string{"a"}}},
			[]string{"a", "attempt", "b", "succeeded"},
		},
		{
			"tried again at once, while the first attempt was thought to run",
			[]store.Execution{running, again, row(store.StatusSucceeded, 3, "c")},
			[]run{{2, []string{"b"}}, {3, []string{"c"}}},
			[]string{"stored 1", "attempt", "b", "attempt", "c", "succeeded"},
		},
		{
			"given back before it began, and claimed again",
			[]store.Execution{again, again, row(store.StatusSucceeded, 2, "b")},
			[]run{{2, nil}, {2, []string{"b"}}},
			[]string{"stored 1", "attempt", "b", "succeeded"},
		},
		{
			"tried several times before anybody looked",
			[]store.Execution{row(store.StatusRunning, 3, ""), row(store.StatusSucceeded, 4, "d")},
			[]run{{3, []string{"c"}}},
			[]string{"stored 1", "stored 2", "attempt", "c", "attempt", "d", "succeeded"},
		},
		{
			"over after several attempts",
			[]store.Execution{row(store.StatusSucceeded, 3, "c"), row(store.StatusSucceeded, 3, "c")},
			nil,
			[]string{"stored 1", "stored 2", "attempt", "c", "succeeded"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &script{rows: test.rows, runs: test.runs}
			first, err := s.look(t.Context(), 7)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			outputs := func(_ context.Context, _ int64, _ time.Time, after, before int) (printed []store.Printed, _ error) {
				for n := after + 1; n < before; n++ {
					printed = append(printed, store.Printed{Attempt: n, Text: fmt.Sprintf("stored %d", n)})
				}
				return printed, nil
			}
			f := &follower{look: s.look, outputs: outputs, workers: s, write: func(line any, _ bool) error {
				switch l := line.(OutputLine); {
				case l.Execution != nil:
					got = append(got, string(l.Execution.Status))
				case l.Text == "" && l.Attempt != 0:
					got = append(got, "attempt")
				default:
					got = append(got, l.Text)
				}
				return nil
			}}
			if err := f.follow(t.Context(), first, true); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFollowEndsWithItsReader(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	s := &script{rows: []store.Execution{{ID: 7, Status: store.StatusRunning, Attempt: 1}}, runs: []run{{1, []string{"a", "b"}}}}
	f := &follower{look: s.look, workers: s, write: func(any, bool) error { return gone }}
	first, err := s.look(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.follow(t.Context(), first, true); !errors.Is(err, gone) {
		t.Errorf("found %v, want the writer's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.write = func(any, bool) error { return nil }
	if err := f.follow(ctx, first, true); !errors.Is(err, context.Canceled) {
		t.Errorf("found %v, want the context's error", err)
	}
}

// When the server stops, the workers have ended, and so has what ran here: it is looked at once more.
func TestFollowLooksOnceMoreWhenTheServerStops(t *testing.T) {
	t.Parallel()
	running := store.Execution{ID: 7, Status: store.StatusRunning, Attempt: 1}
	ended := store.Execution{ID: 7, Status: store.StatusSucceeded, Attempt: 1}
	stopping := make(chan struct{})
	close(stopping)
	for name, test := range map[string]struct {
		rows []store.Execution
		want []string
		ends bool
	}{
		"ended":       {[]store.Execution{running, running, ended}, []string{"a", "succeeded"}, true},
		"has to wait": {[]store.Execution{running, running, running, running}, []string{"a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &script{rows: test.rows, runs: []run{{1, []string{"a"}}}}
			first, err := s.look(t.Context(), 7)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			f := &follower{look: s.look, workers: s, stopping: stopping, write: func(line any, _ bool) error {
				if l := line.(OutputLine); l.Execution != nil {
					got = append(got, string(l.Execution.Status))
				} else {
					got = append(got, l.Text)
				}
				return nil
			}}
			err = f.follow(t.Context(), first, true)
			if test.ends && err != nil || !test.ends && !IsUnavailable(err) {
				t.Errorf("found %v", err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// limited is a connection that other requests would be cut off from after a while.
type limited struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (l *limited) SetReadDeadline(at time.Time) error  { l.read = at; return nil }
func (l *limited) SetWriteDeadline(at time.Time) error { l.write = at; return nil }

// A stream is not cut off by the time limits of other requests, which would also end the request's context.
func TestStreamsHaveNoLimit(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(time.Second)
	w := &limited{ResponseRecorder: httptest.NewRecorder(), read: soon, write: soon}
	lines := newLineWriter(w)
	if !w.read.IsZero() || !w.write.IsZero() {
		t.Errorf("a stream may read until %v and write until %v, expected no limit", w.read, w.write)
	}
	if err := lines.write("line", true); err != nil || w.Body.String() != "\"line\"\n" || !w.Flushed {
		t.Errorf("wrote %q, flushed %v: %v", w.Body.String(), w.Flushed, err)
	}
}
