package sensor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// badLinesPerSecond is how many lines that mean nothing are read in a second; a sensor that prints
	// more of them is held back, so that its flood does not starve the others.
	badLinesPerSecond = 1000

	// badLineLogEvery and badLineLogBurst bound how often a sensor's bad lines are logged.
	badLineLogEvery = 10 * time.Second
	badLineLogBurst = 3

	// badLineShown is how much of a bad line the log shows, in bytes.
	badLineShown = 256

	// cursorRetry is the wait between tries to keep a cursor while the database is away.
	cursorRetry = 500 * time.Millisecond
)

// ingest carries the lines of one process to the Sink.
type ingest struct {
	src     source
	sink    Sink
	cursors Instances
	feed    *feed // where acknowledgements go; nil: the sensor wants none
	stats   *stats
	metrics *metrics
	logger  *slog.Logger
	mask    *child.Mask // for what the log shows of a line
	// lost hears that the lease is another node's; nil: there is none.
	lost func(lease string)
	// blocked hears of each address that was forbidden; nil: nobody counts.
	blocked func()

	// now is when the newest line was read, or handed over. It is of run's goroutine, and so is lines.
	now   time.Time
	lines prometheus.Counter // of events; nil: none came
	// stored is settle for an event of which nobody wants to know more.
	stored func(store.StoredEvent, error)

	open     outstanding
	badRate  *rate.Limiter
	badLog   *rate.Limiter
	unlogged int // bad lines since the last that was logged
}

func (in *ingest) init() {
	in.badRate = rate.NewLimiter(badLinesPerSecond, badLinesPerSecond)
	in.badLog = rate.NewLimiter(rate.Every(badLineLogEvery), badLineLogBurst)
	in.stored = func(_ store.StoredEvent, err error) {
		in.settled(err)
		in.open.done()
	}
}

// run reads to the end, and returns when the fate of every event is known. When ctx ends first it
// gives up, and tells how much was lost.
func (in *ingest) run(ctx context.Context, stdout io.Reader) {
	lines := child.NewLineReader(stdout)
	lost := 0
	for {
		line, err := lines.Next()
		if err != nil {
			break
		}
		in.now = time.Now()
		in.stats.alive(in.now)
		if !in.take(ctx, line) {
			lost++
		}
	}
	if in.open.wait(ctx) != nil {
		in.logger.Warn("sensor's last events are not known to be stored", "events", in.open.count())
	}
	if lost > 0 {
		in.logger.Error("lines of the sensor were lost", "lines", lost)
	}
}

// take handles one line; false: it is lost, because ctx has ended. A line that makes us panic is a bad
// line like others.
func (in *ingest) take(ctx context.Context, line child.Line) (taken bool) {
	defer func() {
		if p := recover(); p != nil {
			in.logger.Error("reading a sensor's line panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			in.bad(ctx, line, lineBad, "internal error")
			taken = true
		}
	}()
	if line.TooLong {
		in.bad(ctx, line, lineTooLong, "the line is too long")
		return true
	}
	if blank(line.Bytes) {
		return true
	}
	m, err := parseLine(line.Bytes, &in.src)
	switch {
	case err != nil && line.Partial:
		in.bad(ctx, line, lineBad, "the last line has no end: "+err.Error())
		return true
	case err != nil:
		in.bad(ctx, line, lineBad, err.Error())
		return true
	}
	switch m.control {
	case typeHeartbeat:
		in.count(lineHeartbeat)
		return true
	case typeBlocked:
		in.count(lineBlocked)
		if in.blocked != nil {
			in.blocked()
		}
		return true
	case typeCursor:
		in.count(lineCursor)
		return in.keepCursor(ctx, m)
	}
	if in.lines == nil {
		in.lines = in.metrics.lines.WithLabelValues(in.src.ref, lineEvent)
	}
	in.lines.Inc()
	return in.submit(ctx, m)
}

func blank(line []byte) bool {
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' {
			return false
		}
	}
	return true
}

// submit hands over the events of a line; it blocks while the Sink is full.
func (in *ingest) submit(ctx context.Context, m *message) bool {
	acknowledge := in.acknowledger(m)
	for i := range m.events {
		event := &m.events[i]
		in.open.add()
		in.stats.submitting(in.now)
		err := in.sink.SubmitAsync(ctx, *event, in.fate(event.Due, m.jitter, acknowledge))
		in.now = time.Now()
		in.stats.submitted(in.now)
		if err != nil {
			in.open.done()
			in.count(lineLost)
			return false
		}
	}
	return true
}

