package rule

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// commitTimeout bounds one try of a commit: a server that neither answers nor breaks the
	// connection must not hold the stream for ever.
	commitTimeout = 30 * time.Second

	// The waits between tries of a commit: short at first, because most outages are a restart, and at
	// most so long that the stream is back soon after the database is.
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second

	// poisonTries is how often an event alone may fail for a reason that does not pass before it is
	// refused, so that it cannot hold up all that come after it. With the waits above it is some
	// 20 s, in which a mistake of the operator (a revoked grant) can be put right.
	poisonTries = 8

	// drainTime bounds how long the end of Run waits for the database.
	drainTime = 10 * time.Second

	// tellEvery is how often the log tells that one rule fails.
	tellEvery = time.Minute

	// maxProblem bounds the text, in bytes, that says how a payload fails its schema.
	maxProblem = 1000
)

// Reasons to refuse an event, for callers that tell them apart.
var (
	ErrUnknownTrigger  = errors.New("no such trigger")
	ErrDisabledTrigger = errors.New("the trigger is disabled")
	ErrInvalidPayload  = errors.New("the payload does not fit the trigger")
)

// Catalogs gives the newest snapshot of what is in force that is at least of the generation.
type Catalogs interface {
	Catalog(ctx context.Context, generation int64) (*store.Catalog, error)
}

