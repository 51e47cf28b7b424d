package child

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	// MaxLine is the longest line that LineReader gives, in bytes; what is longer is dropped to its end
	// and counted.
	MaxLine = 1 << 20
	// tooLongHead is how much of a dropped line is kept, so that one can tell whose it was.
	tooLongHead = 256
	// lineBuffer is what a reader begins with, lineBufferKept what it keeps after a long line: there may
	// be hundreds of readers, and few have long lines.
	lineBuffer     = 4 << 10
	lineBufferKept = 64 << 10
	// emptyReads is how many reads may give nothing before the reader is taken for broken.
	emptyReads = 100
)

// Line is one line of a stream, without its newline.
type Line struct {
	Number int64  // from 1, dropped lines counted
	Bytes  []byte // valid until the next call
	// TooLong says that the line was longer than MaxLine: Bytes is its head, 256 bytes.
	TooLong bool
	// Partial says that the stream ended without a newline.
	Partial bool
}

// LineReader splits a stream into lines with a bounded buffer: at most MaxLine and one read.
type LineReader struct {
	r          io.Reader
	buf        []byte
	start, end int // what is read and not given yet
	scanned    int // up to here there is no newline
	number     int64
	dropping   bool // inside a line that is too long
	head       []byte
	err        error
}

// NewLineReader reads from r.
func NewLineReader(r io.Reader) *LineReader { return &LineReader{r: r} }

// Next gives the next line, or io.EOF. After another error of the stream, what was read is given as a
// partial line first.
func (l *LineReader) Next() (Line, error) {
	for {
		if i := bytes.IndexByte(l.buf[l.scanned:l.end], '\n'); i >= 0 {
			return l.take(l.scanned+i, false), nil
		}
		l.scanned = l.end
		if l.dropping || l.end-l.start > MaxLine {
			l.drop()
		}
		if l.err != nil {
			if l.end > l.start || l.dropping {
				return l.take(l.end, true), nil
			}
			l.buf, l.start, l.end, l.scanned = nil, 0, 0, 0
			return Line{}, l.err
		}
		l.fill()
	}
}

// take gives what is there up to i as a line.
func (l *LineReader) take(i int, partial bool) Line {
	l.number++
	line := Line{Number: l.number, Bytes: l.buf[l.start:i], Partial: partial}
	if l.dropping || len(line.Bytes) > MaxLine {
		l.keepHead(line.Bytes)
		line.Bytes, line.TooLong = l.head, true
		l.dropping = false
	}
	l.start = i
	if !partial {
		l.start++
	}
	l.scanned = l.start
	return line
}

// drop forgets what is there of a line that is too long, but for its head.
func (l *LineReader) drop() {
	l.keepHead(l.buf[l.start:l.end])
	l.dropping = true
	l.start, l.end, l.scanned = 0, 0, 0
}

// keepHead is for the first piece of a dropped line only, which is longer than the head.
func (l *LineReader) keepHead(piece []byte) {
	if !l.dropping {
		l.head = append(l.head[:0], piece[:min(len(piece), tooLongHead)]...)
	}
}

// fill reads once more, after making room.
func (l *LineReader) fill() {
	switch {
	case l.start == l.end:
		l.start, l.end, l.scanned = 0, 0, 0
		if len(l.buf) > lineBufferKept {
			l.buf = make([]byte, lineBufferKept)
		}
	case l.start > 0 && len(l.buf)-l.end < len(l.buf)/2:
		copy(l.buf, l.buf[l.start:l.end])
		l.end -= l.start
		l.scanned -= l.start
		l.start = 0
	}
	if l.end == len(l.buf) {
		grown := make([]byte, max(lineBuffer, min(2*len(l.buf), MaxLine+readSize)))
		copy(grown, l.buf[:l.end])
		l.buf = grown
	}
	room := l.buf[l.end:min(len(l.buf), l.end+readSize)]
	for range emptyReads {
		n, err := l.r.Read(room)
		l.end += n
		l.err = err
		if n > 0 || err != nil {
			return
		}
	}
	l.err = io.ErrNoProgress
}

// Capture keeps the head and the tail of a stream and counts the middle. It is an io.Writer that
// never blocks and never fails; followers may read along.
type Capture struct {
	mu        sync.Mutex
	masker    *masker // nil without secrets
	headLimit int
	tailLimit int
	head      []byte
	tail      []byte // a ring once it is full
	next      int    // where the ring goes on
	total     int64
	closed    bool
	followers map[*follower]int // the place that it has there
	arrivals  *Arrivals         // nil: it stands alone
	turn      int               // which of the two it is there
}

