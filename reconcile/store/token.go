package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrTaken says that something of that name is there already.
var ErrTaken = errors.New("the name is taken")

// Token is a token of the API as lists have it, without what it is itself.
type Token struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Scope string `json:"scope"`
	// Pack is the one that it is good for; null: all of them.
	Pack       *string    `json:"pack_ref"`
	CreatedBy  string     `json:"created_by"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
	RevokedBy  *string    `json:"revoked_by"`
	Expired    bool       `json:"expired"`
}

// NewToken is a token about to be stored.
type NewToken struct {
	Name  string
	Hash  []byte        // SHA-256 of the token
	Scope string        // read, run or admin
	Pack  string        // empty: all
	Life  time.Duration // 0: for ever
	By    string        // who asks
}

// tokenAudit is what the audit has of a token.
type tokenAudit struct {
	Scope     string     `json:"scope"`
	Pack      *string    `json:"pack_ref,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// AddToken stores a token, with its row in the audit; ErrTaken where one of that name is in force.
func (s *Store) AddToken(ctx context.Context, n NewToken) (*Token, error) {
	args := pgx.StrictNamedArgs{
		"name": n.Name, "hash": n.Hash, "scope": n.Scope, "pack_ref": optional(n.Pack), "actor": cleanText(n.By), "seconds": nil,
	}
	if n.Life > 0 {
		args["seconds"] = n.Life.Seconds()
	}
	return s.changeToken(ctx, "AddToken", args, ErrTaken, func(t *Token) (*NewAudit, error) {
		after, err := encode(tokenAudit{t.Scope, t.Pack, t.ExpiresAt})
		return &NewAudit{Actor: n.By, Action: "create token", Object: t.Name, After: []byte(after)}, err
	})
}

// RevokeToken ends a token, with its row in the audit; ErrNotFound where none of that name is in force.
func (s *Store) RevokeToken(ctx context.Context, name, by string) (*Token, error) {
	args := pgx.StrictNamedArgs{"name": cleanText(name), "actor": cleanText(by)}
	return s.changeToken(ctx, "RevokeToken", args, ErrNotFound, func(t *Token) (*NewAudit, error) {
		before, err := encode(tokenAudit{t.Scope, t.Pack, t.ExpiresAt})
		return &NewAudit{Actor: by, Action: "revoke token", Object: t.Name, Before: []byte(before)}, err
	})
}

// changeToken runs a query that changes one token, and records it in the same transaction.
func (s *Store) changeToken(ctx context.Context, query string, args pgx.StrictNamedArgs, none error, audit func(*Token) (*NewAudit, error)) (*Token, error) {
	var changed *Token
	err := s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		tokens, err := collect(ctx, s, tx, query, args, pgx.RowToStructByPos[Token])
		switch {
		case err != nil:
			return err
		case len(tokens) == 0:
			return none
		}
		changed = &tokens[0]
		row, err := audit(changed)
		if err != nil {
			return err
		}
		return s.auditIn(ctx, tx, row)
	})
	if err != nil {
		return nil, s.failed(fmt.Sprintf("store token %v", args["name"]), err)
	}
	return changed, nil
}

// ListTokens gives the tokens by name: those that are good, or all there ever were.
func (s *Store) ListTokens(ctx context.Context, all bool) ([]Token, error) {
	tokens, err := collect(ctx, s, s.pool, "ListTokens", pgx.StrictNamedArgs{"all": all}, pgx.RowToStructByPos[Token])
	return tokens, s.failed("list tokens", err)
}

// GoodToken is a token as it takes to know it again.
type GoodToken struct {
	ID    int64
	Name  string
	Hash  []byte // SHA-256
	Scope string
	Pack  string // empty: all
	// Seconds is how long it is good yet; nil: for ever.
	Seconds *float64
}

// GoodTokens gives the tokens that are good now.
func (s *Store) GoodTokens(ctx context.Context) ([]GoodToken, error) {
	tokens, err := collect(ctx, s, s.pool, "GoodTokens", nil, pgx.RowToStructByPos[GoodToken])
	return tokens, s.failed("read the tokens", err)
}

// HasTokens says whether there ever was a token.
func (s *Store) HasTokens(ctx context.Context) (bool, error) {
	found, err := collect(ctx, s, s.pool, "HasTokens", nil, pgx.RowTo[bool])
	return len(found) > 0 && found[0], s.failed("look for tokens", err)
}

// UseTokens records when tokens were last used: how long ago, by id.
func (s *Store) UseTokens(ctx context.Context, ago map[int64]time.Duration) error {
	if len(ago) == 0 {
		return nil
	}
	var ids []int64
	var seconds []float64
	for id, since := range ago {
		ids, seconds = append(ids, id), append(seconds, since.Seconds())
	}
	_, err := collect(ctx, s, s.pool, "UseTokens", pgx.StrictNamedArgs{"ids": ids, "seconds": seconds}, pgx.RowTo[any])
	return s.failed("record the use of tokens", err)
}
