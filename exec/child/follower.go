package child

import (
	"bytes"
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

// Follow gives what was kept so far and then what comes, until the stream is closed or the returned
// func is called. A follower that is slow never blocks the child: what it has not taken waits for it, in
// memory and then in a file, up to a gibibyte; a line in a later chunk says how many bytes were more than
// that. Chunks are masked but not sanitized: a character may be split between two.
func (c *Capture) Follow() (<-chan []byte, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &follower{c: make(chan []byte, 1), wake: make(chan struct{}, 1), stopped: make(chan struct{}), disk: followDisk}
	if head, tail, omitted := c.kept(); len(head)+len(tail) > 0 {
		// What is kept is in memory already, however much it is.
		f.pending = bytes.Clone(head)
		if omitted > 0 {
			f.pending = append(f.pending, omission(head, omitted)...)
		}
		f.pending = append(f.pending, tail...)
	}
	if c.closed {
		f.end()
	} else {
		c.followers[f] = struct{}{}
	}
	go f.run()
	return f.c, sync.OnceFunc(func() {
		c.mu.Lock()
		delete(c.followers, f)
		c.mu.Unlock()
		close(f.stopped)
	})
}

// follower hands a stream to a reader that may be slow. Order: pending, file, lost; while there is
// something of a later one, nothing is added to an earlier one.
type follower struct {
	c       chan []byte
	wake    chan struct{} // something came
	stopped chan struct{} // nobody reads any more

	mu          sync.Mutex
	pending     []byte
	file        *os.File // nil: none is needed
	wrote, read int64    // bytes of the file
	disk        int64    // how long the file may become
	lost        int64
	ended       bool
}

// send takes over what comes; it never waits for the reader.
func (f *follower) send(p []byte) {
	f.mu.Lock()
	switch {
	case f.lost > 0:
		f.lost += int64(len(p))
	case f.file == nil && len(f.pending)+len(p) <= followMemory:
		f.pending = append(f.pending, p...)
	default:
		f.spill(p)
	}
	f.mu.Unlock()
	f.poke()
}

// spill puts what comes into the file. A disk that is full loses it to this follower alone.
func (f *follower) spill(p []byte) {
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
	n := 0
	if f.wrote+int64(len(p)) <= f.disk {
		n, _ = f.file.WriteAt(p, f.wrote)
	}
	f.wrote += int64(n)
	f.lost += int64(len(p) - n)
}

// end says that no more comes.
func (f *follower) end() {
	f.mu.Lock()
	f.ended = true
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
		if len(piece) == 0 {
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
func (f *follower) next() (piece []byte, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pending) > 0 {
		piece, f.pending = f.pending, nil
		return piece, false
	}
	if f.file != nil && f.read < f.wrote {
		piece = make([]byte, min(f.wrote-f.read, followPiece))
		n, err := f.file.ReadAt(piece, f.read)
		f.read += int64(n)
		if n < len(piece) && err != nil {
			f.lost += f.wrote - f.read // the disk gives back less than it took
			f.read = f.wrote
		}
		if n > 0 {
			return piece[:n], false
		}
	}
	if f.file != nil {
		_ = f.file.Close()
		f.file = nil
	}
	if f.lost > 0 {
		piece = fmt.Append(nil, omission([]byte{'x'}, f.lost))
		f.lost = 0
		return piece, false
	}
	return nil, f.ended
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
