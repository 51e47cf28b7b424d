package api

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// Token is a token as lists have it.
type Token = store.Token

// NewToken asks for a token.
type NewToken struct {
	Name  string `json:"name" minLength:"1" maxLength:"63" doc:"Letters, digits, dots, dashes and underscores"`
	Scope Scope  `json:"scope" enum:"read,run,admin" doc:"read sees, run also starts and stops work, admin also changes what is in force and who may come in"`
	Pack  string `json:"pack_ref,omitempty" doc:"The only pack that it is for. Defaults to all."`
	// Expires is how long it is good: "90d", "12h". Defaults to for ever.
	Expires string `json:"expires,omitempty" doc:"How long it is good: 90d, 12h. Defaults to for ever."`
}

// CreatedToken is a token with what it is, which nobody is shown again.
type CreatedToken struct {
	Token
	Secret string `json:"token" doc:"The token itself, shown this once"`
}

// tokenName is what a token may be called.
var tokenName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// tokenQuery narrows the list of tokens.
type tokenQuery struct {
	All bool `query:"all" doc:"The expired and the revoked too"`
}

func (s *Server) listTokens(ctx context.Context, q *tokenQuery) ([]Token, error) {
	list, err := s.opts.Store.ListTokens(ctx, q.All)
	return orEmpty(list), err
}

// newTokenInput is the body of a token's creation.
type newTokenInput struct{ Body NewToken }

func (s *Server) createToken(ctx context.Context, in *newTokenInput) (*CreatedToken, error) {
	asked := in.Body
	if !tokenName.MatchString(asked.Name) {
		return nil, newError(CodeInvalidRequest, fmt.Sprintf("cannot call a token %.80q", asked.Name),
			"expected letters, digits, dots, dashes and underscores, a letter or a digit first")
	}
	var life time.Duration
	if asked.Expires != "" {
		var ok bool
		if life, ok = parseAgo(asked.Expires); !ok || life <= 0 {
			return nil, newError(CodeInvalidRequest, fmt.Sprintf("cannot use expires: found %q", asked.Expires), "expected 12h or 90d")
		}
	}
	if asked.Pack != "" {
		if _, _, err := s.findPack(ctx, asked.Pack); err != nil {
			return nil, err
		}
	}
	secret := newToken()
	stored, err := s.opts.Store.AddToken(ctx, store.NewToken{
		Name: asked.Name, Hash: hashToken(secret), Scope: string(asked.Scope), Pack: asked.Pack, Life: life, By: caller(ctx),
	})
	if errors.Is(err, store.ErrTaken) {
		return nil, newError(CodeConflict, fmt.Sprintf("cannot create token %s: one of that name is there", asked.Name),
			"`attune token revoke "+asked.Name+"` ends it, and frees the name")
	}
	if err != nil {
		return nil, err
	}
	s.keyring.forget()
	s.log.Info("token created", "name", asked.Name, "scope", string(asked.Scope), "pack", asked.Pack, "by", caller(ctx))
	return &CreatedToken{Token: *stored, Secret: secret}, nil
}

// tokenInput names a token.
type tokenInput struct {
	Name string `path:"name"`
}

func (s *Server) revokeToken(ctx context.Context, in *tokenInput) (*Token, error) {
	revoked, err := s.opts.Store.RevokeToken(ctx, in.Name, caller(ctx))
	if errors.Is(err, store.ErrNotFound) {
		var names []string
		known, err := s.opts.Store.ListTokens(ctx, false)
		if err != nil {
			return nil, err
		}
		for _, one := range known {
			names = append(names, one.Name)
		}
		return nil, unknown("token", in.Name, names)
	}
	if err != nil {
		return nil, err
	}
	s.keyring.forget()
	s.log.Info("token revoked", "name", in.Name, "by", caller(ctx))
	return revoked, nil
}
