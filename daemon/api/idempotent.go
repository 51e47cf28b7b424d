package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/attune-io/attune/reconcile/store"
)

// Idempotent is the input of what may be asked twice and is to be done once.
type Idempotent struct {
	Key string `header:"Idempotency-Key" maxLength:"200" doc:"Of requests of one caller with one key only the first is done, for 24 hours; the others get its answer. Another request with the key is refused."`
}

// once is what the store has to know of it; nil: the request has no key.
func (i *Idempotent) once(ctx context.Context, operation string, body any) (*store.Once, error) {
	if i.Key == "" {
		return nil, nil
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the request: %v", err)
	}
	digest := sha256.Sum256(append([]byte(operation+" "), text...))
	return &store.Once{Key: caller(ctx) + " " + i.Key, Digest: hex.EncodeToString(digest[:])}, nil
}

// former is the answer to the first request of a key; nil: there was none.
func (s *Server) former(ctx context.Context, once *store.Once) (json.RawMessage, error) {
	if once == nil {
		return nil, nil
	}
	answer, err := s.opts.Store.FormerAnswer(ctx, *once)
	return answer, keyMisused(err)
}

// keyMisused tells who used a key for two requests.
func keyMisused(err error) error {
	if errors.Is(err, store.ErrOtherRequest) {
		return newError(CodeConflict, "cannot take the Idempotency-Key: it came with another request before", "take a new key for each request, and the same for its repetitions")
	}
	return err
}
