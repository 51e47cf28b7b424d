package child

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readSize is one read of a child's output: what a pipe holds by default.
const readSize = 64 << 10

// buffers lends what a read needs for as long as data is handed on: a child that says nothing holds no
// buffer, and there may be hundreds.
var buffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// streams are a child's pipes, as its parent holds them.
type streams struct {
	childEnds []int
	kept      *stdinPipe
	stdin     *os.File
	out, err  *os.File // err is nil where both go through out
	copying   sync.WaitGroup
	reading   sync.WaitGroup
	mu        sync.Mutex
	cut       bool
	log       *slog.Logger
	name      string // of the child
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
		s.abandon()
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
			s.kept = &stdinPipe{f: s.stdin}
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
func (s *streams) pipe(childEnd *uintptr, childReads bool) (*os.File, error) {
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
	return os.NewFile(uintptr(ours), "pipe"), nil
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

// abandon closes our ends, of a child that never was.
func (s *streams) abandon() {
	for _, f := range []*os.File{s.stdin, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
}

func (s *streams) run(spec *Spec) {
	if s.stdin != nil && spec.Stdin != nil {
		if s.kept != nil {
			s.kept.mu.Lock() // later writes come after
		}
		s.copying.Go(func() { s.feed(spec.Stdin) })
	}
	for f, w := range map[*os.File]io.Writer{s.out: spec.Stdout, s.err: spec.Stderr} {
		if f != nil {
			s.reading.Go(func() { s.drain(f, w) })
		}
	}
}

// feed writes stdin. EPIPE and a closed pipe only say that the child did not want to know.
func (s *streams) feed(from io.Reader) {
	_, _ = io.Copy(s.stdin, from)
	if s.kept != nil {
		s.kept.mu.Unlock()
		return
	}
	s.stdin.Close()
}

func (s *streams) drain(f *os.File, w io.Writer) {
	defer f.Close()
	if !drain(f, &contained{w: w, streams: s}) {
		s.mu.Lock()
		s.cut = true
		s.mu.Unlock()
	}
}

// finish ends the streams of a dead child and tells whether output was cut off. What is in a pipe is
// read to its end, however long the writer takes it; only waiting for more is bounded.
func (s *streams) finish() (cut bool) {
	if s.stdin != nil {
		s.stdin.Close()
	}
	s.copying.Wait()
	limit := time.Now().Add(pipeWait)
	for _, f := range []*os.File{s.out, s.err} {
		if f != nil {
			f.SetReadDeadline(limit) // fails if it is read to the end already
		}
	}
	s.reading.Wait()
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
			return d.rest(f)
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
// for ever.
func (d *drainer) rest(f *os.File) (ended bool) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false
	}
	_ = conn.Control(func(fd uintptr) {
		left, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0)
		if err != nil {
			left = readSize
		}
		for left >= 0 {
			n := d.read(int(fd))
			if n == end || n == again {
				ended = n == end
				return
			}
			left -= n
		}
	})
	return ended
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