// NewCapture keeps at most limit bytes, half of it head and half tail. mask may be nil. Counted and kept
// is what is left after masking.
func NewCapture(limit int64, mask *Mask) *Capture {
	limit = max(limit, 0)
	c := &Capture{headLimit: int(limit - limit/2), tailLimit: int(limit / 2), followers: map[*follower]int{}}
	if mask != nil {
		c.masker = mask.masker()
	}
	return c
}

func (c *Capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return len(p), nil
	}
	out := p
	if c.masker != nil {
		out = c.masker.write(p)
	}
	c.keep(out)
	return len(p), nil
}

// Close says that no more comes.
func (c *Capture) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	if c.masker != nil {
		c.keep(c.masker.flush())
	}
	c.closed = true
	for f := range c.followers {
		delete(c.followers, f)
		f.end()
	}
	return nil
}

func (c *Capture) keep(p []byte) {
	if len(p) == 0 {
		return
	}
	// Before anybody sees it: who does may have the child print on at once, to the other stream.
	if c.arrivals != nil {
		c.arrivals.note(c.turn, len(p))
	}
	for f, of := range c.followers {
		f.send(of, p)
	}
	c.total += int64(len(p))
	n := min(len(p), c.headLimit-len(c.head))
	c.head = append(c.head, p[:n]...)
	p = p[n:]
	if c.tailLimit == 0 {
		return
	}
	if len(p) > c.tailLimit {
		p = p[len(p)-c.tailLimit:]
	}
	n = min(len(p), c.tailLimit-len(c.tail))
	c.tail = append(c.tail, p[:n]...)
	for p = p[n:]; len(p) > 0; p = p[n:] {
		n = copy(c.tail[c.next:], p)
		c.next = (c.next + n) % c.tailLimit
	}
}

// kept gives head, tail and the number of bytes left out between them.
func (c *Capture) kept() (head, tail []byte, omitted int64) {
	tail = append(bytes.Clone(c.tail[c.next:]), c.tail[:c.next]...)
	return c.head, tail, c.total - int64(len(c.head)) - int64(len(c.tail))
}

// Text gives what was kept, as valid UTF-8 without NUL; where bytes were left out a line says how
// many. total and omitted are in bytes.
func (c *Capture) Text() (text string, total, omitted int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	head, tail, omitted := c.kept()
	if omitted == 0 {
		return Sanitize(append(bytes.Clone(head), tail...)), c.total, 0
	}
	// Half a character at the cut is not the program's mistake.
	cut := trimLastRune(head)
	rest := trimFirstRune(tail)
	omitted += int64(len(head) - len(cut) + len(tail) - len(rest))
	return Sanitize(cut) + omission(cut, omitted) + Sanitize(rest), c.total, omitted
}

// Written tells how many bytes were written so far, after masking.
func (c *Capture) Written() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// Raw gives the bytes that were kept if nothing was left out, else nil and false.
func (c *Capture) Raw() ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	head, tail, omitted := c.kept()
	if omitted > 0 {
		return nil, false
	}
	return append(bytes.Clone(head), tail...), true
}

// omission is a line of its own, whatever stands before it.
func omission(before []byte, n int64) string {
	line := fmt.Sprintf("[… %d bytes left out …]\n", n)
	if len(before) > 0 && before[len(before)-1] != '\n' {
		line = "\n" + line
	}
	return line
}

// Sanitize makes text of whatever a program printed: PostgreSQL takes neither NUL nor bad UTF-8.
func Sanitize(b []byte) string {
	s := strings.ToValidUTF8(string(b), "\uFFFD")
	return strings.ReplaceAll(s, "\x00", "\uFFFD")
}

func trimLastRune(b []byte) []byte {
	for i := 1; i <= min(utf8.UTFMax, len(b)); i++ {
		if tail := b[len(b)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return b[:len(b)-i]
			}
			break
		}
	}
	return b
}

func trimFirstRune(b []byte) []byte {
	for i := 0; i < min(utf8.UTFMax, len(b)); i++ {
		if utf8.RuneStart(b[i]) {
			return b[i:]
		}
	}
	return b
}
