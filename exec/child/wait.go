package child

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// waitReadable parks this goroutine on the runtime's poller until ready says so: a blocking wait for
// each child would hold a thread for each child.
func waitReadable(ctx context.Context, f *os.File, ready func(fd int) bool) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if ctx.Done() != nil {
		fired := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(fired)
			f.SetReadDeadline(time.Unix(1, 0))
		})
		defer func() {
			if !stop() {
				<-fired // or it would set the deadline after we cleared it
			}
			f.SetReadDeadline(time.Time{})
		}()
	}
	err = conn.Read(func(fd uintptr) bool { return ready(int(fd)) })
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// awaitEnd returns when the child is dead, and leaves it unreaped: until it is reaped nobody else gets
// its pid or its group.
func awaitEnd(pid int, pidfd *os.File) {
	if pidfd != nil && waitReadable(context.Background(), pidfd, func(int) bool { return hasEnded(pid, unix.WNOHANG) }) == nil {
		return
	}
	for !hasEnded(pid, 0) {
	}
}

// awaitEndWithin is awaitEnd for a while; it tells whether the child is dead.
func awaitEndWithin(pid int, pidfd *os.File, patience time.Duration) bool {
	pidfd.SetReadDeadline(time.Now().Add(patience))
	if waitReadable(context.Background(), pidfd, func(int) bool { return hasEnded(pid, unix.WNOHANG) }) == nil {
		return true
	}
	pidfd.SetReadDeadline(time.Time{})
	return false
}

// hasEnded tells whether a child of ours is dead. Without WNOHANG in flags it waits for that, but may be
// interrupted.
func hasEnded(pid, flags int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|flags, nil)
	if errors.Is(err, unix.EINTR) {
		return false
	}
	// Without an error a zero signal number means that there is nothing yet. ECHILD means that
	// somebody reaped it behind our back: it is as dead as it can be.
	return err != nil || info.Signo != 0
}

// isStopped tells whether a child of ours was stopped, and has not gone on.
func isStopped(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOWAIT|unix.WNOHANG, nil)
	return err == nil && info.Signo != 0
}
