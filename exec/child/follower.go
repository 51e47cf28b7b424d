package child

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
)

const (
	// followMemory is how far a follower may be behind in memory, followDisk in a temporary file beyond
	// that, in bytes; what is more is lost to it. Somebody who pages through a log, or has a slow line, is
	// far behind for long, and the child is not to wait for them.
	followMemory = 256 << 10
	followDisk   = 1 << 30

	// followPiece is how much of the file is read at once.
	followPiece = 64 << 10
)

// Piece is output as it comes.
type Piece struct {
	Of   int // which of the captures that are followed
	Text []byte
}

// Follow is [Follow] of one capture.
func (c *Capture) Follow() (<-chan Piece, func()) { return Follow(c) }

// Follow gives what was kept so far of captures and then what comes, in the order in which it came where the two are
// of one [Arrivals], until all are closed or the returned func is called. A follower that is slow never blocks the
// child: what it has not taken waits for it, in memory and then in a file, up to a gibibyte; a line in a later piece
// says how many bytes were more than that. Pieces are masked but not sanitized: a character may be split between two.
func Follow(captures ...*Capture) (<-chan Piece, func()) {
	f := newFollower()
	for _, c := range captures {
		c.mu.Lock() // always in this order; who writes has only one of them
		defer c.mu.Unlock()
	}
	f.recall(captures)
	for i, c := range captures {
		if !c.closed {
			c.followers[f] = i
			f.open++
		}
	}
	f.ended = f.open == 0
	go f.run()
	return f.c, sync.OnceFunc(func() {
		for _, c := range captures {
			c.mu.Lock()
			delete(c.followers, f)
			c.mu.Unlock()
		}
		close(f.stopped)
	})
}

// recall has the follower begin with what was kept. What is kept is in memory already, however much it is.
func (f *follower) recall(captures []*Capture) {
	come := make([]int64, len(captures))
	take := func(i int, until int64) {
		f.pending = frame(f.pending, i, captures[i].between(come[i], until))
		come[i] = until
	}
	if a := captures[0].arrivals; a != nil && len(captures) == len(a.of) && captures[1].arrivals == a {
		a.mu.Lock()
		for i, n := range a.pieces {
			take(i%2, come[i%2]+n)
		}
		a.mu.Unlock()
	}
	for i, c := range captures {
		take(i, c.total)
	}
}

// between gives what was kept of a part of the stream, and in its place what says that something was left out.
func (c *Capture) between(from, until int64) []byte {
	if from >= until {
		return nil
	}
	head, tail, omitted := c.kept()
	cut, rest := int64(len(head)), c.total-int64(len(tail))
	part := bytes.Clone(head[min(from, cut):min(until, cut)])
	if omitted > 0 && from <= cut && until > cut {
		part = append(part, omission(head, omitted)...)
	}
	return append(part, tail[max(from-rest, 0):max(until-rest, 0)]...)
}

// frameHead is what stands before each piece while it waits: of which capture it is, and how long.
const frameHead = 5

// frame adds a piece to those that wait.
func frame(to []byte, of int, text []byte) []byte {
	if len(text) == 0 {
		return to
	}
	to = append(to, byte(of))
	to = binary.BigEndian.AppendUint32(to, uint32(len(text)))
	return append(to, text...)
}

// follower hands streams to a reader that may be slow. Order: pending, file, lost; while there is
// something of a later one, nothing is added to an earlier one.
type follower struct {
	c       chan Piece
	wake    chan struct{} // something came
	stopped chan struct{} // nobody reads any more

	mu          sync.Mutex
	pending     []byte
	file        *os.File // nil: none is needed
	wrote, read int64    // bytes of the file
	disk        int64    // how long the file may become
	lost        int64
	ended       bool
	open        int // captures that are not closed
	of, left    int // the piece of which something was handed on, and how much of it was not
}

