package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/attune-io/attune/reconcile/store"
)

// slowSink takes events at once and tells their fate when the test says so.
type slowSink struct {
	mu   sync.Mutex
	done []func(store.StoredEvent, error)
}

func (s *slowSink) SubmitAsync(_ context.Context, _ store.NewEvent, done func(store.StoredEvent, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = append(s.done, done)
	return nil
}

// settle tells the fate of the oldest event.
func (s *slowSink) settle(err error) {
	s.mu.Lock()
	done := s.done[0]
	s.done = s.done[1:]
	s.mu.Unlock()
	done(store.StoredEvent{}, err)
}

// cursorKeeper is the part of Instances that an ingest uses.
type cursorKeeper struct {
	mu     sync.Mutex
	kept   []string
	errors []error // of the next calls
}

func (c *cursorKeeper) TriggerInstances(context.Context, []string) ([]store.TriggerInstance, error) {
	return nil, nil
}

func (c *cursorKeeper) SensorCursor(context.Context, string) (json.RawMessage, error) {
	return nil, nil
}

func (c *cursorKeeper) SetSensorCursor(_ context.Context, _, _ string, cursor json.RawMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errors) > 0 {
		err := c.errors[0]
		c.errors = c.errors[1:]
		return err
	}
	c.kept = append(c.kept, string(cursor))
	return nil
}

func (c *cursorKeeper) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept
}

func newIngest(sink Sink, cursors Instances) *ingest {
	in := &ingest{src: *one(), sink: sink, cursors: cursors, stats: &stats{}, metrics: newMetrics(nil, nil), logger: quiet()}
	in.init()
	return in
}

func TestACursorDoesNotOvertakeEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink, cursors := &slowSink{}, &cursorKeeper{}
		in := newIngest(sink, cursors)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			in.run(t.Context(), strings.NewReader(`{"payload":{}}
{"payload":{}}
{"type":"cursor","cursor":2}
{"payload":{}}
`))
		}()
		synctest.Wait()
		sink.settle(nil)
		synctest.Wait()
		if got := cursors.all(); len(got) > 0 {
			t.Errorf("cursor %v was kept before its events", got)
		}
		sink.settle(errors.New("refused")) // that is a fate too
		synctest.Wait()
		if diff := cmp.Diff([]string{"2"}, cursors.all()); diff != "" {
			t.Error(diff)
		}
		select {
		case <-ended:
			t.Error("it ended before the fate of its last event was known")
		default:
		}
		sink.settle(nil)
		<-ended
	})
}

func TestACursorWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		away := context.DeadlineExceeded // one of the errors that pass
		cursors := &cursorKeeper{errors: []error{away, away, errors.New("it will never take this")}}
		in := newIngest(&slowSink{}, cursors)
		begin := time.Now()
		in.run(t.Context(), strings.NewReader("{\"cursor\":1}\n{\"cursor\":2}\n"))
		if diff := cmp.Diff([]string{"2"}, cursors.all()); diff != "" {
			t.Error(diff)
		}
		if took := time.Since(begin); took < cursorRetry || took > 3*cursorRetry {
			t.Errorf("it took %s", took)
		}
		if got := testutil.ToFloat64(in.metrics.lines.WithLabelValues("p.s", lineBad)); got != 1 {
			t.Errorf("%v bad lines", got)
		}
	})
}

func TestOnlyStoredEventsAreAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sink := &slowSink{}
		in := newIngest(sink, &cursorKeeper{})
		in.feed = newFeed()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			in.run(t.Context(), strings.NewReader(`{"events":[{},{}],"event_id":"both"}
{"events":[{},{}],"event_id":"one of them"}
{"payload":{},"event_id":"none"}
{"payload":{}}
`))
		}()
		synctest.Wait()
		sink.settle(nil)
		if acks, _ := in.feed.take(); len(acks) > 0 {
			t.Errorf("acknowledged %v with one of two events stored", acks)
		}
		refused := errors.New("refused")
		for _, err := range []error{nil, refused, nil, refused, nil} {
			sink.settle(err)
		}
		<-ended
		acks, _ := in.feed.take()
		if diff := cmp.Diff([]string{"both"}, acks); diff != "" {
			t.Error(diff)
		}
		if got := testutil.ToFloat64(in.metrics.lines.WithLabelValues("p.s", lineRefused)); got != 2 {
			t.Errorf("%v refused events", got)
		}
	})
}

func TestTheEndTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	sink := newCollectingSink()
	sink.shut()
	in := newIngest(sink, &cursorKeeper{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in.run(ctx, strings.NewReader("{\"payload\":{}}\n{\"type\":\"heartbeat\"}\n{\"payload\":{}}\n"))
	if got := testutil.ToFloat64(in.metrics.lines.WithLabelValues("p.s", lineLost)); got != 2 {
		t.Errorf("%v lost events", got)
	}
}

func TestTheFeed(t *testing.T) {
	t.Parallel()
	f := newFeed()
	var out lines
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.run(&out, done)
	}()
	f.send([]byte(`"first"`))
	until(t, "the first list", func() bool { return out.String() == "\"first\"\n" })
	f.ack("a")
	until(t, "an acknowledgement", func() bool { return out.String() == "\"first\"\n{\"ack\":\"a\"}\n" })
	close(done)
	<-ended

	f = newFeed()
	for range maxAcks {
		if !f.ack("x") {
			t.Fatal("dropped before its bound")
		}
	}
	if f.ack("x") {
		t.Error("there is no bound")
	}
	f.send([]byte("old"))
	f.send([]byte("new"))
	if acks, update := f.take(); len(acks) != maxAcks || string(update) != "new" {
		t.Errorf("%d acknowledgements, update %q", len(acks), update)
	}
}

// lines is a buffer that may be read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
