package rule

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/attune-io/attune/reconcile/store"
)

// The queue holds at most this much between those who hand over and the one who commits; each group
// that is under way holds at most as much again.
const (
	maxQueueEvents = 1000
	maxQueueBytes  = 8 << 20
)

// minEventCost makes the one bound of the queue, which is in bytes, a bound on the number too.
const minEventCost = maxQueueBytes / maxQueueEvents

// someCost is what so many items cost that they are worth a group while another is under way.
const someCost = 64 * minEventCost

// ErrClosed says that the intake has ended: the event was not stored.
var ErrClosed = errors.New("the intake of events has ended")

// item is an event on its way to the database.
type item struct {
	event store.NewEvent
	taken time.Time // when it was handed over
	cost  int64
	done  func(store.StoredEvent, error)
	// failures counts the commits of this event alone that failed for no passing reason.
	failures int
}

// queue is a bounded first-in first-out queue with one consumer.
type queue struct {
	room *semaphore.Weighted // its waiters are served in order

	mu     sync.Mutex
	items  []item
	cost   int64 // of the items
	closed bool
	gates  map[string]chan struct{} // closed when the sensor may put again

	filled chan struct{} // holds a token while there may be items
	some   chan struct{} // holds a token while they cost someCost
}

func newQueue() *queue {
	token := func() chan struct{} { return make(chan struct{}, 1) }
	return &queue{room: semaphore.NewWeighted(maxQueueBytes), filled: token(), some: token()}
}

// put waits for room and appends.
func (q *queue) put(ctx context.Context, it item) error {
	size := len(it.event.Payload) + len(it.event.Cursor) + len(it.event.EventID)
	// What is larger than the whole queue passes when the queue is empty.
	it.cost = int64(min(max(size, minEventCost), maxQueueBytes))
	for {
		if err := q.room.Acquire(ctx, it.cost); err != nil {
			return err
		}
		q.mu.Lock()
		gate, shut := q.gates[it.event.Source]
		if shut = shut && it.event.Lease != ""; !q.closed && !shut {
			break
		}
		closed := q.closed
		q.mu.Unlock()
		q.room.Release(it.cost) // and so the next that waits learns it too
		if closed {
			return ErrClosed
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	q.items = append(q.items, it)
	q.cost += it.cost
	if q.cost >= someCost {
		rouse(q.some)
	}
	q.mu.Unlock()
	rouse(q.filled)
	return nil
}

// waits tells whether there are items.
func (q *queue) waits() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) > 0
}

func rouse(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take empties the queue into batch, which it may reuse, and makes room.
func (q *queue) take(batch []item) []item {
	q.mu.Lock()
	batch, q.items = q.items, batch[:0]
	cost := q.cost
	q.cost = 0
	for _, token := range []chan struct{}{q.filled, q.some} {
		select {
		case <-token:
		default:
		}
	}
	q.mu.Unlock()
	q.room.Release(cost)
	return batch
}

// close refuses whatever is put from now on.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, gate := range q.gates {
		close(gate)
	}
	q.gates = nil
}

// shut has the sensor wait with what it puts, until open or close.
func (q *queue) shut(sensor string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.gates[sensor] != nil {
		return
	}
	if q.gates == nil {
		q.gates = map[string]chan struct{}{}
	}
	q.gates[sensor] = make(chan struct{})
}

func (q *queue) open(sensor string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if gate := q.gates[sensor]; gate != nil {
		close(gate)
		delete(q.gates, sensor)
	}
}