func newFollower() *follower {
	return &follower{c: make(chan Piece, 1), wake: make(chan struct{}, 1), stopped: make(chan struct{}), disk: followDisk}
}

// send takes over what comes; it never waits for the reader.
func (f *follower) send(of int, p []byte) {
	f.mu.Lock()
	switch {
	case f.lost > 0:
		f.lost += int64(len(p))
	case f.file == nil && len(f.pending)+frameHead+len(p) <= followMemory:
		f.pending = frame(f.pending, of, p)
	default:
		f.spill(of, p)
	}
	f.mu.Unlock()
	f.poke()
}

// spill puts what comes into the file. A disk that is full loses it to this follower alone.
func (f *follower) spill(of int, p []byte) {
	if f.file == nil {
		file, err := os.CreateTemp("", "attune-follow-*")
		if err != nil {
			f.lost += int64(len(p))
			return
		}
		// It goes with its last user, however that ends.
		_ = os.Remove(file.Name())
		f.file, f.wrote, f.read = file, 0, 0
	}
	text := frame(nil, of, p)
	if f.wrote+int64(len(text)) <= f.disk {
		if _, err := f.file.WriteAt(text, f.wrote); err == nil {
			f.wrote += int64(len(text))
			return
		}
	}
	f.lost += int64(len(p))
}

// end says that no more comes of one of the captures.
func (f *follower) end() {
	f.mu.Lock()
	f.open--
	f.ended = f.open <= 0
	f.mu.Unlock()
	f.poke()
}

func (f *follower) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run hands on what there is, until all is out or nobody reads any more.
func (f *follower) run() {
	defer close(f.c)
	defer f.discard()
	for {
		piece, ended := f.next()
		if len(piece.Text) == 0 {
			if ended {
				return
			}
			select {
			case <-f.wake:
			case <-f.stopped:
				return
			}
			continue
		}
		select {
		case f.c <- piece:
		case <-f.stopped:
			return
		}
	}
}

// next gives the next piece, if there is one, and else whether there will be none.
func (f *follower) next() (piece Piece, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) > 0 {
		piece, used := f.unframe(f.pending)
		if f.pending = f.pending[used:]; len(f.pending) == 0 {
			f.pending = nil
		}
		return piece, false
	}
	if f.file != nil && f.read < f.wrote {
		block := make([]byte, min(f.wrote-f.read, frameHead+followPiece))
		if n, err := f.file.ReadAt(block, f.read); n < len(block) && err != nil {
			f.lost += f.wrote - f.read // the disk gives back less than it took
			f.read, f.left = f.wrote, 0
		} else {
			piece, used := f.unframe(block)
			f.read += int64(used)
			return piece, false
		}
	}
	if f.file != nil {
		_ = f.file.Close()
		f.file = nil
	}
	if f.lost > 0 {
		piece = Piece{Of: f.of, Text: fmt.Append(nil, omission([]byte{'x'}, f.lost))}
		f.lost = 0
		return piece, false
	}
	return Piece{}, f.ended
}

// unframe takes what stands together of one capture, and tells how much that was of what waits.
func (f *follower) unframe(waiting []byte) (piece Piece, used int) {
	for used < len(waiting) && len(piece.Text) < followPiece {
		if f.left == 0 {
			head := waiting[used:]
			if len(head) < frameHead || len(piece.Text) > 0 && int(head[0]) != piece.Of {
				break
			}
			f.of, f.left = int(head[0]), int(binary.BigEndian.Uint32(head[1:]))
			used += frameHead
			continue
		}
		n := min(f.left, len(waiting)-used)
		piece.Of, piece.Text = f.of, append(piece.Text, waiting[used:used+n]...)
		used, f.left = used+n, f.left-n
	}
	return piece, used
}

func (f *follower) discard() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		_ = f.file.Close()
		f.file = nil
	}
	// What may still come, until the capture knows, goes nowhere.
	f.disk, f.pending, f.lost = 0, nil, 1
}
