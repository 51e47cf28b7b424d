package api

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// feedEntries and feedBytes bound what is kept for those who come back.
	feedEntries = 10_000
	feedBytes   = 16 << 20

	// feedLinger is how long a feed goes on without anybody who follows: who lost the connection comes back
	// within it, and has missed nothing.
	feedLinger = 2 * time.Minute

	// feedTick is how long it takes at most until a change is seen of which nobody says anything.
	feedTick = time.Second
)

// feed tells all who follow what happens of one kind, and keeps the newest for those who come back. It looks only
// while somebody follows, or may come back.
type feed[T any] struct {
	// begin takes the position from which on everything is told, and gives what looks from there. The payloads are
	// those of the notices that came since the last look.
	begin func(context.Context) (looker[T], error)
	// notices wakes it between the ticks, and so does nudges, which has nothing to say.
	notices, nudges func() (<-chan string, func())
	log             *slog.Logger

	mu       sync.Mutex
	run      string // names this life of the feed: numbers of another one mean something else
	entries  []feedEntry[T]
	first    int64 // number of entries[0], from 1
	bytes    int
	follows  int           // how many follow
	wake     chan struct{} // closed when there is something new
	wanted   chan struct{} // somebody follows
	beginErr error         // why it could not begin; nil: it has, or is about to
}

// looker gives what has happened since it was asked last, and what is not known of it any more. more says that
// there is more at once.
type looker[T any] func(ctx context.Context, payloads []string) (items []feedItem[T], gap string, more bool, err error)

// feedItem is one thing that happened, as it goes out.
type feedItem[T any] struct {
	item *T
	text []byte // JSON
}

// feedEntry is an item, or a gap.
type feedEntry[T any] struct {
	feedItem[T]
	gap string
}

func newFeed[T any](log *slog.Logger, notices, nudges func() (<-chan string, func()), begin func(context.Context) (looker[T], error)) *feed[T] {
	return &feed[T]{begin: begin, notices: notices, nudges: nudges, log: log, wake: make(chan struct{}), wanted: make(chan struct{}, 1)}
}

// pump looks, for as long as somebody wants it, until ctx ends.
func (f *feed[T]) pump(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wanted:
		}
		f.live(ctx)
	}
}

// live is one life of the feed.
func (f *feed[T]) live(ctx context.Context) {
	payloads, unsubscribe := f.notices()
	defer unsubscribe()
	nudges, unsubscribe := f.nudges()
	defer unsubscribe()
	look, err := f.begin(ctx)
	f.mu.Lock()
	if f.beginErr = err; err == nil {
		f.run, f.entries, f.first, f.bytes = rand.Text()[:10], nil, 1, 0
	}
	f.rouse()
	f.mu.Unlock()
	if err != nil {
		return
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.run, f.entries, f.bytes = "", nil, 0
		f.rouse()
		if f.follows > 0 { // who came in this moment
			f.want()
		}
	}()
	tick := time.NewTicker(feedTick)
	defer tick.Stop()
	alone := time.Now() // since when nobody follows, where nobody does
	var said []string
	for away := false; ; {
		items, gap, more, err := look(ctx, said)
		said = nil
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			away = false
			f.add(items, gap)
		case !away:
			away = true
			f.log.Warn("those who follow are told nothing for now", "err", err)
		}
		if f.followed() {
			alone = time.Now()
		} else if time.Since(alone) > feedLinger {
			return
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case payload := <-payloads:
			said = append(said, payload)
		case <-nudges:
		}
		pending(nudges)
		said = append(said, pending(payloads)...)
	}
}

// pending takes what has come already.
func pending(payloads <-chan string) (said []string) {
	for {
		select {
		case payload := <-payloads:
			said = append(said, payload)
		default:
			return said
		}
	}
}

func (f *feed[T]) add(items []feedItem[T], gap string) {
	if len(items) == 0 && gap == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if gap != "" {
		f.entries = append(f.entries, feedEntry[T]{gap: gap})
	}
	for _, item := range items {
		f.entries = append(f.entries, feedEntry[T]{feedItem: item})
		f.bytes += len(item.text)
	}
	// The newest stays, however large it is.
	drop := 0
	for drop < len(f.entries)-1 && (len(f.entries)-drop > feedEntries || f.bytes > feedBytes) {
		f.bytes -= len(f.entries[drop].text)
		drop++
	}
	if drop > 0 {
		f.first += int64(drop)
		f.entries = append([]feedEntry[T](nil), f.entries[drop:]...)
	}
	f.rouse()
}

// rouse wakes all who wait.
func (f *feed[T]) rouse() {
	close(f.wake)
	f.wake = make(chan struct{})
}

func (f *feed[T]) followed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.follows > 0
}

func (f *feed[T]) want() {
	select {
	case f.wanted <- struct{}{}:
	default:
	}
}

// cursor is one who follows.
type cursor[T any] struct {
	feed *feed[T]
	run  string
	next int64
}

// follow begins where the id of an entry says that somebody stopped, or now; gap says what is missing between. The
// cursor is to be left.
func (f *feed[T]) follow(ctx context.Context, after string) (c *cursor[T], gap string, err error) {
	f.mu.Lock()
	f.follows++
	f.beginErr = nil
	f.want()
	for f.run == "" {
		if f.beginErr != nil {
			err = f.beginErr
			break
		}
		wake := f.wake
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-wake:
		}
		f.mu.Lock()
		if err != nil {
			break
		}
	}
	defer f.mu.Unlock()
	if err != nil {
		f.follows--
		return nil, "", err
	}
	end := f.first + int64(len(f.entries))
	c = &cursor[T]{feed: f, run: f.run, next: end}
	if after == "" {
		return c, "", nil
	}
	run, number, _ := strings.Cut(after, ".")
	last, err := strconv.ParseInt(number, 10, 64)
	if err != nil || run != f.run || last < 0 || last >= end {
		return c, gapOtherRun, nil
	}
	// What is no longer kept is told by the first take.
	c.next = last + 1
	return c, "", nil
}

// gapOtherRun is the gap of who names an id that this daemon does not know.
const gapOtherRun = "this daemon does not know that id: it has begun anew since, or it is another one, or it was too long ago; list what you may have missed"

func (c *cursor[T]) leave() {
	c.feed.mu.Lock()
	defer c.feed.mu.Unlock()
	c.feed.follows--
}

// id is what follow takes to begin behind the entry of that number.
func (c *cursor[T]) id(number int64) string { return c.run + "." + strconv.FormatInt(number, 10) }

// take gives the entries that have come, the number of the first, how many are missing before it, and what is
// closed when there are more. ok is false when the feed has ended.
func (c *cursor[T]) take() (entries []feedEntry[T], number, missed int64, more <-chan struct{}, ok bool) {
	f := c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.run != c.run {
		return nil, 0, 0, nil, false
	}
	if c.next < f.first {
		missed = f.first - c.next
		c.next = f.first
	}
	number = c.next
	entries = f.entries[c.next-f.first:]
	c.next += int64(len(entries))
	return entries, number, missed, f.wake, true
}
