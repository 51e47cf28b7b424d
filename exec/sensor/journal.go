package sensor

import (
	"bytes"
	"context"
	"sync"

	"golang.org/x/time/rate"

	"github.com/attune-io/attune/exec/child"
)

const (
	// journalLines and journalBytes bound what is kept of a sensor's stderr.
	journalLines = 1000
	journalBytes = 256 << 10

	// journalLine is the longest line that is kept, in bytes.
	journalLine = 4 << 10

	// shownLines is how many lines a sensor's Info has.
	shownLines = 20
)

// journal keeps the last lines of a sensor's stderr, over all its processes, and hands them to whoever
// follows.
type journal struct {
	// name is of this run of the daemon: the numbers of another's lines mean something else.
	name string

	mu    sync.Mutex
	lines []string // a ring: line n stands at n modulo its length
	first int64    // number of the oldest line that is kept
	next  int64    // number of the line to come
	bytes int
	// wake is closed when a line comes; nil: nobody waits.
	wake   chan struct{}
	closed bool
}

// add appends a line; the oldest go where it needs their place.
func (j *journal) add(line []byte) {
	text := child.Sanitize(line[:min(len(line), journalLine)])
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lines == nil {
		j.lines = make([]string, journalLines)
	}
	for j.next > j.first && (j.next-j.first == journalLines || j.bytes+len(text) > journalBytes) {
		oldest := &j.lines[j.first%journalLines]
		j.bytes -= len(*oldest)
		*oldest = ""
		j.first++
	}
	j.lines[j.next%journalLines] = text
	j.bytes += len(text)
	j.next++
	j.rouse()
}

func (j *journal) rouse() {
	if j.wake != nil {
		close(j.wake)
		j.wake = nil
	}
}

// tail gives the last lines, at most n.
func (j *journal) tail(n int64) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.from(max(j.first, j.next-n))
}

// from gives the lines from a number on.
func (j *journal) from(number int64) []string {
	lines := make([]string, 0, j.next-number)
	for ; number < j.next; number++ {
		lines = append(lines, j.lines[number%journalLines])
	}
	return lines
}

// LogLine is a line of a sensor's stderr.
type LogLine struct {
	Number int64 // from 1
	Text   string
}

// since gives what came from a number on and is still there, the number of the first of it, and what is closed
// when there is more; nil: there will be none.
func (j *journal) since(number int64) (lines []string, first int64, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	first = min(max(j.first, number), j.next)
	lines = j.from(first)
	if j.closed {
		return lines, first, nil
	}
	if j.wake == nil {
		j.wake = make(chan struct{})
	}
	return lines, first, j.wake
}

// follow gives the lines behind the one of that number, as far as they are kept, and with more also those that
// come, until ctx or the journal ends.
func (j *journal) follow(ctx context.Context, more bool, after int64) <-chan LogLine {
	out := make(chan LogLine)
	go func() {
		defer close(out)
		at := after // lines are counted from 0 in here
		for {
			lines, first, wake := j.since(at)
			at = first + int64(len(lines))
			for i, line := range lines {
				select {
				case out <- LogLine{Number: first + int64(i) + 1, Text: line}:
				case <-ctx.Done():
					return
				}
			}
			if !more || wake == nil {
				return
			}
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// close ends all who follow.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.rouse()
}

// lineWriter splits a sensor's stderr into the lines of a journal.
type lineWriter struct {
	journal *journal
	mask    *child.Mask // nil: nothing is secret
	flood   *rate.Limiter
	line    []byte // begun, without its end
}

// stderrPerSecond and stderrBurst are how much stderr is read, in bytes: more than anybody writes who
// has something to say, and little enough that a flood does not take a core from the others. A line
// costs as much as lineCost bytes more.
const (
	stderrPerSecond = 2 << 20
	stderrBurst     = 8 << 20
	lineCost        = 100
)

func newLineWriter(j *journal, mask *child.Mask) *lineWriter {
	return &lineWriter{journal: j, mask: mask, flood: rate.NewLimiter(stderrPerSecond, stderrBurst)}
}

// lineWriterRoom is how much of a line is looked at, in bytes: more than is kept, so that a secret is
// not cut before it is recognised.
const lineWriterRoom = 2 * journalLine

// Write never fails, and waits for nobody but a flood's own turn.
func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	// Without a context's end, and within the burst, this fails never; it waits some seconds at most.
	_ = w.flood.WaitN(context.Background(), min(n+lineCost*bytes.Count(p, []byte{'\n'}), stderrBurst))
	for {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		w.line = append(w.line, part[:min(len(part), lineWriterRoom-len(w.line))]...)
		if i < 0 {
			return n, nil
		}
		w.end()
		p = p[i+1:]
	}
}

func (w *lineWriter) end() {
	w.journal.add(w.mask.Bytes(bytes.TrimSuffix(w.line, []byte("\r"))))
	w.line = w.line[:0]
}

// flush takes the last line, where it has no end.
func (w *lineWriter) flush() {
	if len(w.line) > 0 {
		w.end()
	}
}
