package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Outcome is how an attempt ended.
type Outcome struct {
	Token  string
	Status Status // succeeded, failed, timed_out, cancelled
	// ExitCode is nil when a signal ended it or it never started.
	ExitCode *int
	Signal   string // "SIGKILL"
	Error    string
	// Result is nil where there is none, which is not the same as null, also once this was written to a file.
	Result json.RawMessage `json:",omitempty"`
	Stdout Output
	Stderr Output
	// Arrival is the order in which the two came: lengths in bytes of their texts, by turns of stdout and of
	// stderr; what it does not tell of comes last. Nil: stdout, then stderr.
	Arrival []int
	// RetryAt queues another attempt for then instead of ending the execution.
	RetryAt *time.Time
	// Spare says that the attempt does not count, as its node was stopping: with RetryAt.
	Spare bool
}

// Output is what was kept of a stream: the whole, or its head and tail with the middle counted.
type Output struct {
	Text    string // sanitized UTF-8; head, a line that says what is missing, tail
	Bytes   int64  // written by the child
	Omitted int64  // bytes of the middle that were not kept
}

// LeftError is what Finish gives where it recorded all but some outcomes: why, by their place. One that is
// not [ErrRowLocked] was refused in every form.
type LeftError struct{ Left map[int]error }

func (e *LeftError) Error() string {
	first := slices.Min(slices.Collect(maps.Keys(e.Left)))
	return fmt.Sprintf("cannot record %d outcomes: %v", len(e.Left), e.Left[first])
}

// Unwrap gives the errors of all.
func (e *LeftError) Unwrap() []error { return slices.Collect(maps.Values(e.Left)) }

// Finish records outcomes in one statement, by token only. An outcome whose token no longer holds
// changes nothing but is kept as evidence on its attempt; its place in the answer is false. One that
// was recorded before, and is sent again because the answer was lost, is true. RetryAt is taken as a
// distance from now, so that only the database's clock counts; an execution that somebody has
// cancelled meanwhile ends as cancelled instead.
//
// An outcome that the database refuses holds up no other: it is recorded without its output and result
// or, where that is refused too, as failed for that reason. What cannot be recorded at all is in a
// [LeftError], and its place in the answer means nothing.
func (s *Store) Finish(ctx context.Context, outcomes []Outcome) (accepted []bool, err error) {
	call := finishing{accepted: make([]bool, len(outcomes)), left: map[int]error{}}
	var part []sentOutcome
	size := 0
	seen := map[uuid.UUID]bool{}
	for i, o := range outcomes {
		if !o.Status.IsOutcome() {
			return nil, fmt.Errorf("cannot finish an attempt as %q: expected succeeded, failed, timed_out or cancelled", o.Status)
		}
		token, err := uuid.Parse(o.Token)
		if err != nil || seen[token] {
			continue // nobody's, or said already
		}
		seen[token] = true
		part = append(part, sentOutcome{place: i, token: token, Outcome: cleanOutcome(o)})
		size += len(o.Result) + len(o.Stdout.Text) + len(o.Stderr.Text)
		if len(part) >= finishRows || size >= finishBytes {
			if err := s.finishAll(ctx, part, &call); err != nil {
				return nil, err
			}
			part, size = nil, 0
		}
	}
	if err := s.finishAll(ctx, part, &call); err != nil {
		return nil, err
	}
	if len(call.left) > 0 {
		return call.accepted, &LeftError{Left: call.left}
	}
	return call.accepted, nil
}

// finishing is what one call of Finish has come to: by the places of the outcomes, which of them count,
// and why some could not be recorded.
type finishing struct {
	accepted []bool
	left     map[int]error
}

// sentOutcome is an outcome with its place in the caller's list.
type sentOutcome struct {
	place int
	token uuid.UUID
	Outcome
}

// finishAll records outcomes together or, where the database refuses one, in halves, until that one is
// alone.
func (s *Store) finishAll(ctx context.Context, part []sentOutcome, call *finishing) error {
	if len(part) == 0 {
		return nil
	}
	return inHalves(part,
		func(some []sentOutcome) error { return s.finish(ctx, some, call) },
		func(one sentOutcome, err error) error { return s.finishRefused(ctx, one, err, call) })
}