// Options are what an Intake needs.
type Options struct {
	Store      *store.Store
	Catalogs   Catalogs
	PackConfig func(pack string) map[string]any // the merged configuration of a pack
	// Hand takes executions as they are queued, where there is room for them; nil: workers look for them.
	Hand store.Hand
	// Traced is told of each event that is stored, and when it was taken; nil: nobody traces.
	Traced func(e *store.StoredEvent, taken time.Time)
	// Chain is how many executions may follow from one another. Defaults to DefaultChain.
	Chain      int
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Intake takes events from sensors, from people and from webhooks, and commits them in groups with
// their enforcements and executions. It waits for nobody when the system is idle.
type Intake struct {
	catalogs   Catalogs
	packConfig func(pack string) map[string]any
	chain      int
	logger     *slog.Logger
	metrics    *metrics
	traced     func(*store.StoredEvent, time.Time) // nil: nobody traces
	queue      *queue

	commit      func(context.Context, []store.NewEvent, store.Matcher) ([]store.StoredEvent, error)
	begin       func(ctx context.Context, events []store.NewEvent, ahead bool, numbered func()) (begun, error)
	isTransient func(error) bool
	isTimeout   func(error) bool
	// lockedLeases gives the leases of events that another session has locked; nil: nobody looks.
	lockedLeases func(ctx context.Context, events []store.NewEvent) ([]string, error)
	aside        aside

	openBreakers func(ctx context.Context, rule string) ([]store.Breaker, error) // nil: nobody looks
	breakers     breakers

	told map[string]time.Time // by rule: when its failure was last logged; of Run's goroutine alone

	mu    sync.Mutex
	index *Index
}

// New makes an Intake.
func New(opts Options) *Intake {
	i := &Intake{
		catalogs:    opts.Catalogs,
		packConfig:  opts.PackConfig,
		chain:       cmp.Or(opts.Chain, DefaultChain),
		traced:      opts.Traced,
		logger:      opts.Logger.With("component", "intake"),
		metrics:     newMetrics(opts.Registerer),
		queue:       newQueue(),
		commit:      opts.Store.CommitEvents,
		begin:       beginIn(opts.Store, opts.Hand),
		isTransient: store.IsTransient,
		isTimeout:   store.IsTimeout,
		told:        map[string]time.Time{},
	}
	if opts.Store != nil {
		i.openBreakers, i.lockedLeases = opts.Store.OpenBreakers, opts.Store.LockedLeases
	}
	return i
}

// Submit hands over an event and waits until it is committed; it blocks while the database is away.
// When ctx ends first the event may still be committed.
func (i *Intake) Submit(ctx context.Context, e store.NewEvent) (store.StoredEvent, error) {
	type fate struct {
		stored store.StoredEvent
		err    error
	}
	fates := make(chan fate, 1)
	err := i.SubmitAsync(ctx, e, func(stored store.StoredEvent, err error) { fates <- fate{stored, err} })
	if err != nil {
		return store.StoredEvent{}, err
	}
	select {
	case f := <-fates:
		return f.stored, f.err
	case <-ctx.Done():
		return store.StoredEvent{}, fmt.Errorf("cannot tell whether the event is stored: %w", ctx.Err())
	}
}

// SubmitAsync hands over an event and calls done once it is committed (nil error) or refused for
// good. It blocks while the bounded queue is full, which is the backpressure on sensors. An error
// says that the event was not taken (ctx has ended, or the Intake has), and then done is not called.
// done must return at once: the next commit waits for it.
func (i *Intake) SubmitAsync(ctx context.Context, e store.NewEvent, done func(store.StoredEvent, error)) error {
	taken := time.Now()
	index, err := i.newestIndex(ctx)
	if err != nil {
		return err
	}
	if reason, err := i.admit(index, &e); err != nil {
		i.metrics.rejected.WithLabelValues(reason).Inc()
		done(store.StoredEvent{}, err)
		return nil
	}
	err = i.queue.put(ctx, item{event: e, taken: taken, done: done})
	if errors.Is(err, ErrClosed) {
		i.metrics.rejected.WithLabelValues(rejectClosed).Inc()
	}
	return err
}

// admit checks the event's trigger and payload; what is wrong but kept becomes its Problem. It runs
// with the one who hands over, so that many do it at once.
func (i *Intake) admit(index *Index, e *store.NewEvent) (reason string, err error) {
	record := index.catalog.Triggers[e.Trigger]
	if record == nil || !record.Present {
		return rejectUnknown, fmt.Errorf("cannot take an event of %q: %w", e.Trigger, ErrUnknownTrigger)
	}
	if !record.Enabled {
		return rejectDisabled, fmt.Errorf("cannot take an event of %q: %w", e.Trigger, ErrDisabledTrigger)
	}
	if len(e.Payload) == 0 {
		e.Payload = json.RawMessage("{}")
	}
	if !bytes.HasPrefix(bytes.TrimLeft(e.Payload, " \t\r\n"), []byte("{")) {
		return rejectInvalid, fmt.Errorf("cannot take an event of %q: %w: expected an object", e.Trigger, ErrInvalidPayload)
	}
	trigger, ok := record.Spec.(*manifest.Trigger)
	if !ok || trigger.PayloadSchema == nil {
		return "", nil
	}
	problem := checkPayload(trigger, e.Payload)
	if problem == "" {
		return "", nil
	}
	if trigger.OnInvalid == "refuse" {
		return rejectInvalid, fmt.Errorf("cannot take an event of %q: %w: %s", e.Trigger, ErrInvalidPayload, problem)
	}
	if e.Problem == "" {
		e.Problem = problem
	}
	return "", nil
}

// checkPayload tells how a payload fails its schema; empty: it does not.
func checkPayload(trigger *manifest.Trigger, payload json.RawMessage) string {
	value, err := decodeNumbers(payload)
	if err != nil {
		return fmt.Sprintf("cannot read the payload: %v", err)
	}
	problem := told(trigger.PayloadSchema.Validate(value))
	if len(problem) > maxProblem {
		problem = problem[:maxProblem] + "…"
	}
	return problem
}

// newestIndex gives the index of the newest catalog that is known. While none can be had it waits,
// like for room in the queue.
func (i *Intake) newestIndex(ctx context.Context) (*Index, error) {
	wait := newRetry()
	for {
		index, err := i.indexAt(ctx, 0)
		if err == nil {
			return index, nil
		}
		i.mu.Lock()
		index = i.index
		i.mu.Unlock()
		if index != nil {
			return index, nil
		}
		if err := wait.sleep(ctx); err != nil {
			return nil, err
		}
	}
}

// indexAt gives an index of the generation or of a newer one; 0: of the newest that is known.
func (i *Intake) indexAt(ctx context.Context, generation int64) (*Index, error) {
	if generation > 0 {
		i.mu.Lock()
		index := i.index
		i.mu.Unlock()
		if index != nil && index.Generation() >= generation {
			return index, nil
		}
	}
	catalog, err := i.catalogs.Catalog(ctx, generation)
	if err != nil {
		return nil, fmt.Errorf("cannot load the rules: %w", err)
	}
	if catalog.Generation < generation {
		return nil, fmt.Errorf("cannot load the rules: asked for generation %d, got %d", generation, catalog.Generation)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	// Not only a newer one: a database that was restored from a backup goes back. Where it is just that
	// somebody came late with an older one, the next match sees it and takes the newer again.
	if i.index == nil || i.index.catalog != catalog {
		i.index = NewIndex(catalog, i.index, i.logger)
		i.metrics.rules.Set(float64(i.index.Len()))
	}
	return i.index, nil
}

// match is the store's Matcher.
func (i *Intake) match(ctx context.Context, generation int64, events []store.Event) ([][]store.Match, error) {
	index, err := i.indexAt(ctx, generation)
	if err != nil {
		return nil, err
	}
	config := i.configs()
	matches := make([][]store.Match, len(events))
	// The database waits for this with an open transaction, and leaves its processor to us meanwhile.
	parts := min(runtime.GOMAXPROCS(0), 1+len(events)/matchPart)
	panics := make([]any, parts)
	var all sync.WaitGroup
	for part := range parts {
		from, to := part*len(events)/parts, (part+1)*len(events)/parts
		all.Go(func() {
			defer func() { panics[part] = recover() }()
			for n := from; n < to; n++ {
				matches[n] = index.Match(&events[n], config)
				stopChains(&events[n], matches[n], i.chain)
			}
		})
	}
	all.Wait()
	for _, p := range panics {
		if p != nil {
			return nil, fmt.Errorf("cannot match the events: internal error: %v", p)
		}
	}
	return matches, nil
}

// matchPart is how many events are worth another goroutine.
const matchPart = 64

// configs gives the configuration of each pack, asked for once and safe for concurrent use.
func (i *Intake) configs() func(pack string) map[string]any {
	var mu sync.Mutex
	known := map[string]map[string]any{}
	return func(pack string) map[string]any {
		if i.packConfig == nil {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		merged, ok := known[pack]
		if !ok {
			merged = i.packConfig(pack)
			known[pack] = merged
		}
		return merged
	}
}

// Run commits until ctx ends and all that was taken is stored or refused.
func (i *Intake) Run(ctx context.Context) error {
	// Commits outlive ctx, for what was taken has to be stored, but not for ever.
	commits, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(drainTime)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-commits.Done():
		}
	})
	defer stop()

	if i.openBreakers != nil {
		looking, end := context.WithCancel(commits)
		var watch sync.WaitGroup
		watch.Go(func() { i.watchBreakers(looking) })
		defer watch.Wait()
		defer end()
	}

	f := &flow{Intake: i, ctx: commits}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-f.wanted():
			f.add(i.queue.take(f.spare))
		case <-f.pause:
			f.pause = nil
		case <-f.numbered():
			f.last().numbered = nil
		case in := <-f.inserted():
			f.commit(in)
		case r := <-f.committed():
			f.settle(r)
		case <-i.aside.due:
			f.finishAll()
			i.storeAside(commits)
		}
	}
	f.finishAll()
	i.queue.close()
	f.add(i.queue.take(f.spare))
	f.finishAll()
	i.storeAllAside(commits)
	return nil
}

