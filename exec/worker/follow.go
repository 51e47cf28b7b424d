package worker

import (
	"context"
	"unicode/utf8"

	"github.com/attune-io/attune/exec/child"
)

// Chunk is output as it comes.
type Chunk struct {
	Stream string `json:"stream"` // stdout or stderr
	Text   string `json:"text"`
}

// Follow gives the output of the attempt of an execution that runs in this pool, from its beginning, and
// which attempt that is; 0: none runs here. The channel is closed when the attempt ends, or ctx does.
func (p *Pool) Follow(ctx context.Context, executionID int64) (chunks <-chan Chunk, attempt int) {
	p.mu.Lock()
	a := p.followed[executionID]
	p.mu.Unlock()
	if a == nil {
		return nil, 0
	}
	out := make(chan Chunk)
	go func() {
		defer close(out)
		select {
		case <-ctx.Done():
			return
		case <-a.printing:
		}
		if a.arrivals != nil {
			follow(ctx, a.stdout, a.stderr, out)
		}
	}()
	return out, a.claim.Attempt
}

// follow hands on the output of two streams, in the order in which it came and in whole characters.
func follow(ctx context.Context, stdout, stderr *child.Capture, out chan<- Chunk) {
	pieces, stop := child.Follow(stdout, stderr)
	defer stop()
	var rests [2][]byte // the beginning of a character
	send := func(of int, text []byte) bool {
		if len(text) == 0 {
			return true
		}
		select {
		case out <- Chunk{Stream: [...]string{"stdout", "stderr"}[of], Text: child.Sanitize(text)}:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case piece, more := <-pieces:
			if !more {
				_ = send(0, rests[0]) && send(1, rests[1])
				return
			}
			text := append(rests[piece.Of], piece.Text...)
			cut := wholeRunes(text)
			if !send(piece.Of, text[:cut]) {
				return
			}
			rests[piece.Of] = append([]byte(nil), text[cut:]...)
		}
	}
}

// wholeRunes is the length of the text without a character at its end that is not all there.
func wholeRunes(text []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if tail := text[len(text)-i:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return len(text) - i
			}
			break
		}
	}
	return len(text)
}
