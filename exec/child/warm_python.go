package child

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// warmSaid bounds what is kept of what a parent writes by itself.
const warmSaid = 4 << 10

// pythonBreed is the parent of Python children.
type pythonBreed struct {
	parent *parent
	gone   chan struct{}
	bare   bool
	proc   *Process
	sock   *os.File
	said   *Capture

	mu     sync.Mutex
	doors  [][]*os.File // of the forks that were asked for, in order
	closed bool
}

func (b *pythonBreed) start(ctx context.Context) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	b.sock, b.said = ours, NewCapture(warmSaid, nil)
	spec := b.parent.spec
	spec.Args = []string{filepath.Join(b.parent.w.opts.Dir, pythonFile), spec.Dir}
	if b.bare {
		spec.Args = append(spec.Args, "bare")
	}
	// Pipes, as its children have: what Python knows of a stream it finds out at the beginning.
	spec.Stdin, spec.Stdout, spec.Stderr = strings.NewReader(""), NewCapture(warmSaid, nil), b.said
	spec.Files = []*os.File{theirs}
	if b.proc, err = b.parent.w.runner.Start(ctx, spec); err != nil {
		ours.Close()
		return err
	}
	if err := b.parent.w.runner.setTag(b.proc.pid, b.proc.id); err != nil {
		return fmt.Errorf("cannot mark it: %w", err)
	}
	b.parent.w.running.Go(func() { b.parent.watch(b.gone, b.proc, b.said) })
	up := make(chan struct{})
	b.parent.w.running.Go(func() { b.listen(up) })
	select {
	case <-up:
		return nil
	case <-b.gone:
		return errGone
	case <-ctx.Done():
		return fmt.Errorf("it is not there after %v", warmUp)
	}
}

// listen acts on what the parent says until it says no more.
func (b *pythonBreed) listen(up chan struct{}) {
	for in := bufio.NewScanner(b.sock); in.Scan(); {
		word, rest, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "up":
			close(up)
		case "forked":
			b.forked(strings.Fields(rest))
		case "unfit:":
			b.parent.unfit(b.gone, fmt.Errorf("%w: %s", errUnfit, rest))
		}
	}
}

func (b *pythonBreed) forked(pids []string) {
	b.mu.Lock()
	if len(b.doors) == 0 {
		b.mu.Unlock()
		return
	}
	doors := b.doors[0]
	b.doors = b.doors[1:]
	b.mu.Unlock()
	lost := 0
	for i, sock := range doors {
		var p *Process
		err := errors.New("it was not forked")
		if i < len(pids) {
			var pid int
			if pid, err = strconv.Atoi(pids[i]); err == nil {
				p, err = b.parent.w.runner.adopt(pid, b.proc)
			}
		}
		if err != nil {
			sock.Close() // who waits at the other end, ends
			b.parent.log.Warn("warm child is missing", "err", err)
			lost++
			continue
		}
		b.parent.arrive(b.gone, &spare{p: p, door: &socketDoor{sock: sock, null: b.parent.w.runner.null, p: p}})
	}
	if lost > 0 {
		b.parent.miscarry(lost)
	}
	if lost == len(doors) {
		b.parent.fail(b.gone, errUnfit)
	}
}

func (b *pythonBreed) fork(n int, scripts []string) error {
	doors := make([]*os.File, 0, n)
	var theirs []*os.File
	defer func() { closeAll(theirs) }()
	for range n {
		ours, their, err := socketPair()
		if err != nil {
			closeAll(doors)
			return err
		}
		doors, theirs = append(doors, ours), append(theirs, their)
	}
	fds := make([]int, n)
	for i, f := range theirs {
		fds[i] = int(f.Fd())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		closeAll(doors)
		return errGone
	}
	b.doors = append(b.doors, doors)
	return sendMessage(b.sock, scripts, fds)
}

func (b *pythonBreed) process() *Process { return b.proc }

func (b *pythonBreed) close() {
	if b.proc == nil {
		return
	}
	b.mu.Lock()
	b.closed = true
	for _, doors := range b.doors {
		closeAll(doors)
	}
	b.doors = nil
	b.mu.Unlock()
	b.sock.Close()
	if err := b.proc.Stop(0); err != nil {
		b.parent.log.Error("warm parent cannot be ended", "err", err)
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// socketDoor leads to a child that waits at a socket: a Python, which is handed its streams there, or a
// node, which has them already.
type socketDoor struct {
	sock *os.File
	null *os.File // nil: its streams are there
	p    *Process
}

func (d *socketDoor) hand(s *streams, spec *Spec, variables []string) error {
	fields := []string{spec.Args[0]}
	var fds []int
	if d.null != nil {
		fields = append(fields, spec.Dir)
		list, err := s.open(spec, d.null)
		if err != nil {
			return fmt.Errorf("its pipes: %w", err)
		}
		for _, fd := range list {
			fds = append(fds, int(fd))
		}
	}
	if err := sendMessage(d.sock, append(fields, variables...), fds); err != nil {
		return goneOr(err)
	}
	d.sock.SetReadDeadline(time.Now().Add(warmPatience))
	var answer [1]byte
	if _, err := io.ReadFull(d.sock, answer[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("it did not answer within %v", warmPatience)
		}
		// It took its work and ended: something is wrong with the work.
		return fmt.Errorf("it ended before it began: %w", err)
	}
	return nil
}

// goneOr tells a child that ended while it waited from other trouble.
func goneOr(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return errGone
	}
	return err
}

func (d *socketDoor) open(*streams) error {
	_, err := d.sock.Write([]byte{'g'})
	d.sock.Close()
	return err
}

func (d *socketDoor) done(Exit) {}

func (d *socketDoor) shut() { d.sock.Close() }

// socketPair makes a pair of sockets; ours does not block.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// sendMessage sends a length and fields that end in NUL, and descriptors with the first byte.
func sendMessage(sock *os.File, fields []string, fds []int) error {
	size := 0
	for _, f := range fields {
		size += len(f) + 1
	}
	message := make([]byte, 4, 4+size)
	binary.BigEndian.PutUint32(message, uint32(size))
	for _, f := range fields {
		message = append(append(message, f...), 0)
	}
	conn, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	sock.SetWriteDeadline(time.Now().Add(warmPatience))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	sent := 0
	var failed error
	err = conn.Write(func(fd uintptr) bool {
		sent, failed = unix.SendmsgN(int(fd), message, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err == nil {
		err = failed
	}
	if err == nil && sent < len(message) {
		_, err = sock.Write(message[sent:])
	}
	return err
}

func lastLine(text string) string {
	text = strings.TrimRight(text, "\n")
	return text[strings.LastIndexByte(text, '\n')+1:]
}
