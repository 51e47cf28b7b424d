package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// streamPause is how long a client waits before it looks for the daemon again.
	streamPause = 500 * time.Millisecond

	// maxStreamEvent bounds one server-sent event, in bytes: an execution has its parameters in it.
	maxStreamEvent = 8 << 20
)

// Follow is what who follows a stream wants to hear. Each may be nil but Item. An error of theirs ends the stream,
// and is what it gives.
type Follow[T any] struct {
	// Ready says that from here on everything is told: what is listed now, and what is told later, leaves nothing out.
	Ready func() error
	// Item is one thing that happened.
	Item func(*T) error
	// Gap says that something is missing here. Defaults to an error that says so.
	Gap func(*Gap) error
	// Away says that the daemon cannot be reached any more; it is looked for until it can.
	Away func(error) error
}

// stream follows a stream until ctx ends or something refuses it. A connection that is lost is made again, and the
// stream goes on where it was. A daemon that does not answer at first is an error, and so is a refusal at any time.
func stream[T any](ctx context.Context, c *Client, path string, query url.Values, kind string, follow Follow[T]) error {
	r := &streamReader[T]{kind: kind, follow: follow}
	for away := false; ; {
		err := r.read(ctx, c, path, query)
		wasReady := r.ready
		r.ready = false
		var own *followError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &own):
			return own.err
		case IsRefusal(err) && !IsUnavailable(err), r.last == "":
			return err
		case wasReady:
			away = false
		}
		if !away && follow.Away != nil {
			away = true
			if err := follow.Away(err); err != nil {
				return err
			}
		}
		if err := waitFor(ctx, streamPause); err != nil {
			return err
		}
	}
}

func waitFor(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// followError is what who follows has said.
type followError struct{ err error }

func (e *followError) Error() string { return e.err.Error() }

// streamReader reads a stream over one connection after the other.
type streamReader[T any] struct {
	kind   string
	follow Follow[T]
	last   string // the id that came last; empty: nothing has come
	ready  bool   // this connection has begun to tell
	told   bool   // Ready was called
}

func (r *streamReader[T]) read(ctx context.Context, c *Client, path string, query url.Values) error {
	header := []string{"Accept", streamType}
	if r.last != "" {
		header = append(header, "Last-Event-ID", r.last)
	}
	response, err := c.do(ctx, http.MethodGet, path, query, nil, header...)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxStreamEvent)
	var event, id, data string
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			event = value
		case "id":
			id = value
		case "data":
			data += value
		case "":
			if lines.Text() != "" {
				continue // a comment
			}
			if id != "" {
				r.last = id
			}
			if event != "" {
				if err := r.event(event, data); err != nil {
					return err
				}
			}
			event, id, data = "", "", ""
		}
	}
	if err := lines.Err(); err != nil {
		return c.broken(ctx, err)
	}
	return fmt.Errorf("the daemon at %s ended the stream: %w", c.name, ErrNoDaemon)
}

func (r *streamReader[T]) event(kind, data string) error {
	own := func(err error) error {
		if err == nil {
			return nil
		}
		return &followError{err}
	}
	switch kind {
	case r.kind:
		item := new(T)
		if err := decodeNumbers(data, item); err != nil {
			return err
		}
		return own(r.follow.Item(item))
	case kindReady:
		r.ready = true
		if r.told || r.follow.Ready == nil {
			return nil
		}
		r.told = true
		return own(r.follow.Ready())
	case kindGap:
		gap := new(Gap)
		if err := decodeNumbers(data, gap); err != nil {
			return err
		}
		if r.follow.Gap == nil {
			return own(fmt.Errorf("cannot follow without a gap: %s", gap.Reason))
		}
		return own(r.follow.Gap(gap))
	case kindError:
		problem := new(Error)
		if err := decodeNumbers(data, problem); err != nil {
			return err
		}
		return problem
	default: // of a newer daemon
		return nil
	}
}

// decodeNumbers decodes JSON whose numbers stay as they were written.
func decodeNumbers(text string, value any) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(value); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot read what the daemon tells: %v", err)
	}
	return nil
}