// storeGroup commits a group, for as long as it takes. Where the group fails for a reason that does
// not pass, its halves are committed one after the other, and so at last the event alone that is the
// reason: that one is refused after poisonTries. What a lock on the lease of its sensor keeps from being
// stored is set aside.
func (i *Intake) storeGroup(ctx context.Context, group []item) {
	wait := newRetry()
	for {
		if group = i.aside.take(group); len(group) == 0 {
			return
		}
		stored, err := i.try(ctx, group)
		i.finish(group[:len(stored)], stored)
		group = group[len(stored):]
		switch {
		case len(group) == 0:
			return
		case err == nil:
			// An answer that is too short is a mistake of the store; nothing may be lost by it.
			err = errors.New("the store did not tell the fate of every event")
		case ctx.Err() != nil:
			i.refuse(group, rejectClosed, fmt.Errorf("cannot store the event: %w", ErrClosed))
			return
		}
		if !i.isTransient(err) {
			if len(group) > 1 {
				i.storeGroup(ctx, group[:len(group)/2])
				i.storeGroup(ctx, group[len(group)/2:])
				return
			}
			if group[0].failures++; group[0].failures >= poisonTries {
				e := &group[0].event
				i.logger.Error("event refused", "trigger", e.Trigger, "source", e.Source, "err", err)
				i.refuse(group, rejectStore, fmt.Errorf("cannot store the event: %v", err))
				return
			}
		}
		i.metrics.retries.Inc()
		if i.setAside(ctx, group, err) {
			continue
		}
		if wait.tries == 0 {
			i.logger.Warn("events wait for the database", "events", len(group), "err", err)
		}
		_ = wait.sleep(ctx) // its end is seen by the next try
	}
}

