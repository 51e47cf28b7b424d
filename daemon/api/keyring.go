package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// tokenPrefix lets people, and scanners of repositories, see what a token is for.
const tokenPrefix = "att_"

// newToken makes a token, of 256 random bits.
func newToken() string {
	var random [32]byte
	rand.Read(random[:])
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
}

// hashToken is what is stored to know a token again. It is random in full, so that nothing slower is needed.
func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

const (
	// tokensFresh is how long the tokens are believed: a revoked one counts nowhere any more after it.
	tokensFresh = 2 * time.Second

	// tokensPatience bounds the wait for the database; then the last ones known count on.
	tokensPatience = 3 * time.Second

	// usesPeriod is how often it is recorded which tokens were used.
	usesPeriod = time.Minute

	// usesTimeout bounds the recording, which nobody waits for but a daemon that stops.
	usesTimeout = 2 * time.Second
)

// Access knows who may come in, and records what is done; store.Store is it.
type Access interface {
	GoodTokens(ctx context.Context) ([]store.GoodToken, error)
	// UseTokens records how long ago tokens were used, by id.
	UseTokens(ctx context.Context, ago map[int64]time.Duration) error
	Audit(ctx context.Context, a store.NewAudit) error
}

// keyring holds all tokens that are good, so that a request costs no look into the database.
type keyring struct {
	source Access

	mu     sync.Mutex
	known  []key // nil: they were never read
	looked time.Time
	err    error
	used   map[int64]time.Time // since it was recorded last, by id
}

// key is a token, and until when it is good.
type key struct {
	store.GoodToken
	until time.Time // zero: for ever
}

func newKeyring(source Access) *keyring { return &keyring{source: source, used: map[int64]time.Time{}} }

// find gives the token that this is; nil: it is none that is good. An error only where they were never read.
func (k *keyring) find(ctx context.Context, token string) (*store.GoodToken, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.looked) >= tokensFresh {
		k.look(ctx)
	}
	if k.known == nil {
		return nil, k.err
	}
	now := time.Now()
	hash := hashToken(token)
	var found *store.GoodToken
	// All of them, whichever it is.
	for i := range k.known {
		one := &k.known[i]
		if subtle.ConstantTimeCompare(hash, one.Hash) == 1 && (one.until.IsZero() || now.Before(one.until)) {
			found = &one.GoodToken
		}
	}
	if found == nil || !strings.HasPrefix(token, tokenPrefix) {
		return nil, nil
	}
	k.used[found.ID] = now
	return found, nil
}

// look reads the tokens. It needs k.mu.
func (k *keyring) look(ctx context.Context) {
	// One asks, the others wait for the same answer: it must not end with the one who asked.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokensPatience)
	defer cancel()
	asked := time.Now()
	list, err := k.source.GoodTokens(bounded)
	k.looked, k.err = time.Now(), err
	if err != nil {
		return
	}
	k.known = make([]key, len(list))
	for i, one := range list {
		k.known[i].GoodToken = one
		if one.Seconds != nil {
			k.known[i].until = asked.Add(time.Duration(*one.Seconds * float64(time.Second)))
		}
	}
}

// forget has the next request read the tokens anew.
func (k *keyring) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked = time.Time{}
}

// record writes down which tokens were used since the last time.
func (k *keyring) record(ctx context.Context) error {
	k.mu.Lock()
	used := k.used
	k.used = map[int64]time.Time{}
	k.mu.Unlock()
	ago := make(map[int64]time.Duration, len(used))
	now := time.Now()
	for id, at := range used {
		ago[id] = now.Sub(at)
	}
	err := k.source.UseTokens(ctx, ago)
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		maps.Copy(used, k.used)
		k.used = used
	}
	return err
}