// finishRefused records of an outcome what the database takes.
func (s *Store) finishRefused(ctx context.Context, refused sentOutcome, why error, call *finishing) error {
	stripped := refused
	stripped.Error = addProblem(refused.Error, "the database refused its output or result: "+cleanText(why.Error()))
	stripped.Result, stripped.Stdout.Text, stripped.Stderr.Text, stripped.Arrival = nil, "", "", nil
	err := s.finish(ctx, []sentOutcome{stripped}, call)
	if !isRefused(err) {
		if err == nil && call.left[refused.place] == nil {
			s.metrics.refused.WithLabelValues(asStripped).Inc()
			s.log.Warn("an outcome is recorded without its output and result, which are refused", "component", "store", "execution_id", executionOf(refused.token), "err", why)
		}
		return err
	}
	failed := sentOutcome{place: refused.place, token: refused.token, Outcome: Outcome{
		Token: refused.Token, Status: StatusFailed,
		Error: fmt.Sprintf("it ended as %s, but the database refused to record that: %s", refused.Status, cleanText(err.Error())),
	}}
	last := s.finish(ctx, []sentOutcome{failed}, call)
	if isRefused(last) {
		call.left[refused.place] = last
		return nil
	}
	if last == nil && call.left[refused.place] == nil {
		s.metrics.refused.WithLabelValues(asFailed).Inc()
		s.log.Error("an outcome is recorded as failed, because the database refuses it even without output and result", "component", "store", "execution_id", executionOf(refused.token), "status", refused.Status, "err", err)
	}
	return last
}

func (s *Store) finish(ctx context.Context, part []sentOutcome, call *finishing) error {
	places, freed := make(map[string]int, len(part)), keyedSet{}
	for _, o := range part {
		places[o.token.String()] = o.place
	}
	statement, args := finishStatement(part)
	err := s.hot(ctx, "finish attempts", func(batch *pgx.Batch) {
		s.queue(batch, statement, args).Query(func(rows pgx.Rows) error {
			var token, action string
			var key *string
			var notified int64
			_, err := pgx.ForEachRow(rows, []any{&token, &action, &key, &notified}, func() error {
				call.accepted[places[token]] = true
				freed.add(&action, key)
				return nil
			})
			return err
		})
	})
	if err != nil {
		return err
	}
	s.finished.Add(int64(len(part)))
	s.admit(ctx, freed)
	var missing []sentOutcome
	for _, o := range part {
		if !call.accepted[o.place] {
			missing = append(missing, o)
		}
	}
	late, err := s.withoutLocked(ctx, missing, call)
	if err != nil {
		return err
	}
	return s.keepEvidence(ctx, late, call.accepted)
}

// withoutLocked gives those that are late, and not only passed over because their row was locked.
func (s *Store) withoutLocked(ctx context.Context, some []sentOutcome, call *finishing) (late []sentOutcome, err error) {
	if len(some) == 0 {
		return nil, nil
	}
	ids, tokens := make([]int64, len(some)), make([]uuid.UUID, len(some))
	for i, o := range some {
		ids[i], tokens[i] = executionOf(o.token), o.token
	}
	held, err := s.stillHeld(ctx, ids, tokens)
	for _, o := range some {
		if _, is := held[o.token.String()]; is {
			call.left[o.place] = ErrRowLocked
		} else {
			late = append(late, o)
		}
	}
	return late, err
}

