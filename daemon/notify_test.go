package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWatchdogIsFedByProgressOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fed atomic.Int64
		n := &notifier{log: slog.New(slog.DiscardHandler), send: func(state string) (bool, error) {
			if state == "WATCHDOG=1" {
				fed.Add(1)
			}
			return true, nil
		}}
		var mode atomic.Int32 // 0 works, 1 fails, 2 hangs
		progress := func(ctx context.Context) error {
			switch mode.Load() {
			case 1:
				return errors.New("stuck")
			case 2:
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.watchdog(ctx, 30*time.Second, progress) }()
		during := func(m int32, d time.Duration) int64 {
			mode.Store(m)
			synctest.Wait()
			before := fed.Load()
			<-time.After(d)
			synctest.Wait()
			return fed.Load() - before
		}
		<-time.After(time.Second) // off the ticks
		if got := during(0, time.Minute); got != 4 {
			t.Errorf("fed %d times a minute, want 4: twice an interval", got)
		}
		if got := during(1, time.Minute); got != 0 {
			t.Errorf("fed %d times without progress", got)
		}
		if got := during(2, time.Minute); got != 0 {
			t.Errorf("fed %d times while it hangs", got)
		}
		if got := during(0, time.Minute); got < 3 {
			t.Errorf("fed %d times after it came back, want 3 or more", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutWatchdogNothingIsFed(t *testing.T) {
	t.Parallel()
	n := &notifier{log: slog.New(slog.DiscardHandler), send: func(state string) (bool, error) {
		t.Errorf("said %q", state)
		return false, nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.watchdog(ctx, 0, func(context.Context) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestNotices(t *testing.T) {
	t.Parallel()
	var said []string
	n := &notifier{log: slog.New(slog.DiscardHandler), send: func(state string) (bool, error) {
		said = append(said, state)
		return true, nil
	}}
	n.status("a")
	n.ready("b")
	n.reloading()
	want := []string{"STATUS=a", "READY=1\nSTATUS=b", "RELOADING=1\nMONOTONIC_USEC="}
	for i := range want {
		if i >= len(said) || len(said[i]) < len(want[i]) || said[i][:len(want[i])] != want[i] {
			t.Fatalf("said %q, want %q", said, want)
		}
	}
}

// systemd waits as long as it is told to, and is told what for.
func TestStoppingExtendsTimeouts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said []string
		n := &notifier{log: slog.New(slog.DiscardHandler), send: func(state string) (bool, error) {
			said = append(said, state)
			return true, nil
		}}
		left := 3
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		n.stopping(ctx, func() string { left--; return fmt.Sprint(left) })
		want := []string{
			"STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\nSTATUS=2",
			"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=1",
			"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=0",
		}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Error(diff)
		}
	})
}

// READY follows the scan, not the signal, and a signal that comes during a scan has another one made.
func TestReloadIsReadyAfterItsScan(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var said []string
		note := func(word string) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, word)
		}
		results := make(chan error)
		r := &reloads{
			log: slog.New(slog.DiscardHandler), asked: make(chan struct{}, 1), patient: time.Minute,
			notify: &notifier{log: slog.New(slog.DiscardHandler), send: func(state string) (bool, error) {
				word, _, _ := strings.Cut(strings.TrimPrefix(state, "READY=1\n"), "\n")
				note(word)
				return true, nil
			}},
			scan: func(ctx context.Context) error {
				note("scan")
				select {
				case err := <-results:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.run(ctx)
		}()
		r.ask()
		synctest.Wait()
		r.ask()
		r.ask()
		results <- nil
		results <- errors.New("no")
		synctest.Wait()
		r.ask()
		synctest.Wait()
		<-time.After(2 * time.Minute)
		r.ask()
		synctest.Wait()
		cancel()
		<-done
		want := []string{
			"RELOADING=1", "scan", "RELOADING=1", "RELOADING=1", "scan", "STATUS=running; the last reload failed: no",
			"RELOADING=1", "scan", "STATUS=running; the last reload failed: context deadline exceeded",
			"RELOADING=1", "scan",
		}
		if diff := cmp.Diff(want, said); diff != "" {
			t.Error(diff)
		}
	})
}

// What is said arrives at systemd's socket.
func TestNoticesReachTheSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	newNotifier(slog.New(slog.DiscardHandler)).ready("2 packs")
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	heard := make([]byte, 100)
	n, err := socket.Read(heard)
	if want := "READY=1\nSTATUS=2 packs"; err != nil || string(heard[:n]) != want {
		t.Errorf("heard %q, %v; want %q", heard[:n], err, want)
	}
}
