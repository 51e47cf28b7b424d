package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
)

// Limits are what bounds a rule that matched, with the keys of its event. nil: that limit is not set.
type Limits struct {
	Throttle *manifest.Throttle
	Debounce *manifest.Debounce
	// Dedupe is nil too where the event has nothing to be told apart by.
	Dedupe  *manifest.Dedupe
	Breaker *manifest.Breaker
	Keys    LimitKeys
}

// LimitKeys are the keys that limits have for an event; empty: one for all events of the rule.
type LimitKeys struct{ Throttle, Debounce, Dedupe string }

// The kinds of state, as the column has them.
const (
	limitThrottle = "throttle"
	limitDebounce = "debounce"
	limitDedupe   = "dedupe"
	limitBreaker  = "breaker"
)

const (
	// windowHits bounds what one window remembers: within a hundredth of its span, hits are one entry.
	windowHits = 100

	// breakerKept is how long a closed breaker is remembered: as long as executions are looked back at,
	// so that failures from before the closing never count again.
	breakerKept = 8 * 24 * time.Hour

	// expiryStep rounds expires_at, so that its index is written once in a while and not at each hit.
	expiryStep = time.Hour
)

// limitKey names a state.
type limitKey struct{ rule, kind, key string }

// micros is a time as states have it: what PostgreSQL holds of one, and no more.
type micros int64

func microsOf(t time.Time) micros { return micros(t.UnixMicro()) }

func (m micros) time() time.Time { return time.UnixMicro(int64(m)).UTC() }

// limitState is the column state. Which fields are set depends on the kind.
type limitState struct {
	// Hits are the times at which it fired, oldest first.
	Hits []hit `json:"hits,omitempty"`
	// EventID is the event that went through or waits, At its time.
	EventID int64  `json:"event_id,omitempty"`
	At      micros `json:"at,omitempty"`
	// Due and First are of the one that waits for quiet: when it falls due, and when the waiting began.
	Due   micros `json:"due,omitempty"`
	First micros `json:"first,omitempty"`
	// OpenedAt, OpenUntil and Reason are of a breaker; ClosedAt is when it last closed.
	OpenedAt  micros `json:"opened_at,omitempty"`
	OpenUntil micros `json:"open_until,omitempty"`
	Reason    string `json:"reason,omitempty"`
	ClosedAt  micros `json:"closed_at,omitempty"`

	place   int // of the match that waits, in this very group; from 1
	expires time.Time
	changed bool
}

// hit counts what happened in a hundredth of a window: At is the last of it.
type hit struct {
	At    micros `json:"at"`
	First micros `json:"first"`
	Count int    `json:"n"`
}

// within counts the hits of the last span. One is forgotten when the last of it is, so there are never
// more than a limit within any span, and at worst a hundredth of the span fewer.
func (s *limitState) within(now micros, span manifest.Duration) int {
	oldest := now - micros(time.Duration(span).Microseconds())
	count := 0
	for _, h := range s.Hits {
		if h.At > oldest {
			count += h.Count
		}
	}
	return count
}

func (s *limitState) hit(now micros, span manifest.Duration, count int) {
	width := micros(time.Duration(span).Microseconds())
	s.Hits = slices.DeleteFunc(s.Hits, func(h hit) bool { return h.At <= now-width })
	s.changed = true
	if n := len(s.Hits); n > 0 {
		// A transaction that began earlier may come later: then the hit counts as of the newer one.
		now = max(now, s.Hits[n-1].At)
		if last := &s.Hits[n-1]; now-last.First <= width/windowHits {
			last.At, last.Count = now, last.Count+count
			return
		}
	}
	s.Hits = append(s.Hits, hit{At: now, First: now, Count: count})
}

// keep puts off the end of the state.
func (s *limitState) keep(until time.Time) {
	s.changed = true
	if until.After(s.expires) {
		s.expires = until.Truncate(expiryStep).Add(expiryStep)
	}
}

// limiter decides what the limits leave of the matches of one group of events, in their order.
type limiter struct {
	now      micros
	states   map[limitKey]*limitState
	failures map[string]recentFailures
	matches  []*Match // all that have limits
	// superseded are events of earlier groups that waited for quiet.
	superseded []superseded
}

type superseded struct {
	rule   string
	event  int64
	at     time.Time
	reason string
}

type recentFailures struct {
	Rule     string
	Failures int
	Last     int64 // execution
}

