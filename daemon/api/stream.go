package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// streamType is the content type of server-sent events.
const streamType = "text/event-stream"

// streamBeat is how often a silent stream says that it is there, so that what stands between does not cut it, and a
// reader that has gone is noticed.
const streamBeat = 15 * time.Second

// The kinds of server-sent events that every stream has, beside its own.
const (
	// kindReady is the first: from here on nothing is left out.
	kindReady = "ready"
	// kindGap says that something is missing at this place.
	kindGap = "gap"
	// kindError ends a stream.
	kindError = "error"
)

// Ready says that a stream has begun.
type Ready struct{}

// Gap says that a stream cannot tell everything: what follows is not all that happened since what came before.
type Gap struct {
	Reason string `json:"reason"`
	// Missed is how many are missing; 0: nobody knows.
	Missed int64 `json:"missed,omitempty"`
}

// Resume is a part of the input of every stream: where to go on. It is exported for the library that reads it.
type Resume struct {
	LastEventID string `header:"Last-Event-ID" maxLength:"200" doc:"The id that came last: the stream goes on behind it, or tells of a gap. Absent: it begins now."`
}

// eventWriter writes server-sent events.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newEventWriter(w http.ResponseWriter) *eventWriter {
	w.Header().Set("Content-Type", streamType)
	// Proxies that know it hand on what comes at once.
	w.Header().Set("X-Accel-Buffering", "no")
	e := &eventWriter{w: w, control: http.NewResponseController(w)}
	_ = e.control.SetReadDeadline(time.Time{})
	_ = e.control.SetWriteDeadline(time.Time{})
	return e
}

// send writes one event; an empty id leaves the reader's as it is. text is JSON, and so has no line ends.
func (e *eventWriter) send(kind, id string, text []byte) error {
	if id != "" {
		id = "id: " + id + "\n"
	}
	_, err := fmt.Fprintf(e.w, "event: %s\n%sdata: %s\n\n", kind, id, text)
	return err
}

// sendJSON writes one event, at once.
func (e *eventWriter) sendJSON(kind, id string, value any) error {
	text, err := encodeLine(value)
	if err != nil {
		return err
	}
	if err := e.send(kind, id, text); err != nil {
		return err
	}
	return e.control.Flush()
}

// beat says that the stream is there, and behind what it would go on. No reader takes it for an event.
func (e *eventWriter) beat(id string) error {
	if _, err := fmt.Fprintf(e.w, ": \nid: %s\n\n", id); err != nil {
		return err
	}
	return e.control.Flush()
}

// encodeLine encodes as JSON in one line.
func encodeLine(value any) ([]byte, error) {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(text.String(), "\n")), nil
}

// itemOf makes an item out of what goes over the wire.
func itemOf[T any](value *T) (feedItem[T], error) {
	text, err := encodeLine(value)
	return feedItem[T]{item: value, text: text}, err
}

// routeStream adds a route whose answer is server-sent events of a kind, each with a T. The handler's errors are of
// the time before the first event.
func routeStream[I, T any](api huma.API, path string, wants need, id, summary, kind string, item T, handle func(context.Context, *I) (func(*eventWriter), error)) {
	op := operation(http.MethodGet, path, wants, id, summary)
	op.Description += "\n\nAn event `ready` comes first, then events `" + kind + "`. An event `gap` says that something is missing in its place, " +
		"`error` that the stream ends. Each has an id, behind which a later request goes on that names it in Last-Event-ID."
	schemas := api.OpenAPI().Components.Schemas
	one := func(kind string, data reflect.Type) *huma.Schema {
		return &huma.Schema{
			Type: huma.TypeObject, Required: []string{"event", "data"},
			Properties: map[string]*huma.Schema{
				"event": {Type: huma.TypeString, Enum: []any{kind}},
				"id":    {Type: huma.TypeString},
				"data":  schemas.Schema(data, true, ""),
			},
		}
	}
	op.Responses = map[string]*huma.Response{"200": {
		Description: "Server-sent events",
		Content: map[string]*huma.MediaType{streamType: {Schema: &huma.Schema{
			Description: "One event, its data as the JSON that it is.",
			OneOf: []*huma.Schema{
				one(kindReady, reflect.TypeFor[Ready]()), one(kind, reflect.TypeOf(item)),
				one(kindGap, reflect.TypeFor[Gap]()), one(kindError, reflect.TypeFor[Error]()),
			},
		}}},
	}}
	registerWriting(api, op, newEventWriter, handle)
}

// serve hands on what a feed tells, as far as wanted, until who follows has gone or the server stops.
func serve[T any](ctx context.Context, s *Server, f *feed[T], kind, after string, wanted func(*T) bool) (func(*eventWriter), error) {
	ctx, cancel := s.streaming(ctx)
	c, gap, err := f.follow(ctx, after)
	if err != nil {
		cancel()
		return nil, err
	}
	return func(w *eventWriter) {
		defer cancel()
		defer c.leave()
		if err := pass(ctx, w, c, kind, gap, wanted); err != nil && ctx.Err() == nil {
			_ = w.sendJSON(kindError, "", problemOf(ctx, err)) // who has gone does not hear it
		}
	}, nil
}

func pass[T any](ctx context.Context, w *eventWriter, c *cursor[T], kind, gap string, wanted func(*T) bool) error {
	if err := w.sendJSON(kindReady, c.id(c.next-1), Ready{}); err != nil {
		return err
	}
	if gap != "" {
		if err := w.sendJSON(kindGap, c.id(c.next-1), Gap{Reason: gap}); err != nil {
			return err
		}
	}
	beat := time.NewTicker(streamBeat)
	defer beat.Stop()
	for {
		entries, number, missed, more, ok := c.take()
		if !ok {
			return newError(CodeUnavailable, "the stream ends: nothing is followed any more", "ask again")
		}
		if missed > 0 {
			if err := w.sendJSON(kindGap, c.id(number-1), Gap{Reason: "this reader is too slow, or came back too late; list what you may have missed", Missed: missed}); err != nil {
				return err
			}
		}
		for i := range entries {
			id := c.id(number + int64(i))
			var err error
			switch e := &entries[i]; {
			case e.gap != "":
				err = w.sendJSON(kindGap, id, Gap{Reason: e.gap})
			case wanted(e.item):
				err = w.send(kind, id, e.text)
			}
			if err != nil {
				return err
			}
		}
		if len(entries) > 0 {
			if err := w.control.Flush(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-more:
		case <-beat.C:
			if err := w.beat(c.id(c.next - 1)); err != nil {
				return err
			}
		}
	}
}