// fate gives what is to be called with the fate of an event.
func (in *ingest) fate(due *time.Time, jitter time.Duration, acknowledge func(error)) func(store.StoredEvent, error) {
	if due == nil && acknowledge == nil {
		return in.stored
	}
	return func(stored store.StoredEvent, err error) {
		in.settled(err)
		if err == nil && due != nil && !stored.Duplicate {
			in.metrics.timerDelay.Observe(max(0, time.Since(*due)-jitter).Seconds())
		}
		if acknowledge != nil {
			acknowledge(err)
		}
		in.open.done()
	}
}

// acknowledger gives what is to be called with the fate of each event of a line: it acknowledges the
// line once all of them are stored.
func (in *ingest) acknowledger(m *message) func(error) {
	if in.feed == nil || m.ack == "" {
		return nil
	}
	var mu sync.Mutex
	left, failed := len(m.events), false
	return func(err error) {
		mu.Lock()
		defer mu.Unlock()
		left--
		failed = failed || err != nil
		if left == 0 && !failed && !in.feed.ack(m.ack) {
			in.logger.Warn("sensor does not read its acknowledgements")
		}
	}
}

// settled counts the fate of an event.
func (in *ingest) settled(err error) {
	if err == nil {
		in.stats.stored(time.Now())
		return
	}
	if errors.Is(err, store.ErrNotHeld) {
		in.fenced()
		return
	}
	in.count(lineRefused)
	in.stats.badLine()
	if in.badLog.Allow() {
		in.logger.Warn("sensor's event was refused", "err", err)
	}
}

// fenced counts what came under a lease that this node has lost, and ends what runs under it.
func (in *ingest) fenced() {
	in.count(lineFenced)
	if in.lost != nil {
		in.lost(in.src.lease)
	}
}

// keepCursor keeps a cursor that came without an event. It must not overtake the events before it: it
// says that they need not be replayed.
func (in *ingest) keepCursor(ctx context.Context, m *message) bool {
	in.stats.submitting(time.Now())
	defer func() { in.stats.submitted(time.Now()) }()
	if in.open.wait(ctx) != nil {
		return false
	}
	for try := 0; ; try++ {
		err := in.cursors.SetSensorCursor(ctx, in.src.ref, in.src.lease, m.cursor)
		switch {
		case err == nil:
			return true
		case errors.Is(err, store.ErrNotHeld):
			in.fenced()
			return true
		}
		if ctx.Err() == nil && !store.IsTransient(err) {
			// The database will never take it, and what comes after it must not wait for that.
			in.count(lineBad)
			in.stats.badLine()
			in.logger.Warn("sensor's cursor was refused", "err", err)
			return true
		}
		if try == 0 {
			in.logger.Warn("sensor's cursor waits for the database", "err", err)
		}
		if pause(ctx, cursorRetry) != nil {
			return false
		}
	}
}

// bad counts a line that means nothing, and logs some of them.
func (in *ingest) bad(ctx context.Context, line child.Line, outcome, problem string) {
	in.count(outcome)
	in.stats.badLine()
	in.unlogged++
	if in.badLog.Allow() {
		shown := in.mask.Bytes(line.Bytes)
		in.logger.Warn("sensor printed no event", "line", line.Number, "err", in.mask.String(problem),
			"text", child.Sanitize(shown[:min(len(shown), badLineShown)]), "bad_lines", in.unlogged)
		in.unlogged = 0
	}
	_ = in.badRate.Wait(ctx) // its end is seen by what comes next
}

func (in *ingest) count(outcome string) {
	in.metrics.lines.WithLabelValues(in.src.ref, outcome).Inc()
}

// pause waits, up to a quarter more or less, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(time.Duration(float64(d) * (0.75 + rand.Float64()/2)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// outstanding counts the events whose fate is not known yet.
type outstanding struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when there are none; nil: nobody waits
}

func (o *outstanding) add() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n++
}

func (o *outstanding) done() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n--
	if o.n == 0 && o.none != nil {
		close(o.none)
		o.none = nil
	}
}

func (o *outstanding) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.n
}

// wait waits until there are none. It has one caller at a time.
func (o *outstanding) wait(ctx context.Context) error {
	o.mu.Lock()
	if o.n == 0 {
		o.mu.Unlock()
		return nil
	}
	none := make(chan struct{})
	o.none = none
	o.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