// keysOf are the states that a match needs.
func (m *Match) keysOf() []limitKey {
	l := m.Limits
	var keys []limitKey
	if l.Breaker != nil {
		keys = append(keys, limitKey{m.Rule, limitBreaker, ""})
	}
	if l.Dedupe != nil {
		keys = append(keys, limitKey{m.Rule, limitDedupe, l.Keys.Dedupe})
	}
	if l.Debounce != nil {
		keys = append(keys, limitKey{m.Rule, limitDebounce, l.Keys.Debounce})
	}
	if l.Throttle != nil {
		keys = append(keys, limitKey{m.Rule, limitThrottle, l.Keys.Throttle})
	}
	return keys
}

// limited says whether the limits of a match have anything to decide.
func (m *Match) limited() bool {
	return m.Limits != nil && m.Status == EnforcementMatched && len(m.Executions) > 0
}

func (l *limiter) state(m *Match, kind, key string) *limitState {
	k := limitKey{m.Rule, kind, key}
	if l.states[k] == nil {
		l.states[k] = &limitState{}
	}
	return l.states[k]
}

// decide applies the limits of one match. Nothing is written down before all have been asked: what one
// of them stops counts for none.
func (l *limiter) decide(event *Event, m *Match) {
	limits := m.Limits
	l.matches = append(l.matches, m)
	var breaker, dedupe, debounce, throttle *limitState
	if limits.Breaker != nil {
		breaker = l.state(m, limitBreaker, "")
		if l.stopped(m, breaker) {
			return
		}
	}
	if limits.Dedupe != nil {
		dedupe = l.state(m, limitDedupe, limits.Keys.Dedupe)
		if dedupe.EventID != 0 && l.now < dedupe.At+span(limits.Dedupe.Window) {
			m.stop(EnforcementDeduplicated, fmt.Sprintf("event %d had the same key %q and came less than %s before",
				dedupe.EventID, limits.Keys.Dedupe, limits.Dedupe.Window))
			return
		}
	}
	waits := false
	if limits.Debounce != nil {
		debounce = l.state(m, limitDebounce, limits.Keys.Debounce)
		waits = debounce.EventID != 0 && l.now < debounce.Due
	}
	// One that takes the place of another that waits takes its place in the counts as well.
	if limits.Throttle != nil && !waits {
		throttle = l.state(m, limitThrottle, limits.Keys.Throttle)
		if throttle.within(l.now, limits.Throttle.Per) >= limits.Throttle.Max {
			text := fmt.Sprintf("it has fired %d times within %s", limits.Throttle.Max, limits.Throttle.Per)
			if limits.Keys.Throttle != "" {
				text += fmt.Sprintf(" for key %q", limits.Keys.Throttle)
			}
			m.stop(EnforcementThrottled, text)
			return
		}
	}
	storm := breaker != nil && limits.Breaker.Executions > 0 && !waits
	if storm && breaker.within(l.now, limits.Breaker.Per)+len(m.Executions) > limits.Breaker.Executions {
		l.open(m, breaker, fmt.Sprintf("it would lead to more than %d executions within %s", limits.Breaker.Executions, limits.Breaker.Per))
		return
	}

	if dedupe != nil {
		dedupe.EventID, dedupe.At = event.ID, l.now
		dedupe.keep(l.now.time().Add(time.Duration(limits.Dedupe.Window)))
	}
	if throttle != nil {
		throttle.hit(l.now, limits.Throttle.Per, 1)
		throttle.keep(l.now.time().Add(time.Duration(limits.Throttle.Per)))
	}
	if storm {
		breaker.hit(l.now, limits.Breaker.Per, len(m.Executions))
		breaker.keep(l.now.time().Add(max(time.Duration(limits.Breaker.Per), breakerKept)))
	}
	if debounce != nil {
		l.wait(event, m, debounce, waits)
	}
}

func span(d manifest.Duration) micros { return micros(time.Duration(d).Microseconds()) }

// stop takes from a match what it would have queued.
func (m *Match) stop(status, why string) {
	m.Status, m.Error, m.Executions = status, why, nil
}

