package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// linesType is the content type of JSON lines.
const linesType = "application/x-ndjson"

const (
	// lookFirst and lookLast are how often it is looked whether a waiting execution has begun: soon at
	// first, since most begin at once, and then seldom. Its end is also told by a notice.
	lookFirst = 5 * time.Millisecond
	lookLast  = 500 * time.Millisecond
)

// lineWriter writes JSON lines.
type lineWriter struct {
	encoder *json.Encoder
	control *http.ResponseController
}

func newLineWriter(w http.ResponseWriter) *lineWriter {
	w.Header().Set("Content-Type", linesType)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	l := &lineWriter{encoder: encoder, control: http.NewResponseController(w)}
	// A stream takes as long as what it follows, and its reader may pause. The limits of other requests over
	// TCP would end it; who may follow has shown a token.
	_ = l.control.SetReadDeadline(time.Time{})
	_ = l.control.SetWriteDeadline(time.Time{})
	// The header goes out now: the first line may be long in coming.
	_ = l.control.Flush()
	return l
}

// write writes one line; with flush it is sent at once.
func (l *lineWriter) write(line any, flush bool) error {
	if err := l.encoder.Encode(line); err != nil || !flush {
		return err
	}
	return l.control.Flush()
}

// streaming gives the context of a stream, which ends with the request or when the server stops.
func (s *Server) streaming(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-s.stopping:
		}
	}()
	return ctx, cancel
}

// outputQuery says whose output is wanted, and whether what comes as well.
type outputQuery struct {
	ID     int64 `path:"id" minimum:"1"`
	Follow bool  `query:"follow" doc:"Go on until the execution has ended"`
}

func (s *Server) executionOutput(ctx context.Context, in *outputQuery) (func(*lineWriter), error) {
	detail, err := s.executionDetail(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return func(w *lineWriter) {
		f, done := s.follower(w.write)
		defer done()
		if err := f.follow(ctx, detail, in.Follow); err != nil {
			_ = w.write(OutputLine{Error: problemOf(ctx, err)}, true)
		}
	}, nil
}

// follower makes one that hands on to write; done is to be called when it has ended.
func (s *Server) follower(write func(line any, flush bool) error) (f *follower, done func()) {
	finished, unsubscribe := s.opts.Notices.Subscribe(store.ChannelFinished)
	return &follower{
		look: s.executionDetail, outputs: s.opts.Store.Outputs, workers: s.opts.Workers,
		finished: finished, stopping: s.stopping, write: write,
	}, unsubscribe
}

// follower follows one execution.
type follower struct {
	look func(ctx context.Context, id int64) (*ExecutionDetail, error)
	// outputs gives what attempts between two numbers printed.
	outputs  func(ctx context.Context, id int64, createdAt time.Time, after, before int) ([]store.Printed, error)
	workers  Workers
	finished <-chan string // a word whenever executions have ended
	// stopping is closed when the server stops. The workers have ended by then, so that what ran here has ended
	// as well, or waits for another daemon: it is looked at once more.
	stopping <-chan struct{}
	stopped  bool // it was seen that it is closed
	write    func(line any, flush bool) error
	told     int // the attempt whose output is out
	begun    int // the attempt of which it was told that it begins
}

// follow writes what an execution printed, and what it prints, and at last the execution. Its attempt
// may run here, and then its output is followed live; it may run elsewhere, or be over, and then there
// is what the database has. A database that goes away meanwhile is waited for, as the action itself goes
// on without it.
func (f *follower) follow(ctx context.Context, detail *ExecutionDetail, wait bool) error {
	delay := lookFirst
	for {
		if !detail.Status.Final() && wait {
			before := f.told
			if err := f.attempt(ctx, detail); err != nil && !outage(ctx, err) {
				return err
			}
			if f.told > before {
				delay = lookFirst
			}
		}
		now, err := f.look(ctx, detail.ID)
		switch {
		case err == nil:
			detail = now
		case !wait || !outage(ctx, err):
			return err
		}
		if detail.Status.Final() || !wait {
			break
		}
		if f.stopped {
			return newError(CodeUnavailable, fmt.Sprintf("cannot follow execution %d to its end: the daemon stops", detail.ID), "")
		}
		if delay, err = f.pause(ctx, delay); err != nil {
			return err
		}
	}
	if f.told < detail.Attempt {
		if err := f.earlier(ctx, detail, detail.Attempt); err != nil {
			return err
		}
		if err := f.stored(ctx, detail); err != nil {
			return err
		}
	}
	return f.write(OutputLine{Execution: detail}, true)
}

// outage says whether it is only the database that is away.
func outage(ctx context.Context, err error) bool { return ctx.Err() == nil && store.IsTransient(err) }

// attempt writes the output of an attempt that runs in this daemon until that ends; nothing where none
// runs here whose output is not out already. (An attempt can be followed for a moment longer than it
// runs: until its end is written.)
func (f *follower) attempt(ctx context.Context, detail *ExecutionDetail) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The row may have been read before this attempt began.
	chunks, attempt := f.workers.Follow(ctx, detail.ID)
	if attempt <= f.told {
		return nil
	}
	if err := f.earlier(ctx, detail, attempt); err != nil {
		return err
	}
	for printed := false; ; printed = true {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case chunk, open := <-chunks:
			if !open {
				// One that printed nothing may have been given back before it began: then its number
				// comes again.
				if printed {
					f.told = attempt
				}
				return ctx.Err()
			}
			if err := f.write(OutputLine{Stream: chunk.Stream, Text: chunk.Text, Attempt: attempt}, true); err != nil {
				return err
			}
		}
	}
}

// earlier writes what the attempts before this one printed, where nobody has told that, and that a
// further one begins.
func (f *follower) earlier(ctx context.Context, detail *ExecutionDetail, attempt int) error {
	if attempt > f.told+1 {
		if err := f.printed(ctx, detail, f.told, attempt); err != nil {
			return err
		}
		f.told = attempt - 1
	}
	if attempt <= 1 || attempt == f.begun {
		return nil
	}
	f.begun = attempt
	return f.write(OutputLine{Attempt: attempt}, true)
}

// stored writes the output that the database has.
func (f *follower) stored(ctx context.Context, detail *ExecutionDetail) error {
	if detail.Stdout == "" && detail.Stderr == "" {
		return nil
	}
	if detail.Stdout == "" || detail.Stderr == "" {
		stream := "stdout"
		if detail.Stdout == "" {
			stream = "stderr"
		}
		return f.write(OutputLine{Stream: stream, Text: detail.Stdout + detail.Stderr, Attempt: detail.Attempt}, false)
	}
	return f.printed(ctx, detail, detail.Attempt-1, detail.Attempt+1)
}

// printed writes what attempts between two numbers printed.
func (f *follower) printed(ctx context.Context, detail *ExecutionDetail, after, before int) error {
	printed, err := f.outputs(ctx, detail.ID, detail.CreatedAt, after, before)
	if err != nil {
		return err
	}
	for _, p := range printed {
		if err := f.write(OutputLine{Stream: p.Stream, Text: p.Text, Attempt: p.Attempt}, false); err != nil {
			return err
		}
	}
	return nil
}

// pause waits until it is worth while to look again, and gives how long to wait the next time.
func (f *follower) pause(ctx context.Context, delay time.Duration) (time.Duration, error) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-f.stopping:
		f.stopped = true
		return lookFirst, nil
	case <-f.finished:
		return lookFirst, nil
	case <-timer.C:
		return min(2*delay, lookLast), nil
	}
}
