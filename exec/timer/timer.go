package timer

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// longestSleep bounds how long a step of the wall clock or a suspension goes unnoticed.
	longestSleep = 30 * time.Second

	// chunkBytes is how much is printed at once when many are due. What waits behind it can still be
	// taken back by an update.
	chunkBytes = 64 << 10
)

// Instance is an item of ATTUNE_SENSOR_TRIGGERS.
type Instance struct {
	Trigger    string         `json:"trigger"`
	Instance   string         `json:"instance"`
	Parameters map[string]any `json:"parameters"`
	Rules      []string       `json:"rules"`
	// Since is when the instance came to be; intervals count from it.
	Since time.Time `json:"since"`
	// Last is the due time of its newest stored event; nil: there is none.
	Last *time.Time `json:"last"`
}

// triggerTypes are the triggers that the engine fires. The sensor's manifest names the same ones, so a
// timer trigger of another pack never gets here.
func triggerTypes() map[string]string {
	return map[string]string{
		"core.intervaltimer": manifest.TriggerInterval,
		"core.crontimer":     manifest.TriggerCron,
		"core.datetimetimer": manifest.TriggerDatetime,
	}
}

// Engine fires the instances that it was given last. It is safe for concurrent use.
type Engine struct {
	sensor string
	out    io.Writer
	types  map[string]string
	wake   chan struct{}
	now    func() time.Time // of the wall clock

	mu       sync.Mutex // not held while printing: a reader may be slow
	seen     time.Time  // the newest look at the clock
	timers   map[string]*timer
	due      timerHeap
	problems map[string]string // told already, by instance
}

// New makes an engine that prints event lines to out, as the sensor of the given ref.
func New(sensor string, out io.Writer) *Engine {
	return &Engine{
		sensor: sensor, out: out, types: triggerTypes(), wake: make(chan struct{}, 1), now: wallClock,
		timers: map[string]*timer{}, problems: map[string]string{},
	}
}

// Set replaces the instances; those that stay keep their place. The error joins one for each instance
// that cannot be used and was not told of before; the others run nevertheless.
func (e *Engine) Set(instances []Instance) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.look()
	timers := make(map[string]*timer, len(instances))
	problems := map[string]string{}
	var errs []error
	for i, in := range instances {
		t, err := e.timer(in, now)
		if err != nil {
			problems[in.Instance] = err.Error()
			if e.problems[in.Instance] != err.Error() {
				errs = append(errs, fmt.Errorf("cannot fire %s: %w", in.Instance, err))
			}
			continue
		}
		t.rank = i
		timers[in.Instance] = t
	}
	e.timers, e.problems = timers, problems
	e.plan()
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return errors.Join(errs...)
}

// plan puts all timers that are ever due into the heap.
func (e *Engine) plan() {
	e.due = make(timerHeap, 0, len(e.timers))
	for _, t := range e.timers {
		if !t.due.IsZero() {
			e.due = append(e.due, t)
		}
	}
	heap.Init(&e.due)
}

// look reads the clock. Where it was put back far, the timers that fired in the time which it now says
// is to come start again from now: they would be silent until then.
func (e *Engine) look() time.Time {
	now := e.now()
	if now.Before(e.seen.Add(-maxAhead)) {
		for _, t := range e.timers {
			t.comeBack(now)
		}
		e.plan()
	}
	e.seen = now
	return now
}

// timer makes the timer of an instance, or gives the one that runs.
func (e *Engine) timer(in Instance, now time.Time) (*timer, error) {
	old := e.timers[in.Instance]
	if old != nil && old.in.Trigger == in.Trigger && old.in.Since.Equal(in.Since) && reflect.DeepEqual(old.in.Parameters, in.Parameters) {
		return old, nil
	}
	t, err := newTimer(in, e.types[in.Trigger], e.sensor, now)
	if err != nil {
		return nil, err
	}
	if old != nil {
		t.continueFrom(old)
	}
	return t, nil
}

// Run fires until ctx ends; it prints what it took up before it returns. The error is that of a write.
func (e *Engine) Run(ctx context.Context) error {
	sleep := time.NewTimer(0)
	defer sleep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sleep.C:
		case <-e.wake:
		}
		wait, err := e.fire(ctx)
		if err != nil {
			return err
		}
		sleep.Reset(wait)
	}
}

// fire prints what is due, and tells how long nothing will be.
func (e *Engine) fire(ctx context.Context) (wait time.Duration, err error) {
	buf := make([]byte, 0, chunkBytes)
	for {
		buf, wait = e.collect(buf[:0])
		if len(buf) == 0 {
			return wait, nil
		}
		if _, err := e.out.Write(buf); err != nil {
			return 0, fmt.Errorf("cannot print events: %v", err)
		}
		if ctx.Err() != nil {
			return 0, nil
		}
	}
}

// collect appends the lines of what is due now, as far as a chunk takes them.
func (e *Engine) collect(buf []byte) ([]byte, time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.look()
	for len(e.due) > 0 && len(buf) < chunkBytes {
		t := e.due[0]
		if wait := t.fireAt.Sub(now); wait > 0 {
			return buf, min(wait, longestSleep)
		}
		if t.catchUp(now) {
			buf = t.appendLine(buf, now)
		}
		if t.due.IsZero() {
			heap.Pop(&e.due)
			continue
		}
		heap.Fix(&e.due, 0)
	}
	return buf, longestSleep
}

// wallClock leaves the monotonic reading out, which does not see the clock being set.
func wallClock() time.Time { return time.Now().Round(0).UTC() }

// timerHeap has the timer that fires next at 0; timers of one instant go in the order they were given.
type timerHeap []*timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if c := h[i].fireAt.Compare(h[j].fireAt); c != 0 {
		return c < 0
	}
	return h[i].rank < h[j].rank
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(*timer)) }
func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

// readInstances reads a JSON array of instances.
func readInstances(data []byte) ([]Instance, error) {
	var instances []Instance
	if err := json.Unmarshal(data, &instances); err != nil {
		return nil, fmt.Errorf("cannot read trigger instances: %v", err)
	}
	return instances, nil
}
