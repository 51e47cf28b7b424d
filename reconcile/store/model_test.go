package store_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// model is what the queue should do, in a few words of Go: one execution by id.
type model struct {
	*testing.T // of what fails for other reasons than the queue's
	t          *rapid.T
	s          *store.Store
	executions map[int64]*modelled
	// ready is the revision whose files a node may have in place.
	ready int64
}

// nodes are those that claim, stall and die.
var nodes = []string{"n1", "n2", "n3"}

type modelled struct {
	status   store.Status
	token    string
	node     string
	started  bool
	lapsed   bool
	cancel   bool
	retry    bool // its action says on_lost: retry
	attempts int
	old      []string // tokens that hold no more
}

// What nodes do at random comes to what the model says. What fails is made shorter until it cannot be, and is told
// step by step; -rapid.seed draws others.
func TestQueueAgainstModel(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	apply(t, s, change("a", action("a", "once"), action("a", "again", onLostRetry)))
	ready := one[int64](t, s, "SELECT max(id) FROM attune.revision")
	rapid.Check(t, func(rt *rapid.T) {
		sql(t, s, "DELETE FROM attune.queue")
		m := &model{T: t, t: rt, s: s, ready: ready, executions: map[int64]*modelled{}}
		for range 5 {
			m.enqueue()
		}
		step := func(do func()) func(*rapid.T) {
			return func(rt *rapid.T) {
				m.t = rt
				do()
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":        step(m.check),
			"enqueue": step(m.enqueue), "claim": step(m.claim), "claim more": step(m.claim),
			"start": step(m.start), "start more": step(m.start), "finish": step(m.finish), "retry": step(m.retry),
			"late": step(m.late), "release": step(m.release), "lapse": step(m.lapse), "lapse more": step(m.lapse),
			"reap": step(m.reap), "reap more": step(m.reap), "renew": step(m.renew), "cancel": step(m.cancel),
			"stall": step(m.stall), "die": step(m.die),
		})
	})
}

