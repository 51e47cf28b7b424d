package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how the daemon is doing; without systemd it says nothing to nobody.
type notifier struct {
	send func(state string) (bool, error)
	log  *slog.Logger
}

func newNotifier(log *slog.Logger) *notifier {
	return &notifier{log: log, send: func(state string) (bool, error) { return daemon.SdNotify(false, state) }}
}

func (n *notifier) say(state string) {
	if _, err := n.send(state); err != nil {
		n.log.Debug("cannot notify systemd", "err", err)
	}
}

func (n *notifier) status(text string) { n.say("STATUS=" + text) }

// ready says that the service has started, or has read its files again.
func (n *notifier) ready(text string) { n.say(daemon.SdNotifyReady + "\nSTATUS=" + text) }

func (n *notifier) reloading() {
	n.say(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

const (
	// stopTold is how often systemd is told how far the stopping is; stopExtension is how much longer it is
	// then asked to wait, which outlasts a missed word or two.
	stopTold      = 5 * time.Second
	stopExtension = 30 * time.Second
)

// stopping tells that the daemon stops and how far it is, until ctx ends, and has systemd wait so long: a
// drain may take longer than TimeoutStopSec. The stopping itself is bounded elsewhere.
func (n *notifier) stopping(ctx context.Context, state func() string) {
	n.say(daemon.SdNotifyStopping + "\n" + n.extension() + "\nSTATUS=" + state())
	ticker := time.NewTicker(stopTold)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			n.say(n.extension() + "\nSTATUS=" + state())
		}
	}
}

func (n *notifier) extension() string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", stopExtension.Microseconds())
}

// reloads answers SIGHUPs: systemd is told at once that files are read again, and that all is done only
// when a scan that began after the last of the signals has ended.
type reloads struct {
	notify  *notifier
	log     *slog.Logger
	asked   chan struct{} // of room 1
	patient time.Duration // how long systemd is kept waiting
	scan    func(context.Context) error
}

// ask notes a signal.
func (r *reloads) ask() {
	r.notify.reloading()
	select {
	case r.asked <- struct{}{}:
	default:
	}
}

// run scans when asked to, until ctx ends.
func (r *reloads) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.asked:
		}
		bounded, cancel := context.WithTimeout(ctx, r.patient)
		err := r.scan(bounded)
		cancel()
		if ctx.Err() != nil {
			return // what stops is not ready
		}
		if len(r.asked) > 0 {
			continue
		}
		if err != nil {
			r.log.Warn("not all is reloaded", "err", err)
			r.notify.ready("running; the last reload failed: " + err.Error())
			continue
		}
		r.notify.ready("running")
	}
}

// watchdogShare is how many times within the watchdog's interval it is fed: systemd advises two.
const watchdogShare = 2

// watchdogInterval is systemd's; 0: it watches nothing.
func watchdogInterval(log *slog.Logger) time.Duration {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("cannot read the watchdog's interval", "err", err)
		return 0
	}
	return interval
}

// watchdog feeds systemd's watchdog while progress succeeds in time. A daemon that hangs is fed no
// more, and systemd starts it anew. The health of the database is no part of it: a restart would not
// bring that back.
func (n *notifier) watchdog(ctx context.Context, interval time.Duration, progress func(context.Context) error) error {
	if interval <= 0 {
		<-ctx.Done()
		return nil
	}
	period := interval / watchdogShare
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, period)
		err := progress(bounded)
		cancel()
		switch {
		case err == nil:
			n.say(daemon.SdNotifyWatchdog)
		case ctx.Err() == nil:
			n.log.Error("daemon makes no progress, the watchdog is not fed", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
