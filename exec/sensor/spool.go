package sensor

import (
	"io"
	"sync"
)

const (
	// spoolRoom is how much of a sensor's stdout waits here, in bytes, before the sensor is held back.
	spoolRoom = 128 << 10

	// spoolRoomStopping is how much waits while the sensor is being stopped: its end must not hang on
	// a Sink that takes nothing, and what it says at the end is kept.
	spoolRoomStopping = 4 << 20
)

// spool is a pipe with a bounded buffer between a sensor's stdout and the reader of its lines. It lets
// a process end, and be known to have ended, while its last lines still wait for the Sink.
type spool struct {
	mu     sync.Mutex
	moved  sync.Cond
	buf    []byte // from at on it is to be read
	at     int
	room   int // 0: no bound
	closed bool
	waste  bool
}

func newSpool() *spool {
	s := &spool{room: spoolRoom}
	s.moved.L = &s.mu
	return s
}

// Write waits for room.
func (s *spool) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(p) {
		for !s.waste && !s.closed && s.room > 0 && s.waiting() >= s.room {
			s.moved.Wait()
		}
		if s.waste || s.closed {
			return len(p), nil // the writer reads on, so that the process never waits for us
		}
		part := p[n:]
		if s.room > 0 {
			part = part[:min(len(part), s.room-s.waiting())]
		}
		if s.at > 0 && len(s.buf)+len(part) > cap(s.buf) {
			s.buf = s.buf[:copy(s.buf, s.buf[s.at:])]
			s.at = 0
		}
		s.buf = append(s.buf, part...)
		n += len(part)
		s.moved.Broadcast()
	}
	return n, nil
}

// Read waits for bytes; io.EOF comes after end and the last byte.
func (s *spool) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.waiting() == 0 && !s.closed && !s.waste {
		s.moved.Wait()
	}
	if s.waiting() == 0 || s.waste {
		return 0, io.EOF
	}
	n := copy(p, s.buf[s.at:])
	s.at += n
	if s.waiting() == 0 {
		s.buf, s.at = s.buf[:0], 0
		if cap(s.buf) > spoolRoom {
			s.buf = nil
		}
	}
	s.moved.Broadcast()
	return n, nil
}

// waiting is how much is there to be read.
func (s *spool) waiting() int { return len(s.buf) - s.at }

// widen changes the room; 0 is no bound.
func (s *spool) widen(room int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = room
	s.moved.Broadcast()
}

// end says that no more is written.
func (s *spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.moved.Broadcast()
}

// discard ends the reading at once and throws away what is written.
func (s *spool) discard() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waste, s.buf, s.at = true, nil, 0
	s.moved.Broadcast()
}