// pick gives an execution that fulfils the condition.
func (m *model) pick(condition func(*modelled) bool) (int64, *modelled) {
	var ids []int64
	for id, e := range m.executions {
		if condition(e) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	slices.Sort(ids)
	id := rapid.SampledFrom(ids).Draw(m.t, "execution")
	return id, m.executions[id]
}

func (m *model) note(format string, args ...any) { m.t.Logf(format, args...) }

// toss says yes or no.
func (m *model) toss(what string) bool { return rapid.Bool().Draw(m.t, what) }

// move changes a status, along the documented lines only.
func (m *model) move(e *modelled, to store.Status) {
	if e.status != to && !slices.Contains(e.status.Next(), to) {
		m.t.Errorf("%s became %s", e.status, to)
	}
	if e.token != "" && to != store.StatusRunning {
		e.old = append(e.old, e.token)
		e.token, e.started, e.lapsed = "", false, false
	}
	e.status = to
}

func (m *model) enqueue() {
	e := store.NewExecution{Action: "a.once"}
	made := &modelled{status: store.StatusRequested}
	if m.toss("is tried again") {
		e.Action, made.retry = "a.again", true
	}
	if rapid.IntRange(0, 3).Draw(m.t, "later") == 0 {
		e.DueAt, made.status = new(time.Now().Add(time.Hour)), store.StatusScheduled
	}
	id := enqueue(m.T, m.s, e)[0]
	m.executions[id] = made
	m.note("enqueue %d", id)
}

func (m *model) claim() {
	limit := rapid.IntRange(1, 3).Draw(m.t, "limit")
	waiting := 0
	for _, e := range m.executions {
		if e.status == store.StatusRequested {
			waiting++
		}
	}
	node := m.node()
	var ready []int64
	if m.toss("files are in place") {
		ready = []int64{m.ready}
	}
	claimed, err := m.s.Claim(m.Context(), node, limit, ready...)
	if err != nil {
		m.t.Error(err)
	}
	if len(claimed) != min(limit, waiting) {
		m.t.Errorf("claimed %d of %d, asked for %d", len(claimed), waiting, limit)
	}
	for _, c := range claimed {
		e := m.executions[c.ExecutionID]
		m.move(e, store.StatusRunning)
		e.token, e.node, e.started = c.Token, node, c.Begun
		if c.Begun != (ready != nil) {
			m.t.Errorf("begun with its claim: %v, although ready are %v", c.Begun, ready)
		}
		e.attempts++
		if c.Attempt != e.attempts {
			m.t.Errorf("attempt %d, expected %d", c.Attempt, e.attempts)
		}
		m.note("claim %d by %s, begun: %v", c.ExecutionID, node, c.Begun)
	}
}

func (m *model) start() {
	id, e := m.pick(func(e *modelled) bool { return e.token != "" })
	if e == nil {
		return
	}
	held, err := m.s.Start(m.Context(), []string{e.token})
	if want := !e.lapsed && !e.cancel; err != nil || held[e.token] != want {
		m.t.Errorf("start gave %v: %v", held, err)
	}
	e.started = e.started || held[e.token]
	m.note("start %d: %v", id, held[e.token])
}

func (m *model) end(o store.Outcome, final store.Status) {
	id, e := m.pick(func(e *modelled) bool { return e.token != "" })
	if e == nil {
		return
	}
	o.Token = e.token
	// Lapsed but not reaped: it is still the holder's.
	if !finish(m.T, m.s, o)[0] {
		m.t.Error("the holder was refused")
	}
	if o.RetryAt != nil && e.cancel {
		final = store.StatusCancelled
	}
	m.move(e, final)
	m.note("finish %d as %s", id, final)
}

func (m *model) finish() {
	ends := []store.Status{store.StatusSucceeded, store.StatusFailed, store.StatusTimedOut, store.StatusCancelled}
	status := rapid.SampledFrom(ends).Draw(m.t, "status")
	m.end(store.Outcome{Status: status}, status)
}

func (m *model) retry() {
	if m.toss("later") {
		m.end(store.Outcome{Status: store.StatusFailed, RetryAt: new(time.Now().Add(time.Hour))}, store.StatusScheduled)
		return
	}
	m.end(store.Outcome{Status: store.StatusFailed, RetryAt: new(time.Now().Add(-time.Hour))}, store.StatusRequested)
}

// late tries everything that only a holder may do. What it says of the outcome is what nobody said.
func (m *model) late() {
	id, e := m.pick(func(e *modelled) bool { return len(e.old) > 0 })
	if e == nil {
		return
	}
	token := rapid.SampledFrom(e.old).Draw(m.t, "which")
	if held, err := m.s.Start(m.Context(), []string{token}); err != nil || held[token] {
		m.t.Errorf("a late start of %d was held: %v", id, err)
	}
	if err := m.s.Release(m.Context(), []string{token}); err != nil {
		m.t.Error(err)
	}
	if _, err := m.s.Finish(m.Context(), []store.Outcome{{Token: token, Status: store.StatusSucceeded, RetryAt: new(time.Now())}}); err != nil {
		m.t.Error(err)
	}
	m.note("late %d", id)
}

func (m *model) release() {
	id, e := m.pick(func(e *modelled) bool { return e.token != "" })
	if e == nil {
		return
	}
	if err := m.s.Release(m.Context(), []string{e.token}); err != nil {
		m.t.Error(err)
	}
	e.attempts--
	if e.cancel {
		m.move(e, store.StatusCancelled)
	} else {
		m.move(e, store.StatusRequested)
	}
	m.note("release %d", id)
}

func (m *model) lapse() {
	id, e := m.pick(func(e *modelled) bool { return e.token != "" })
	if e == nil {
		return
	}
	sql(m.T, m.s, "UPDATE attune.queue SET lease_until = now() - INTERVAL '1 second' WHERE execution_id = $1", id)
	e.lapsed = true
	m.note("lapse %d", id)
}

func (m *model) renew() {
	node := m.node()
	renewal, err := m.s.Renew(m.Context(), node)
	if err != nil {
		m.t.Error(err)
		return
	}
	var held, cancel []string
	for _, e := range m.executions {
		if e.token != "" && e.node == node {
			e.lapsed = false
			held = append(held, e.token)
			if e.cancel {
				cancel = append(cancel, e.token)
			}
		}
	}
	for _, list := range [][]string{held, cancel, renewal.Held, renewal.Cancel} {
		slices.Sort(list)
	}
	if !slices.Equal(held, renewal.Held) || !slices.Equal(cancel, renewal.Cancel) {
		m.t.Errorf("renewed %+v, expected %v and %v", renewal, held, cancel)
	}
}

func (m *model) node() string { return rapid.SampledFrom(nodes).Draw(m.t, "node") }

// stall freezes a node for so long that all its leases lapse; it may wake up before anybody looks.
func (m *model) stall() {
	node := m.node()
	sql(m.T, m.s, "UPDATE attune.queue SET lease_until = now() - INTERVAL '1 second' WHERE node = $1", node)
	for _, e := range m.executions {
		if e.token != "" && e.node == node {
			e.lapsed = true
		}
	}
	m.note("stall %s", node)
}

// die is a node that was killed and is back: what it held ends at once.
func (m *model) die() {
	node := m.node()
	if _, _, err := m.s.LoseNode(m.Context(), node); err != nil {
		m.t.Error(err)
	}
	m.note("die %s", node)
	m.lose(func(e *modelled) bool { return e.token != "" && e.node == node })
}

func (m *model) reap() {
	if _, _, err := m.s.Reap(m.Context()); err != nil {
		m.t.Error(err)
	}
	m.lose(func(e *modelled) bool { return e.lapsed })
}

// lose is what becomes of attempts whose node is given up.
func (m *model) lose(given func(*modelled) bool) {
	for id, e := range m.executions {
		if !given(e) {
			continue
		}
		switch {
		case !e.started:
			m.move(e, store.StatusRequested)
			e.attempts--
		case e.retry && !e.cancel && e.attempts < store.MaxLostAttempts:
			m.move(e, store.StatusRequested)
		default:
			m.move(e, store.StatusLost)
		}
		m.note("lost %d: %s", id, e.status)
	}
}

func (m *model) cancel() {
	id, e := m.pick(func(*modelled) bool { return true })
	if e == nil {
		return
	}
	found, err := m.s.Cancel(m.Context(), id, "alice")
	if err != nil || found != e.status {
		m.t.Errorf("cancel of %d found %s, expected %s: %v", id, found, e.status, err)
	}
	switch {
	case e.status.Final():
	case e.started:
		e.cancel = true
	default:
		if e.token != "" {
			e.attempts--
		}
		m.move(e, store.StatusCancelled)
	}
	m.note("cancel %d", id)
}

func (m *model) check() {
	executions, err := m.s.ListExecutions(m.Context(), store.ExecutionFilter{Limit: 10_000})
	if err != nil {
		m.t.Error(err)
		return
	}
	found := 0
	for _, got := range executions {
		want := m.executions[got.ID]
		if want == nil {
			continue // of a former seed
		}
		found++
		if got.Status != want.status || got.Attempt != want.attempts {
			m.t.Errorf("execution %d is %s after %d attempts, expected %s after %d", got.ID, got.Status, got.Attempt, want.status, want.attempts)
		}
		if want.status.Final() != (got.FinishedAt != nil) {
			m.t.Errorf("execution %d is %s and finished at %v", got.ID, got.Status, got.FinishedAt)
		}
	}
	if found != len(m.executions) {
		m.t.Errorf("%d executions, expected %d", found, len(m.executions))
	}
}
