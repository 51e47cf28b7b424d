package daemon

import (
	"context"
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

func (n *notifier) stopping() { n.say(daemon.SdNotifyStopping + "\nSTATUS=stopping") }

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
