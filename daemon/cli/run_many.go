package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// batchBytes is how much one request queues at most, beside a line that is larger alone: what the
	// daemon takes, with room for what stands around it.
	batchBytes = 512 << 10

	// maxLine is the longest line of --each, above what the daemon takes.
	maxLine = 16 << 20

	// askPause is the least time between two questions which executions have ended, and askWait how long
	// the daemon may wait with its answer. Of many only some are asked about at once, so that others may
	// end meanwhile.
	askPause     = 100 * time.Millisecond
	askWait      = 5 * time.Second
	askWaitShort = 200 * time.Millisecond

	// maxTold is how many refusals and failures are told one by one.
	maxTold = 10
)

// Summary is what became of many.
type summary struct {
	Action    string  `json:"action_ref"`
	Queued    int     `json:"queued"`
	Refused   int     `json:"refused"`
	Succeeded int     `json:"succeeded"`
	Failed    int     `json:"failed"`
	TimedOut  int     `json:"timed_out"`
	Cancelled int     `json:"cancelled"`
	Lost      int     `json:"lost"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
	FirstID   int64   `json:"first_id"` // 0: none was queued
	LastID    int64   `json:"last_id"`
	// Failures are some of those that did not succeed, the first ones.
	Failures []store.End `json:"failures"`
}

func (s *summary) ended() int { return s.Succeeded + s.Failed + s.TimedOut + s.Cancelled + s.Lost }

func (s *summary) count(end store.End) {
	switch end.Status {
	case store.StatusSucceeded:
		s.Succeeded++
		return
	case store.StatusTimedOut:
		s.TimedOut++
	case store.StatusCancelled:
		s.Cancelled++
	case store.StatusLost:
		s.Lost++
	default:
		s.Failed++
	}
	if len(s.Failures) < maxTold {
		s.Failures = append(s.Failures, end)
	}
}

// crowd is many executions of one action, being queued and waited for.
type crowd struct {
	*runner
	client *api.Client
	words  map[string]any // the parameters that all have

	mu        sync.Mutex
	sum       summary
	open      idSet
	since     time.Time // when the first were asked for
	queued    bool      // no more come
	sending   bool      // a batch is under way
	cancelled bool
	problem   error // why no more come, where that is not the end of the file
	grown     chan struct{}
}

func (r *runner) runMany(ctx context.Context, client *api.Client, i *interrupts) (int, error) {
	lines, closeLines, err := r.lines()
	if err != nil {
		return 0, err
	}
	defer closeLines()
	m := &crowd{runner: r, client: client, words: r.ask.Parameters, grown: make(chan struct{}, 1)}
	m.sum.Action, m.sum.Failures = r.ask.Action, []store.End{}
	began := time.Now()

	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	feeding, stopFeeding := context.WithCancel(ctx)
	defer stopFeeding()
	over := make(chan struct{})
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		m.feed(feeding, lines)
	}()
	var helpers sync.WaitGroup
	helpers.Go(func() { m.hear(ctx, i, over, stopFeeding, leave) })
	if !r.detach {
		helpers.Go(func() { m.tell(over, began) })
	}
	if r.detach {
		m.untilQueued(ctx)
	} else {
		err = m.wait(ctx)
	}
	close(over)
	stopFeeding()
	if errors.Is(context.Cause(ctx), errLeft) {
		m.note("%d executions go on until they are cancelled", m.left())
		return i.code(), nil
	}
	helpers.Wait()
	if i.last == nil {
		<-fed // else it may read stdin, which may never come back
	}
	if err != nil {
		return 0, err
	}
	return m.end(began, i)
}

// lines opens what --each names: nil, the parameters of all are the same.
func (r *runner) lines() (*lineReader, func(), error) {
	nothing := func() {}
	switch r.each {
	case "":
		return nil, nothing, nil
	case "-":
		return newLineReader(r.sys.Stdin, "stdin"), nothing, nil
	}
	file, err := os.Open(r.each)
	if err != nil {
		return nil, nothing, usagef("cannot read --each: %v", err)
	}
	return newLineReader(file, r.each), func() { file.Close() }, nil
}

// lineReader reads parameters, a JSON object a line.
type lineReader struct {
	scanner *bufio.Scanner
	name    string
	number  int
}

func newLineReader(r io.Reader, name string) *lineReader {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, maxLine)
	return &lineReader{scanner: scanner, name: name}
}

// next gives the next line that is not empty, nil at the end; wrong says what is wrong with it alone.
func (l *lineReader) next() (object map[string]any, size int, wrong, err error) {
	for l.scanner.Scan() {
		l.number++
		text := bytes.TrimSpace(l.scanner.Bytes())
		if len(text) == 0 {
			continue
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&object); err != nil {
			return nil, len(text), fmt.Errorf("expected one JSON object: %w", err), nil
		}
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return nil, len(text), errors.New("expected one JSON object, found more behind it"), nil
		}
		if object == nil {
			return nil, len(text), errors.New("expected one JSON object, found null"), nil
		}
		return object, len(text), nil, nil
	}
	if err := l.scanner.Err(); err != nil {
		return nil, 0, nil, fmt.Errorf("cannot read %s after line %d: %w", l.name, l.number, err)
	}
	return nil, 0, nil, nil
}

// item is an execution about to be queued, and where it comes from.
type item struct {
	ask   api.NewExecution
	place string
}

// feed queues all there are, batch by batch.
func (m *crowd) feed(ctx context.Context, lines *lineReader) {
	defer func() {
		m.mu.Lock()
		m.queued = true
		m.mu.Unlock()
		m.poke()
	}()
	var batch []item
	size := 0
	send := func() bool {
		ok := m.send(ctx, batch)
		batch, size = batch[:0], 0
		return ok
	}
	add := func(ask api.NewExecution, place string, n int) bool {
		if len(batch) > 0 && size+n > batchBytes && !send() {
			return false
		}
		batch, size = append(batch, item{ask, place}), size+n
		return len(batch) < api.MaxBatch || send()
	}
	if lines == nil {
		all, err := json.Marshal(m.ask)
		if err != nil {
			m.fail(fmt.Errorf("cannot encode the parameters: %w", err))
			return
		}
		for n := 1; n <= m.count; n++ {
			if !add(m.ask, "", len(all)) {
				return
			}
		}
		send()
		return
	}
	for {
		object, n, wrong, err := lines.next()
		if err != nil {
			m.fail(err)
		}
		if object == nil && wrong == nil {
			send()
			return
		}
		place := fmt.Sprintf("%s:%d", lines.name, lines.number)
		if wrong != nil {
			m.refuse(place, wrong)
			continue
		}
		ask := m.ask
		if len(m.words) > 0 {
			ask.Parameters = maps.Clone(m.words)
			maps.Copy(ask.Parameters, object)
		} else {
			ask.Parameters = object
		}
		if !add(ask, place, n) {
			return
		}
	}
}

// send queues one batch, and says whether to go on.
func (m *crowd) send(ctx context.Context, batch []item) bool {
	if ctx.Err() != nil {
		return false
	}
	if len(batch) == 0 {
		return true
	}
	asks := make([]api.NewExecution, len(batch))
	for i, one := range batch {
		asks[i] = one.ask
	}
	m.setSending(true)
	defer m.setSending(false)
	// A batch that was sent is waited for: what it queued has to be known.
	answer, err := m.client.ExecuteBatch(context.WithoutCancel(ctx), asks)
	if api.IsRefusal(err) && len(batch) == 1 && !api.IsUnavailable(err) {
		// One that is too large, say. Others may not be.
		m.refuse(batch[0].place, err)
		return true
	}
	if err != nil {
		what := fmt.Sprintf("%d executions", len(batch))
		if batch[0].place != "" {
			what = fmt.Sprintf("%s to %s", batch[0].place, batch[len(batch)-1].place)
		}
		m.fail(fmt.Errorf("cannot tell whether %s were queued: %w", what, err))
		return false
	}
	for i, one := range answer.Answers {
		if one.Error != nil {
			m.refuse(batch[i].place, one.Error)
		}
	}
	m.mu.Lock()
	if m.since.IsZero() {
		m.since = answer.AskedAt
	}
	var late []int64
	for _, one := range answer.Answers {
		if one.ID == 0 {
			continue
		}
		m.open.add(one.ID)
		if m.sum.Queued++; m.sum.FirstID == 0 {
			m.sum.FirstID = one.ID
		}
		m.sum.LastID = one.ID
		if m.cancelled {
			late = append(late, one.ID)
		}
	}
	m.mu.Unlock()
	if len(late) > 0 {
		m.cancel(context.WithoutCancel(ctx), late)
	}
	m.poke()
	return true
}

func (m *crowd) setSending(sending bool) {
	m.mu.Lock()
	m.sending = sending
	m.mu.Unlock()
	m.poke()
}

// refuse counts an execution that was not queued, and tells why of the first ones.
func (m *crowd) refuse(place string, why error) {
	m.mu.Lock()
	m.sum.Refused++
	n := m.sum.Refused
	m.mu.Unlock()
	if n > maxTold {
		return
	}
	text := why.Error()
	if place != "" {
		text = place + ": " + text
	}
	m.complain(text, "")
	if n == maxTold {
		m.note("further refusals are only counted")
	}
}

// fail notes why no more are queued.
func (m *crowd) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problem = errors.Join(m.problem, err)
}

func (m *crowd) poke() {
	select {
	case m.grown <- struct{}{}:
	default:
	}
}

func (m *crowd) left() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open.len()
}

// hear acts on interrupts: the first cancels all and goes on, so that the ends are seen; the second
// leaves.
func (m *crowd) hear(ctx context.Context, i *interrupts, over <-chan struct{}, stopFeeding func(), leave func(error)) {
	for n := 1; n <= 2; n++ {
		select {
		case s := <-i.signals:
			i.take(s)
		case <-over:
			return
		}
		if n == 2 || m.detach {
			leave(errLeft)
			return
		}
		stopFeeding()
		m.note("cancelling %d executions; once more to stop waiting", m.left())
		m.mu.Lock()
		m.cancelled = true
		open := m.open.all()
		m.mu.Unlock()
		m.poke()
		go m.cancel(ctx, open)
	}
}

// cancel cancels executions of ours.
func (m *crowd) cancel(ctx context.Context, ids []int64) {
	// The newest first: those that wait, while the oldest run.
	slices.Reverse(ids)
	for some := range slices.Chunk(ids, api.MaxBatch) {
		if _, err := m.client.CancelAll(ctx, api.BulkChoice{IDs: some}); err != nil {
			if ctx.Err() == nil {
				m.complain(err.Error(), "")
			}
			return
		}
	}
}

// untilQueued waits until all are queued.
func (m *crowd) untilQueued(ctx context.Context) {
	for {
		m.mu.Lock()
		done := m.queued
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-m.grown:
		}
	}
}

// wait waits until all are queued and have ended.
func (m *crowd) wait(ctx context.Context) error {
	var away time.Time // since when there is no daemon
	for {
		m.mu.Lock()
		some, total, since, done := m.open.pick(api.MaxBatch), m.open.len(), m.since, m.queued || m.cancelled && !m.sending
		m.mu.Unlock()
		if total == 0 && done {
			return nil
		}
		if total == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-m.grown:
			}
			continue
		}
		wait := askWait
		if total > len(some) || !done {
			wait = askWaitShort
		}
		asked := time.Now()
		ends, err := m.client.Ends(ctx, some, since, wait)
		pause := askPause - time.Since(asked)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			away = time.Time{}
			m.take(ends)
		case api.IsRefusal(err) && !api.IsUnavailable(err), !away.IsZero() && time.Since(away) > awayPatience:
			return err
		case away.IsZero():
			away = time.Now()
			m.note("%v; waiting for it", err)
			pause = awayPause
		default:
			pause = awayPause
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (m *crowd) take(ends []store.End) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, end := range ends {
		if m.open.remove(end.ID) {
			m.sum.count(end)
		}
	}
}

// tell shows how it goes until it is over.
func (m *crowd) tell(over <-chan struct{}, began time.Time) {
	p := m.newGauge(began)
	ticker := time.NewTicker(p.period())
	defer ticker.Stop()
	defer p.clear()
	for {
		m.mu.Lock()
		ended, failed := m.sum.ended(), m.sum.ended()-m.sum.Succeeded+m.sum.Refused
		total, known := m.sum.Queued, m.queued
		m.mu.Unlock()
		if m.each == "" {
			total, known = m.count, true
		}
		p.show(time.Now(), ended, total, failed, known)
		select {
		case <-over:
			return
		case <-ticker.C:
		}
	}
}

// end prints the summary and gives the exit code.
func (m *crowd) end(began time.Time, i *interrupts) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.sum
	s.Seconds = time.Since(began).Seconds()
	if s.Seconds > 0 {
		s.PerSecond = float64(s.ended()) / s.Seconds
	}
	for _, end := range s.Failures {
		why := ""
		if end.Error != nil {
			why = ": " + *end.Error
		}
		m.complain(fmt.Sprintf("execution %d %s%s", end.ID, statusText(end.Status), why), "")
	}
	if more := s.ended() - s.Succeeded - len(s.Failures); more > 0 {
		m.note("and %d more: see `attune execution list --action %s`", more, s.Action)
	}
	if err := m.print(s, m.summaryLine); err != nil {
		return 0, err
	}
	switch {
	case m.problem != nil:
		m.complain(m.problem.Error(), "")
		return exitFailed, nil
	case i.last != nil:
		return i.code(), nil
	case s.Refused > 0, !m.detach && s.Succeeded < s.Queued:
		return exitFailed, nil
	}
	return exitDone, nil
}

func (m *crowd) summaryLine(w io.Writer) {
	s := &m.sum
	if m.detach {
		fmt.Fprintf(w, "%s queued", count(s.Queued, "execution"))
		if s.Queued > 0 {
			fmt.Fprintf(w, ": %d to %d", s.FirstID, s.LastID)
		}
	} else {
		fmt.Fprintf(w, "%s in %s (%.0f/s): %d succeeded", count(s.ended(), "execution"), span(time.Duration(s.Seconds*float64(time.Second))), s.PerSecond, s.Succeeded)
	}
	for _, part := range []struct {
		n    int
		word string
	}{{s.Failed, "failed"}, {s.TimedOut, "timed out"}, {s.Cancelled, "cancelled"}, {s.Lost, "lost"}, {s.Refused, "refused"}} {
		if part.n > 0 {
			fmt.Fprintf(w, ", %s", m.paint(styleBad, fmt.Sprintf("%d %s", part.n, part.word)))
		}
	}
	fmt.Fprintln(w)
}
