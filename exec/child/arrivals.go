package child

import (
	"bytes"
	"sync"
)

// maxPieces is how finely the order of two streams is kept. Beyond it, it is kept half as finely.
const maxPieces = 4096

// Arrivals keeps in which order what two captures got has come: each stream is read on its own, and people read
// both together. What a child wrote before anybody read, in the first moments of its life, came stream by stream.
type Arrivals struct {
	of [2]*Capture

	mu sync.Mutex
	// pieces are bytes after masking, by turns of the first capture and of the second. Each two of them are of grain
	// turns; of the last two, come are over.
	pieces      []int64
	grain, come int
	last        int // whose turn it was
}

// NewArrivals keeps the order of two captures of which none has got anything yet.
func NewArrivals(first, second *Capture) *Arrivals {
	a := &Arrivals{of: [2]*Capture{first, second}, grain: 1, come: 1}
	for i, c := range a.of {
		c.arrivals, c.turn = a, i
	}
	return a
}

// note is called with the lock of the capture held.
func (a *Arrivals) note(turn, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if turn == 0 && a.last == 1 {
		a.come++
	}
	if a.come >= a.grain {
		if len(a.pieces) == maxPieces {
			for i := range maxPieces / 4 {
				four := a.pieces[4*i:]
				a.pieces[2*i], a.pieces[2*i+1] = four[0]+four[2], four[1]+four[3]
			}
			a.pieces, a.grain = a.pieces[:maxPieces/2], 2*a.grain
		}
		a.pieces, a.come = append(a.pieces, 0, 0), 0
	}
	a.pieces[len(a.pieces)-2+turn] += int64(n)
	a.last = turn
}

// InText gives the order in bytes of what Text gives of each: by turns of the first and of the second. It is nil
// where nothing came between: all of the first, then all of the second; and where a text is not, byte for byte, what
// was written. Nothing must come any more.
func (a *Arrivals) InText() []int {
	a.mu.Lock()
	pieces := a.pieces
	a.mu.Unlock()
	if len(pieces) <= len(a.of) {
		return nil
	}
	var places [2]func(int64) int
	for i, c := range a.of {
		if places[i] = c.places(); places[i] == nil {
			return nil
		}
	}
	var come [2]int64
	var told [2]int
	order := make([]int, 0, len(pieces))
	for i, n := range pieces {
		turn := i % 2
		come[turn] += n
		at := places[turn](come[turn])
		order = append(order, at-told[turn])
		told[turn] = at
	}
	if order[len(order)-1] == 0 {
		order = order[:len(order)-1]
	}
	return order
}

// places tells where in Text a place of the stream is; nil: Text is not what was written.
func (c *Capture) places() func(int64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	head, tail, omitted := c.kept()
	if omitted == 0 {
		if !isClean(append(bytes.Clone(head), tail...)) {
			return nil
		}
		return func(at int64) int { return int(at) }
	}
	cut, rest := trimLastRune(head), trimFirstRune(tail)
	if !isClean(cut) || !isClean(rest) {
		return nil
	}
	from := c.total - int64(len(rest))
	before := len(cut) + len(omission(cut, omitted+int64(len(head)-len(cut)+len(tail)-len(rest))))
	return func(at int64) int {
		switch {
		case at <= int64(len(cut)):
			return int(at)
		case at <= from:
			return before
		}
		return before + int(at-from)
	}
}

// isClean says whether Sanitize leaves it as it is.
func isClean(text []byte) bool { return Sanitize(text) == string(text) }
