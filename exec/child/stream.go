package child

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// readSize is one read of a child's output: what a pipe holds by default.
	readSize = 64 << 10
	// pipeLeast is what fits into the smallest pipe, in bytes.
	pipeLeast = 4 << 10
)

// buffers lends what a read needs for as long as data is handed on: a child that says nothing holds no
// buffer, and there may be hundreds.
var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// streams are a child's pipes, as its parent holds them.
type streams struct {
	childEnds []int
	kept      *stdinPipe
	stdin     *pipeEnd
	out, err  *pipeEnd // err is nil where both go through out
	read      bool     // there are readers
	copying   sync.WaitGroup
	reading   sync.WaitGroup
	mu        sync.Mutex
	cut       bool
	log       *slog.Logger
	name      string // of the child
}

// pipeEnd is our end of a pipe: a descriptor that does not block, and a file as soon as somebody has to
// wait for it. A short child is not worth the poller's work.
type pipeEnd struct {
	fd   int
	file *os.File
	// lasting says that it is used for one child after the other: we hold its other end too, so it does not
	// end, and it is not closed with a child.
	lasting bool
}

func (e *pipeEnd) asFile() *os.File {
	if e.file == nil {
		e.file = os.NewFile(uintptr(e.fd), "pipe")
	}
	return e.file
}

func (e *pipeEnd) close() {
	if e != nil && !e.lasting {
		e.giveUp()
	}
}

// giveUp closes also what lasts.
func (e *pipeEnd) giveUp() {
	switch {
	case e.file != nil:
		e.file.Close()
	case e.fd >= 0:
		unix.Close(e.fd)
		e.fd = -1
	}
}

// open makes the pipes and gives the child's descriptors in order.
func (s *streams) open(spec *Spec, null *os.File) ([]uintptr, error) {
	fds := make([]uintptr, 3, 3+len(spec.Files))
	for i := range fds {
		fds[i] = null.Fd()
	}
	err := s.openInto(spec, fds)
	if err != nil {
		s.closeChildEnds()
		s.close()
		return nil, err
	}
	for _, f := range spec.Files {
		fds = append(fds, f.Fd())
	}
	return fds, nil
}

func (s *streams) openInto(spec *Spec, fds []uintptr) error {
	var err error
	if f, ok := spec.Stdin.(*os.File); ok && !spec.KeepStdin {
		fds[0] = f.Fd()
	} else if spec.Stdin != nil || spec.KeepStdin {
		if s.stdin, err = s.pipe(&fds[0], true); err != nil {
			return err
		}
		if spec.KeepStdin {
			s.kept = &stdinPipe{f: s.stdin.asFile()}
		}
	}
	if f, ok := spec.Stdout.(*os.File); ok {
		fds[1] = f.Fd()
	} else if spec.Stdout != nil {
		if s.out, err = s.pipe(&fds[1], false); err != nil {
			return err
		}
	}
	if f, ok := spec.Stderr.(*os.File); ok {
		fds[2] = f.Fd()
	} else if spec.Stderr != nil && sameWriter(spec.Stdout, spec.Stderr) {
		fds[2] = fds[1]
	} else if spec.Stderr != nil {
		if s.err, err = s.pipe(&fds[2], false); err != nil {
			return err
		}
	}
	return nil
}

// pipe makes one pipe: the child's end blocks, as programs expect it, ours does not.
func (s *streams) pipe(childEnd *uintptr, childReads bool) (*pipeEnd, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	theirs, ours := p[1], p[0]
	if childReads {
		theirs, ours = ours, theirs
	}
	s.childEnds = append(s.childEnds, theirs)
	*childEnd = uintptr(theirs)
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(ours)
		return nil, err
	}
	return &pipeEnd{fd: ours}, nil
}

// sameWriter compares like os/exec does: a writer of an incomparable type is nobody's twin.
func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }()
	return a == b
}

func (s *streams) closeChildEnds() {
	for _, fd := range s.childEnds {
		unix.Close(fd)
	}
	s.childEnds = nil
}

// close closes our ends.
func (s *streams) close() {
	for _, e := range []*pipeEnd{s.stdin, s.out, s.err} {
		e.close()
	}
}

// write has stdin written, by a goroutine where that may take until the child reads.
func (s *streams) write(spec *Spec) {
	switch {
	case s.stdin == nil:
	case spec.Stdin == nil:
		if s.kept == nil {
			s.stdin.close()
		}
	case s.kept == nil && fits(spec.Stdin):
		// EPIPE only says that the child did not want to know.
		text, _ := io.ReadAll(spec.Stdin)
		_, _ = unix.Write(s.stdin.fd, text)
		s.stdin.close()
	default:
		if s.kept != nil {
			s.kept.mu.Lock() // later writes come after
		}
		to := s.stdin.asFile()
		s.copying.Go(func() { s.feed(to, spec.Stdin) })
	}
}

// fits tells whether all of a reader is in memory and fits into any pipe, so that writing it waits for
// nobody.
func fits(r io.Reader) bool {
	var size int
	switch r := r.(type) {
	case *bytes.Reader:
		size = r.Len()
	case *strings.Reader:
		size = r.Len()
	default:
		return false
	}
	return size <= pipeLeast
}