// try commits once. It may give the fates of the first events together with an error: these are
// stored. A panic is an error, so that it ends nothing but the event that is its cause.
func (i *Intake) try(ctx context.Context, group []item) (stored []store.StoredEvent, err error) {
	defer func() {
		if p := recover(); p != nil {
			i.logger.Error("commit of events panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			stored, err = nil, fmt.Errorf("internal error: %v", p)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	return i.commit(ctx, eventsOf(group), i.match)
}

func (i *Intake) finish(group []item, stored []store.StoredEvent) {
	fenced := map[string]int{}
	events, enforcements := lastCounter{vec: i.metrics.events}, lastCounter{vec: i.metrics.enforcements}
	now := time.Now()
	for n := range group {
		s := &stored[n]
		trigger := group[n].event.Trigger
		if s.Fenced {
			fenced[group[n].event.Source]++
			i.metrics.rejected.WithLabelValues(rejectFenced).Inc()
			i.call(group[n].done, s, fmt.Errorf("cannot store the event: another node has its sensor: %w", store.ErrNotHeld))
			continue
		}
		i.metrics.latency.Observe(now.Sub(group[n].taken).Seconds())
		if i.traced != nil {
			i.traced(s, group[n].taken)
		}
		if s.Duplicate {
			i.metrics.duplicates.WithLabelValues(trigger).Inc()
		} else {
			events.of(trigger).Inc()
			if s.Problem != "" {
				i.metrics.flagged.WithLabelValues(trigger).Inc()
			}
			for n := range s.Matches {
				m := &s.Matches[n]
				enforcements.of(m.Rule, m.Status).Inc()
				if m.Opened != "" {
					i.opened(m, s)
				}
				if m.Status == store.EnforcementError {
					i.tell(m, trigger, s.ID)
				}
				if m.Stopped {
					i.tellStopped(m, s)
				}
			}
		}
		i.call(group[n].done, s, nil)
	}
	for source, events := range fenced {
		i.logger.Error("events are not stored, because this node lost their sensor", "sensor", source, "events", events)
	}
}

// call tells somebody the fate of an event. What they do then is theirs, and so is a panic.
func (i *Intake) call(done func(store.StoredEvent, error), stored *store.StoredEvent, err error) {
	defer func() {
		if p := recover(); p != nil {
			i.logger.Error("handling the fate of an event panicked", "err", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	done(*stored, err)
}

// tell logs that a rule failed, not for each of a thousand events: every failure is a row that can be
// listed, and a count.
func (i *Intake) tell(m *store.Match, trigger string, eventID int64) {
	now := time.Now()
	if last, ok := i.told[m.Rule]; ok && now.Sub(last) < tellEvery {
		return
	}
	i.told[m.Rule] = now
	i.logger.Warn("rule failed", "rule", m.Rule, "trigger", trigger, "event_id", eventID, "err", m.Error)
}

func (i *Intake) refuse(group []item, reason string, err error) {
	for n := range group {
		i.metrics.rejected.WithLabelValues(reason).Inc()
		i.call(group[n].done, &store.StoredEvent{}, err)
	}
}

// retry spaces the tries of something that will work again some day.
type retry struct {
	tries int
	next  time.Duration
}

func newRetry() *retry { return &retry{next: retryFirst} }

// sleep waits for the next try, up to a quarter more or less, so that all that wait for one server do
// not come at once.
func (r *retry) sleep(ctx context.Context) error {
	r.tries++
	wait := time.Duration(float64(r.next) * (0.75 + rand.Float64()/2))
	r.next = min(2*r.next, retryMost)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
