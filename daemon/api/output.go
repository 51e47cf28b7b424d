package api

import (
	"context"
	"encoding/json"
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

func (s *Server) executionOutput(ctx context.Context, in *struct {
	ID     int64 `path:"id" minimum:"1"`
	Follow bool  `query:"follow" doc:"Go on until the execution has ended"`
}) (func(*lineWriter), error) {
	detail, err := s.executionDetail(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return func(w *lineWriter) {
		ctx, cancel := s.streaming(ctx)
		defer cancel()
		if err := s.follow(ctx, w, detail, in.Follow); err != nil {
			problem := problemOf(ctx, err)
			_ = w.write(OutputLine{Error: problem}, true)
		}
	}, nil
}

// follow writes what an execution printed, and what it prints, and at last the execution. Its attempt
// may run here, and then its output is followed live; it may run elsewhere, or be over, and then there
// is what the database has.
func (s *Server) follow(ctx context.Context, w *lineWriter, detail *ExecutionDetail, wait bool) error {
	finished, unsubscribe := s.opts.Notices.Subscribe(store.ChannelFinished)
	defer unsubscribe()
	told := 0 // the attempt whose output is out
	delay := lookFirst
	for {
		if !detail.Status.Final() && wait {
			attempt, err := s.followHere(ctx, w, detail, told)
			if err != nil {
				return err
			}
			if attempt > told {
				told, delay = attempt, lookFirst
			}
		}
		var err error
		if detail, err = s.executionDetail(ctx, detail.ID); err != nil {
			return err
		}
		if detail.Status.Final() || !wait {
			break
		}
		if delay, err = pause(ctx, delay, finished); err != nil {
			return err
		}
	}
	if told != detail.Attempt || told == 0 {
		if err := stored(w, detail); err != nil {
			return err
		}
	}
	return w.write(OutputLine{Execution: detail}, true)
}

// followHere writes the output of an attempt that runs in this daemon until that ends, and gives its
// number; 0 where none runs here whose output is not out already. (An attempt can be followed for a
// moment longer than it runs: until its end is written.)
func (s *Server) followHere(ctx context.Context, w *lineWriter, detail *ExecutionDetail, told int) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	chunks, ok := s.opts.Workers.Follow(ctx, detail.ID)
	if !ok {
		return 0, nil
	}
	if detail.Status != store.StatusRunning {
		// The row was read before this attempt began.
		var err error
		if detail, err = s.executionDetail(ctx, detail.ID); err != nil {
			return 0, err
		}
	}
	if detail.Attempt <= told {
		return 0, nil
	}
	if detail.Attempt > 1 {
		if err := w.write(OutputLine{Attempt: detail.Attempt}, true); err != nil {
			return 0, err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case chunk, open := <-chunks:
			if !open {
				return detail.Attempt, ctx.Err()
			}
			if err := w.write(OutputLine{Stream: chunk.Stream, Text: chunk.Text}, true); err != nil {
				return 0, err
			}
		}
	}
}

// stored writes the output that the database has.
func stored(w *lineWriter, detail *ExecutionDetail) error {
	if detail.Stdout != "" {
		if err := w.write(OutputLine{Stream: "stdout", Text: detail.Stdout}, false); err != nil {
			return err
		}
	}
	if detail.Stderr != "" {
		return w.write(OutputLine{Stream: "stderr", Text: detail.Stderr}, false)
	}
	return nil
}

// pause waits until it is worth while to look again, and gives how long to wait the next time.
func pause(ctx context.Context, delay time.Duration, finished <-chan string) (time.Duration, error) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-finished:
		return lookFirst, nil
	case <-timer.C:
		return min(2*delay, lookLast), nil
	}
}
