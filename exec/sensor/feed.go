package sensor

import (
	"encoding/json"
	"io"
	"sync"
)

// maxAcks is how many acknowledgements wait for a sensor that does not read its stdin. Further ones
// are dropped: the sensor will replay those events, which does no harm.
const maxAcks = 10_000

// feed is what goes to a running sensor's stdin: acknowledgements and new trigger instances. Whoever
// hands it something never waits for the sensor to read.
type feed struct {
	mu     sync.Mutex
	acks   []string
	update []byte // the newest list of instances, if it was not written yet
	wake   chan struct{}
}

func newFeed() *feed { return &feed{wake: make(chan struct{}, 1)} }

// ack acknowledges an event; false: it was dropped.
func (f *feed) ack(eventID string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.acks) == maxAcks {
		return false
	}
	f.acks = append(f.acks, eventID)
	f.rouse()
	return true
}

// send replaces the list of instances that the sensor is told next.
func (f *feed) send(update []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.update = update
	f.rouse()
}

func (f *feed) rouse() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) take() (acks []string, update []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	acks, update = f.acks, f.update
	f.acks, f.update = nil, nil
	return acks, update
}

// run writes until the sensor ends: done is closed, or a write fails.
func (f *feed) run(w io.Writer, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-f.wake:
		}
		acks, update := f.take()
		var buf []byte
		for _, id := range acks {
			line, err := json.Marshal(map[string]string{"ack": id})
			if err != nil {
				continue // a string always has a JSON form
			}
			buf = append(append(buf, line...), '\n')
		}
		if update != nil {
			buf = append(append(buf, update...), '\n')
		}
		if len(buf) == 0 {
			continue
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}
