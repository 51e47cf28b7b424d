package worker

import (
	"context"
	"sync"
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
		var streams sync.WaitGroup
		for name, capture := range map[string]*child.Capture{"stdout": a.stdout, "stderr": a.stderr} {
			if capture != nil {
				streams.Go(func() { follow(ctx, name, capture, out) })
			}
		}
		streams.Wait()
	}()
	return out, a.claim.Attempt
}

func follow(ctx context.Context, name string, capture *child.Capture, out chan<- Chunk) {
	pieces, stop := capture.Follow()
	defer stop()
	var rest []byte // the beginning of a character
	send := func(text []byte) bool {
		if len(text) == 0 {
			return true
		}
		select {
		case out <- Chunk{Stream: name, Text: child.Sanitize(text)}:
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
				send(rest)
				return
			}
			text := append(rest, piece...)
			cut := wholeRunes(text)
			if !send(text[:cut]) {
				return
			}
			rest = append([]byte(nil), text[cut:]...)
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
