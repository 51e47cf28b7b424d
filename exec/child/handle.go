package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Handle holds on to a process that was not started here: a server that an earlier run left, the keeper
// of a dead run. It is a pidfd, so a pid that was given to somebody else is never signalled.
type Handle struct {
	pid int
	f   *os.File
}

// OpenProcess takes hold of a process. start is what StartTime gave for it; 0 takes whoever has the pid now.
// An error that is os.ErrProcessDone says that it is gone.
func OpenProcess(pid int, start uint64) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("cannot open process %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	h := &Handle{pid: pid, f: os.NewFile(uintptr(fd), "pidfd")}
	// After the pidfd is held, a matching start time proves that it is the one that was meant.
	st, err := readStat(pid)
	if err != nil || st.state == 'Z' || start != 0 && st.start != start {
		h.Close()
		return nil, fmt.Errorf("cannot open process %d: %w", pid, os.ErrProcessDone)
	}
	return h, nil
}

// PID is the process id.
func (h *Handle) PID() int { return h.pid }

// Signal sends a signal to the process alone; os.ErrProcessDone says that it has ended,
// os.ErrClosed that it was let go.
func (h *Handle) Signal(sig syscall.Signal) error {
	err := h.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot signal process %d: %w", h.pid, os.ErrProcessDone)
	}
	if err != nil {
		return fmt.Errorf("cannot signal process %d: %w", h.pid, err)
	}
	return nil
}

// Wait waits until the process has ended, reaped or not, or until ctx ends.
func (h *Handle) Wait(ctx context.Context) error {
	return waitReadable(ctx, h.f, func(fd int) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err == nil && n > 0
	})
}

// Close lets go; the process lives on.
func (h *Handle) Close() error { return h.f.Close() }

func (h *Handle) control(do func(fd int) error) error {
	conn, err := h.f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if conn.Control(func(fd uintptr) { inner = do(int(fd)) }) != nil {
		return os.ErrClosed // the only cause, under a name that callers can ask for
	}
	return inner
}