// stopped says whether the breaker is open, or opens because of what became of earlier executions.
func (l *limiter) stopped(m *Match, breaker *limitState) bool {
	spec := m.Limits.Breaker
	if breaker.OpenUntil > 0 {
		if l.now < breaker.OpenUntil {
			m.stop(EnforcementSkipped, l.openText(breaker))
			return true
		}
		// Its time is over: it begins anew, and what failed before does not count.
		*breaker = limitState{ClosedAt: breaker.OpenUntil, expires: breaker.expires}
		breaker.keep(l.now.time().Add(breakerKept))
		delete(l.failures, m.Rule)
	}
	recent := l.failures[m.Rule]
	if spec.Failures == 0 || recent.Failures < spec.Failures {
		return false
	}
	l.open(m, breaker, fmt.Sprintf("its last %d executions did not succeed, the newest is %d", recent.Failures, recent.Last))
	return true
}

func (l *limiter) openText(breaker *limitState) string {
	return fmt.Sprintf("the breaker is open until %s: %s", breaker.OpenUntil.time().Format(time.RFC3339), breaker.Reason)
}

func (l *limiter) open(m *Match, breaker *limitState, why string) {
	breaker.Hits = nil
	breaker.OpenedAt, breaker.OpenUntil, breaker.Reason = l.now, l.now+span(m.Limits.Breaker.Pause), why
	breaker.keep(breaker.OpenUntil.time().Add(breakerKept))
	m.stop(EnforcementSkipped, l.openText(breaker))
	m.Opened = why
}

// wait has a match wait for quiet, in the place of the one that waits already.
func (l *limiter) wait(event *Event, m *Match, state *limitState, waits bool) {
	spec := m.Limits.Debounce
	first := l.now
	if waits {
		first = state.First
		reason := fmt.Sprintf("event %d came before it was quiet for %s", event.ID, spec.Window)
		if state.place > 0 {
			earlier := l.matches[state.place-1]
			earlier.stop(EnforcementSkipped, reason)
		} else {
			l.superseded = append(l.superseded, superseded{m.Rule, state.EventID, state.At.time(), reason})
		}
	}
	due := l.now + span(spec.Window)
	if spec.MaxWait > 0 {
		due = min(due, first+span(spec.MaxWait))
	}
	*state = limitState{
		EventID: event.ID, At: microsOf(event.CreatedAt), First: first, Due: due,
		place: len(l.matches), expires: state.expires,
	}
	state.keep(due.time())
	at := due.time()
	for i := range m.Executions {
		m.Executions[i].DueAt = &at
	}
}

// limit asks the limits of the matches, in one more round trip where there are any.
func (c *eventCommit) limit(ctx context.Context) error {
	keys := map[limitKey]bool{}
	var failing []string
	for _, place := range c.fresh {
		for i := range c.stored[place].Matches {
			m := &c.stored[place].Matches[i]
			if !m.limited() {
				continue
			}
			for _, key := range m.keysOf() {
				if key.kind == limitBreaker && !keys[key] && m.Limits.Breaker.Failures > 0 {
					failing = append(failing, m.Rule)
				}
				keys[key] = true
			}
		}
	}
	if len(keys) == 0 {
		return nil
	}
	l, err := c.lockStates(ctx, keys, failing)
	if err != nil {
		return err
	}
	for _, place := range c.fresh {
		event := &c.stored[place]
		l.now = microsOf(event.CreatedAt)
		for i := range event.Matches {
			if m := &event.Matches[i]; m.limited() {
				l.decide(&event.Event, m)
			}
		}
	}
	c.limiter = l
	return nil
}

// lockStates reads the states, which nobody else changes until the commit.
func (c *eventCommit) lockStates(ctx context.Context, keys map[limitKey]bool, failing []string) (*limiter, error) {
	l := &limiter{states: make(map[limitKey]*limitState, len(keys)), failures: map[string]recentFailures{}}
	var rules, kinds, names []string
	for key := range keys {
		rules, kinds, names = append(rules, key.rule), append(kinds, key.kind), append(names, key.key)
	}
	args := pgx.StrictNamedArgs{"rule_refs": rules, "kinds": kinds, "keys": names}
	var batch pgx.Batch
	c.s.queue(&batch, "MakeRuleStates", args)
	c.s.queue(&batch, "LockRuleStates", args).Query(func(rows pgx.Rows) error {
		var key limitKey
		var text []byte
		_, err := pgx.ForEachRow(rows, []any{&key.rule, &key.kind, &key.key, &text}, func() error {
			state := &limitState{}
			if err := json.Unmarshal(text, state); err != nil {
				// Somebody wrote into it by hand. To begin anew is better than never to store an event again.
				c.s.log.Warn("a limit begins anew, its state cannot be read", "component", "store", "rule", key.rule, "err", err)
				state = &limitState{}
			}
			l.states[key] = state
			return nil
		})
		return err
	})
	if len(failing) > 0 {
		c.s.queue(&batch, "RecentFailures", pgx.StrictNamedArgs{"rule_refs": failing}).Query(func(rows pgx.Rows) error {
			found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[recentFailures])
			for _, f := range found {
				l.failures[f.Rule] = f
			}
			return err
		})
	}
	return l, c.send(ctx, &batch)
}

