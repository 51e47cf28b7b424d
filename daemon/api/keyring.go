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
	err    error // of the last look
	// looking is closed when the look under way is over; nil: none is. turn counts what makes the answer of one stale.
	looking chan struct{}
	turn    int
	used    map[int64]time.Time // since it was recorded last, by id
	open    map[*visit]struct{}
}

// visit is a request under way by a token.
type visit struct {
	id     int64
	cancel context.CancelFunc
}

// key is a token, and until when it is good.
type key struct {
	store.GoodToken
	until time.Time // zero: for ever
}

func newKeyring(source Access) *keyring {
	return &keyring{source: source, used: map[int64]time.Time{}, open: map[*visit]struct{}{}}
}

// find gives the token that this is; nil: it is none that is good. An error only where they were never read.
func (k *keyring) find(ctx context.Context, token string) (*store.GoodToken, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for time.Since(k.looked) >= tokensFresh {
		done := k.look(ctx)
		if k.known != nil && k.err != nil {
			break // the database is away: the last ones known count on, and nobody waits for it again
		}
		if err := k.await(ctx, done); err != nil {
			return nil, err
		}
	}
	if k.known == nil {
		return nil, k.err
	}
	hash := hashToken(token)
	var found *store.GoodToken
	// All of them, whichever it is.
	for i := range k.known {
		one := &k.known[i]
		if subtle.ConstantTimeCompare(hash, one.Hash) == 1 && one.good() {
			found = &one.GoodToken
		}
	}
	if found == nil || !strings.HasPrefix(token, tokenPrefix) {
		return nil, nil
	}
	k.used[found.ID] = time.Now()
	return found, nil
}

// good says that the token has not expired.
func (one *key) good() bool { return one.until.IsZero() || time.Now().Before(one.until) }

// await waits without k.mu, which it needs before and after.
func (k *keyring) await(ctx context.Context, done <-chan struct{}) error {
	k.mu.Unlock()
	defer k.mu.Lock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look begins to read the tokens, unless somebody does already. It needs k.mu, and what it gives is closed at the end.
func (k *keyring) look(ctx context.Context) <-chan struct{} {
	if k.looking != nil {
		return k.looking
	}
	done, turn := make(chan struct{}), k.turn
	k.looking = done
	go func() {
		defer close(done)
		// One asks, the others wait for the same answer: it must not end with the one who asked.
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokensPatience)
		defer cancel()
		asked := time.Now()
		list, err := k.source.GoodTokens(bounded)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.looking, k.err = nil, err
		if k.turn == turn {
			k.looked = time.Now()
		}
		if err == nil {
			k.learn(list, asked)
		}
	}()
	return done
}

// learn takes the tokens that are good. It needs k.mu.
func (k *keyring) learn(list []store.GoodToken, asked time.Time) {
	k.known = make([]key, len(list))
	for i, one := range list {
		k.known[i].GoodToken = one
		if one.Seconds != nil {
			k.known[i].until = asked.Add(time.Duration(*one.Seconds * float64(time.Second)))
		}
	}
	k.endVisits()
}

// forget has the next request read the tokens anew.
func (k *keyring) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looked, k.err = time.Time{}, nil
	k.turn++
}

// visit gives a request the context that ends when its token is no longer good: one that follows what happens would
// otherwise outlive it. leave has to be called at the request's end.
func (k *keyring) visit(ctx context.Context, id int64) (visiting context.Context, leave func()) {
	visiting, cancel := context.WithCancel(ctx)
	v := &visit{id, cancel}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open[v] = struct{}{}
	return visiting, func() {
		cancel()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.open, v)
	}
}

// endVisits ends the requests whose token is no longer good. It needs k.mu.
func (k *keyring) endVisits() {
	good := map[int64]bool{}
	for i := range k.known {
		good[k.known[i].ID] = k.known[i].good()
	}
	for v := range k.open {
		if !good[v.id] {
			v.cancel()
		}
	}
}

// watch looks after the requests that stay, until ctx ends: where only such are under way, nobody else asks for tokens.
func (k *keyring) watch(ctx context.Context) {
	period := time.NewTicker(tokensFresh)
	defer period.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-period.C:
		}
		k.mu.Lock()
		if len(k.open) > 0 {
			if k.await(ctx, k.look(ctx)) == nil && k.known != nil {
				k.endVisits() // also those that only expired, while the database is away
			}
		}
		k.mu.Unlock()
	}
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