// feed writes stdin. EPIPE and a closed pipe only say that the child did not want to know.
func (s *streams) feed(to *os.File, from io.Reader) {
	_, _ = io.Copy(to, from)
	if s.kept != nil {
		s.kept.mu.Unlock()
		return
	}
	to.Close()
}

// ends gives each pipe of output with its writer.
func (s *streams) ends(spec *Spec, each func(e *pipeEnd, w io.Writer)) {
	if s.out != nil {
		each(s.out, spec.Stdout)
	}
	if s.err != nil {
		each(s.err, spec.Stderr)
	}
}

// neverWait tells whether output can be taken without waiting for whom it is for.
func (s *streams) neverWait(spec *Spec) bool {
	all := true
	s.ends(spec, func(_ *pipeEnd, w io.Writer) {
		_, ok := w.(*Capture)
		all = all && (ok || w == nil)
	})
	return all
}

// take hands on what is there, without waiting for more, and tells whether that was all. There must be no
// readers.
func (s *streams) take(spec *Spec) (ended bool) {
	ended = true
	s.ends(spec, func(e *pipeEnd, w io.Writer) {
		d := &drainer{w: &contained{w: w, streams: s}}
		ended = (d.rest(e.fd) || e.lasting) && ended
	})
	return ended
}

// startReading has output read as it comes.
func (s *streams) startReading(spec *Spec) {
	s.read = true
	s.ends(spec, func(e *pipeEnd, w io.Writer) {
		f := e.asFile()
		s.reading.Go(func() { s.drain(e, f, w) })
	})
}

func (s *streams) drain(e *pipeEnd, f *os.File, w io.Writer) {
	defer e.close()
	if !drain(f, &contained{w: w, streams: s}) && !e.lasting {
		s.mu.Lock()
		s.cut = true
		s.mu.Unlock()
	}
}

// finish ends the streams of a dead child and tells whether output was cut off. What is in a pipe is
// read to its end, however long the writer takes it; only waiting for more is bounded.
func (s *streams) finish(spec *Spec) (cut bool) {
	s.stdin.close()
	s.copying.Wait()
	if !s.read {
		if s.take(spec) {
			s.close()
			return false
		}
		s.startReading(spec)
	}
	now := time.Now()
	s.ends(spec, func(e *pipeEnd, _ io.Writer) {
		limit := now
		if !e.lasting {
			limit = now.Add(pipeWait)
		}
		e.file.SetReadDeadline(limit) // fails if it is read to the end already
	})
	s.reading.Wait()
	s.ends(spec, func(e *pipeEnd, _ io.Writer) {
		if e.lasting {
			e.file.SetReadDeadline(time.Time{})
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cut
}

// contained keeps a mistake in a writer to its one child: what panicked gets no more, and the child
// notices nothing.
type contained struct {
	w       io.Writer
	streams *streams
}

func (c *contained) Write(p []byte) (n int, err error) {
	if c.w == nil {
		return len(p), nil
	}
	defer func() {
		if v := recover(); v != nil {
			c.streams.log.Error("reading a child's output panicked, the rest of it is lost", "child", c.streams.name, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
			n, err = 0, errors.New("it panicked")
		}
	}()
	return c.w.Write(p)
}

// drain hands on all that comes until the end; false says that the deadline came first.
func drain(f *os.File, w io.Writer) bool {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	d := &drainer{w: w}
	for {
		var n int
		// The buffer is taken only when there is something to read.
		err := conn.Read(func(fd uintptr) bool {
			n = d.read(int(fd))
			return n != again
		})
		if err != nil {
			ended := false
			_ = conn.Control(func(fd uintptr) { ended = d.rest(int(fd)) })
			return ended
		}
		if n == end {
			return true
		}
	}
}

// What drainer.read gives besides a count.
const (
	end   = 0
	again = -1
)

type drainer struct{ w io.Writer }

func (d *drainer) read(fd int) int {
	buf := buffers.Get().(*[readSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := unix.Read(fd, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return again
		case err != nil:
			return end
		}
		if n > 0 && d.w != nil {
			if _, err := d.w.Write(buf[:n]); err != nil {
				d.w = nil // read on: the child must not notice
			}
		}
		return n
	}
}

// rest takes what is in the pipe already, at most what it can hold: who keeps it open may be writing
// for ever. It tells whether that was the end.
func (d *drainer) rest(fd int) (ended bool) {
	left, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		left = readSize
	}
	for left >= 0 {
		n := d.read(fd)
		if n == end || n == again {
			return n == end
		}
		left -= n
	}
	return false
}

// stdinPipe is a child's standard input that stays open.
type stdinPipe struct {
	mu sync.Mutex // held while Spec.Stdin is written
	f  *os.File
}

func (p *stdinPipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.f.Write(b)
}

// SetWriteDeadline bounds a Write to a child that does not read.
func (p *stdinPipe) SetWriteDeadline(t time.Time) error { return p.f.SetWriteDeadline(t) }

func (p *stdinPipe) Close() error { return p.f.Close() }