// queueStates writes what the limits have to remember, and takes back what an event made outdated.
func (c *eventCommit) queueStates(batch *pgx.Batch) error {
	if c.limiter == nil {
		return nil
	}
	if list := c.limiter.superseded; len(list) > 0 {
		var rules, reasons []string
		var ids []int64
		var times []time.Time
		for _, s := range list {
			rules, ids, times, reasons = append(rules, s.rule), append(ids, s.event), append(times, s.at), append(reasons, s.reason)
		}
		c.s.queue(batch, "SupersedeExecutions", pgx.StrictNamedArgs{
			"rule_refs": rules, "event_ids": ids, "created_at": times, "reasons": reasons,
		})
	}
	var rules, kinds, keys, states []string
	var expires []time.Time
	for key, state := range c.limiter.states {
		if !state.changed {
			continue
		}
		text, err := encode(state)
		if err != nil {
			return fmt.Errorf("cannot encode a limit of rule %s: %w", key.rule, err)
		}
		rules, kinds, keys = append(rules, key.rule), append(kinds, key.kind), append(keys, key.key)
		states, expires = append(states, text), append(expires, state.expires)
	}
	if len(rules) > 0 {
		c.s.queue(batch, "PutRuleStates", pgx.StrictNamedArgs{
			"rule_refs": rules, "kinds": kinds, "keys": keys, "states": states, "expires_at": expires,
		})
	}
	return nil
}

// Breaker is an open breaker.
type Breaker struct {
	Rule      string    `json:"rule_ref"`
	OpenedAt  time.Time `json:"opened_at"`
	OpenUntil time.Time `json:"open_until"`
	Reason    string    `json:"reason"`
}

// OpenBreakers lists the breakers that are open now: all, or that of one rule.
func (s *Store) OpenBreakers(ctx context.Context, rule string) ([]Breaker, error) {
	breakers, err := list(ctx, s, "OpenBreakers", pgx.StrictNamedArgs{"rule_ref": optional(rule)}, pgx.RowToStructByPos[Breaker])
	return breakers, s.failed("list open breakers", err)
}

// Reset is what a reset of a rule found.
type Reset struct {
	Closed    bool `json:"closed"`    // its breaker was open
	Forgotten int  `json:"forgotten"` // states of throttle and dedupe
}

// ResetRule closes a rule's breaker and forgets what its throttle and its dedupe remember, in one transaction
// with its row in the audit.
func (s *Store) ResetRule(ctx context.Context, rule, by string) (reset Reset, err error) {
	err = s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		found, err := collect(ctx, s, tx, "ResetRule", pgx.StrictNamedArgs{"rule_ref": rule}, pgx.RowToStructByPos[Reset])
		if err != nil {
			return err
		}
		if len(found) > 0 {
			reset = found[0]
		}
		before, err := encode(struct {
			Open       bool `json:"breaker_open"`
			Remembered int  `json:"remembered"`
		}{reset.Closed, reset.Forgotten})
		if err != nil {
			return err
		}
		return s.auditIn(ctx, tx, &NewAudit{
			Actor: by, Action: "reset rule", Object: rule, Before: []byte(before), After: []byte(`{"breaker_open": false, "remembered": 0}`),
		})
	})
	return reset, s.failed("reset rule "+rule, err)
}

// WaitingForQuiet counts the keys of a rule for which an event waits for quiet.
func (s *Store) WaitingForQuiet(ctx context.Context, rule string) (int, error) {
	counts, err := list(ctx, s, "CountWaiting", pgx.StrictNamedArgs{"rule_ref": rule}, pgx.RowTo[int])
	if err != nil || len(counts) == 0 {
		return 0, s.failed("count what rule "+rule+" has waiting", err)
	}
	return counts[0], nil
}
