package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// The channels. A payload is an id or empty.
const (
	ChannelQueue    = "attune_queue"    // something may be due
	ChannelCatalog  = "attune_catalog"  // the generation was raised; payload: the generation
	ChannelFinished = "attune_finished" // executions ended; payload: ids joined by commas, or empty: many
	ChannelCancel   = "attune_cancel"   // somebody asked to cancel; payload: execution id
	ChannelLease    = "attune_lease"    // leases were released
	ChannelNotice   = "attune_notice"   // something happened to Attune itself, and a rule listens
	ChannelErrand   = "attune_errand"   // a node asks the leader for something; payload: errand id
)

const (
	// pingPeriod is how long a silent connection is trusted.
	pingPeriod = 5 * time.Second
	// pollPeriod is how often subscribers look by themselves where there is no LISTEN.
	pollPeriod = 2 * time.Second

	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 5 * time.Second

	// subscriberBuffer holds what comes while a subscriber is busy.
	subscriberBuffer = 64 // payloads
)

// ChannelClaimed is of one node alone, and of no database: executions were claimed here. Of those that are claimed as
// they are queued nobody is notified, for no other node has anything to do with them.
const ChannelClaimed = "claimed"

func channels() []string {
	return []string{ChannelQueue, ChannelCatalog, ChannelFinished, ChannelCancel, ChannelNotice, ChannelErrand, ChannelLease}
}

// Listener holds one connection that LISTENs on all channels.
type Listener struct {
	s *Store

	mu          sync.Mutex
	subscribers map[string]map[*subscriber]struct{}
}

type subscriber struct{ payloads chan string }

// NewListener makes a listener; nothing connects before Run.
func (s *Store) NewListener() *Listener {
	return &Listener{s: s, subscribers: map[string]map[*subscriber]struct{}{}}
}

// Subscribe gives a channel that gets the payloads of one NOTIFY channel. It never blocks the
// listener: a full subscriber loses payloads but always has at least one pending, so that it looks.
// An empty payload comes after each reconnect. Call the func to unsubscribe; the channel is not
// closed.
func (l *Listener) Subscribe(channel string) (<-chan string, func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sub := &subscriber{payloads: make(chan string, subscriberBuffer)}
	if l.subscribers[channel] == nil {
		l.subscribers[channel] = map[*subscriber]struct{}{}
	}
	l.subscribers[channel][sub] = struct{}{}
	return sub.payloads, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.subscribers[channel], sub)
	}
}

// Claimed tells who subscribed to ChannelClaimed on this node.
func (l *Listener) Claimed() { l.deliver(ChannelClaimed, "") }

func (l *Listener) deliver(channel, payload string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for sub := range l.subscribers[channel] {
		select {
		case sub.payloads <- payload:
		default: // it has enough to wake up for
		}
	}
}

func (l *Listener) wakeAll() {
	for _, channel := range channels() {
		l.deliver(channel, "")
	}
}

// Run connects, listens, pings each 5 s and reconnects with backoff, until ctx ends. With
// Options.Pooler "transaction" it only wakes every subscriber each 2 s.
func (l *Listener) Run(ctx context.Context) error {
	if l.s.pooler == PoolerTransaction {
		l.s.log.Info("notifications do not pass a transaction pooler, polling instead", "component", "store", "duration", pollPeriod)
		return l.poll(ctx)
	}
	wait := reconnectFirst
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			// All nodes lost the server at the same moment, and must not come back at the same one.
			jitter := time.Duration(float64(wait) * (0.75 + 0.5*rand.Float64()))
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(jitter):
			}
			wait = min(2*wait, reconnectMost)
		}
		listened, err := l.listen(ctx, !first)
		if ctx.Err() != nil {
			return nil
		}
		if listened {
			wait = reconnectFirst
		}
		l.s.log.Warn("the connection for notifications is lost, reconnecting", "component", "store", "err", err)
	}
	return nil
}

func (l *Listener) poll(ctx context.Context) error {
	tick := time.NewTicker(pollPeriod)
	defer tick.Stop()
	for {
		l.wakeAll()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// listen is the life of one connection. listened says whether it got as far as LISTEN.
func (l *Listener) listen(ctx context.Context, again bool) (listened bool, err error) {
	conn, err := l.connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelGrace)
		defer cancel()
		err = errors.Join(err, conn.Close(ctx))
	}()
	if again {
		l.s.metrics.reconnects.Inc()
		l.s.log.Info("the connection for notifications is back", "component", "store")
	}
	// What was sent before LISTEN took hold is found by looking.
	l.wakeAll()
	for {
		waiting, cancel := context.WithTimeout(ctx, pingPeriod)
		notification, err := conn.WaitForNotification(waiting)
		silent := waiting.Err() != nil
		cancel()
		switch {
		case err == nil:
			l.deliver(notification.Channel, notification.Payload)
		case ctx.Err() != nil || !silent || conn.IsClosed():
			return true, err
		default:
			if err := l.ping(ctx, conn); err != nil {
				return true, err
			}
		}
	}
}

// connect opens a connection of its own, outside the pool, and listens on all channels.
func (l *Listener) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	config := l.s.pool.Config().ConnConfig
	// Waiting is what this connection is for: running out of a wait must not send a cancel request.
	config.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: c.Conn()}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	for _, channel := range channels() {
		if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
			return nil, errors.Join(err, conn.Close(ctx))
		}
	}
	return conn, nil
}

// ping proves that the other end still answers; a half-open connection would be silent for ever.
func (l *Listener) ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pingPeriod)
	defer cancel()
	return conn.Ping(ctx)
}
