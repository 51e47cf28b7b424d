package webhook

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tokenPrefix lets people, and scanners of repositories, see what a token is for.
const tokenPrefix = "attw_"

// NewToken makes a trigger's own token, of 256 random bits.
func NewToken() string {
	var random [32]byte
	rand.Read(random[:])
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
}

// Hash is what is stored to know a token again. It is random in full, so that nothing slower is needed.
func Hash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// Tokens gives the hashes of the tokens in force, by trigger; store.Store is it.
type Tokens interface {
	WebhookTokens(ctx context.Context) (map[string][][]byte, error)
}

const (
	// tokensFresh is how long the tokens are believed: a renewed one counts everywhere within it.
	tokensFresh = 2 * time.Second

	// tokensPatience bounds the wait for the database; then the last ones known count on.
	tokensPatience = 3 * time.Second
)

// keyring holds all tokens, so that an unknown trigger takes as long to look up as a known one.
type keyring struct {
	source Tokens

	mu     sync.Mutex
	known  map[string][][]byte // nil: they were never read
	looked time.Time
	err    error
}

// tokens gives the hashes; an error only where they were never read.
func (k *keyring) tokens(ctx context.Context) (map[string][][]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.looked) < tokensFresh {
		return k.answer()
	}
	// One asks, the others wait for the same answer: it must not end with the one who asked.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokensPatience)
	defer cancel()
	known, err := k.source.WebhookTokens(bounded)
	k.looked, k.err = time.Now(), err
	if err == nil {
		k.known = known
	}
	return k.answer()
}

func (k *keyring) answer() (map[string][][]byte, error) {
	if k.known == nil {
		return nil, k.err
	}
	return k.known, nil
}

// forget has the next request read the tokens anew.
func (k *keyring) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked = time.Time{}
}

// checkToken says whether a request has one of the tokens.
func checkToken(header http.Header, hashes [][]byte) (reason string) {
	token := header.Get("X-Attune-Token")
	if scheme, rest, ok := strings.Cut(header.Get("Authorization"), " "); token == "" && ok && strings.EqualFold(scheme, "bearer") {
		token = strings.TrimSpace(rest)
	}
	if token == "" {
		return reasonMissing
	}
	have, matches := Hash(token), 0
	for _, hash := range hashes {
		matches |= sameBytes(have, hash)
	}
	if matches != 1 {
		return reasonSignature
	}
	return ""
}