// finishStatement gives the statement for these outcomes: FinishAttempts where one is to be tried again, or has an
// order of its streams to be kept.
func finishStatement(part []sentOutcome) (name string, args pgx.StrictNamedArgs) {
	n := len(part)
	ids, tokens, statuses := make([]int64, n), make([]uuid.UUID, n), make([]string, n)
	codes, retries, spares := make([]*int, n), make([]*float64, n), make([]bool, n)
	signals, errs, results := make([]string, n), make([]string, n), make([]string, n)
	stdout, stderr := make([]string, n), make([]string, n)
	stdoutBytes, stdoutOmitted := make([]int64, n), make([]int64, n)
	stderrBytes, stderrOmitted := make([]int64, n), make([]int64, n)
	arrivals := make([][]int, n)
	again := false
	for i, o := range part {
		ids[i], tokens[i], statuses[i], codes[i] = executionOf(o.token), o.token, string(o.Status), o.ExitCode
		signals[i], errs[i], results[i] = o.Signal, o.Error, string(o.Result)
		stdout[i], stdoutBytes[i], stdoutOmitted[i] = o.Stdout.Text, o.Stdout.Bytes, o.Stdout.Omitted
		stderr[i], stderrBytes[i], stderrOmitted[i] = o.Stderr.Text, o.Stderr.Bytes, o.Stderr.Omitted
		spares[i], arrivals[i] = o.Spare, o.Arrival
		again = again || len(o.Arrival) > 0
		if o.RetryAt != nil {
			seconds := max(time.Until(*o.RetryAt).Seconds(), 0)
			retries[i], again = &seconds, true
		}
	}
	args = pgx.StrictNamedArgs{
		"ids":            ids,
		"tokens":         tokens,
		"statuses":       statuses,
		"exit_codes":     codes,
		"signals":        signals,
		"errors":         errs,
		"results":        results,
		"stdout_texts":   stdout,
		"stdout_bytes":   stdoutBytes,
		"stdout_omitted": stdoutOmitted,
		"stderr_texts":   stderr,
		"stderr_bytes":   stderrBytes,
		"stderr_omitted": stderrOmitted,
	}
	if !again {
		return "EndAttempts", args
	}
	args["retry_seconds"], args["spares"], args["arrivals"] = retries, spares, arrivalTexts(arrivals)
	return "FinishAttempts", args
}

// arrivalTexts gives each as PostgreSQL reads an array; empty: there is none.
func arrivalTexts(all [][]int) []string {
	texts := make([]string, len(all))
	for i, lengths := range all {
		if len(lengths) > 0 {
			texts[i] = "{" + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(lengths)), ","), "[]") + "}"
		}
	}
	return texts
}

// evidence is an outcome as it is kept beside an attempt that it came too late for.
type evidence struct {
	Status   Status          `json:"status"`
	ExitCode *int            `json:"exit_code,omitempty"`
	Signal   string          `json:"signal,omitempty"`
	Error    string          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Stdout   string          `json:"stdout,omitempty"`
	Stderr   string          `json:"stderr,omitempty"`
}

func (s *Store) keepEvidence(ctx context.Context, late []sentOutcome, accepted []bool) error {
	if len(late) == 0 {
		return nil
	}
	places := map[string]int{}
	var ids []int64
	var tokens []uuid.UUID
	var statuses, kept []string
	for _, o := range late {
		text, err := encode(evidence{
			Status: o.Status, ExitCode: o.ExitCode, Signal: o.Signal, Error: o.Error,
			Result: o.Result, Stdout: o.Stdout.Text, Stderr: o.Stderr.Text,
		})
		if err != nil {
			return fmt.Errorf("cannot encode a late outcome: %w", err)
		}
		places[o.token.String()] = o.place
		ids, tokens = append(ids, executionOf(o.token)), append(tokens, o.token)
		statuses, kept = append(statuses, string(o.Status)), append(kept, text)
	}
	return s.hot(ctx, "keep late outcomes", func(batch *pgx.Batch) {
		s.queue(batch, "KeepEvidence", pgx.StrictNamedArgs{
			"ids": ids, "tokens": tokens, "statuses": statuses, "outcomes": kept,
		}).Query(func(rows pgx.Rows) error {
			same, err := pgx.CollectRows(rows, pgx.RowTo[string])
			for _, token := range same {
				accepted[places[token]] = true
			}
			return err
		})
	})
}

// cleanOutcome gives an outcome that PostgreSQL takes, and says in its Error what had to be changed.
func cleanOutcome(o Outcome) Outcome {
	o.Error = cleanText(o.Error)
	o.Signal = cleanText(o.Signal)
	o.Stdout.Text = cleanText(o.Stdout.Text)
	o.Stderr.Text = cleanText(o.Stderr.Text)
	if o.Result == nil {
		return o
	}
	result, problem := cleanJSON(o.Result)
	o.Result = result
	if problem != "" {
		o.Error = addProblem(o.Error, "the result was changed: "+problem)
	}
	return o
}
