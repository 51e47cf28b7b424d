package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/attune-io/attune/daemon/webhook"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Webhooks answers the requests of strangers; webhook.Receiver is it.
type Webhooks interface {
	http.Handler
	TokensChanged()
}

// Keys encrypt what is to be shown again; seal.Keys is it.
type Keys interface {
	Seal(owner, place string, value any) (string, error)
	Open(owner, place, sealed string) (any, error)
}

// WebhookToken is a webhook's own token, and where it is to be sent.
type WebhookToken struct {
	Trigger string `json:"trigger_ref"`
	URL     string `json:"webhook_url"`
	Token   string `json:"webhook_token"`
	// CreatedAt and CreatedBy tell of the token, FormerUntil how long the one before it counts beside it;
	// null: it does not.
	CreatedAt   time.Time  `json:"created_at"`
	CreatedBy   string     `json:"created_by"`
	FormerUntil *time.Time `json:"former_until"`
}

// rotateBody is a rotation as it comes in.
type rotateBody struct {
	Grace string `json:"grace,omitempty" doc:"How long the former token counts beside the new one: 90s, 1h or 7d. Defaults to not at all."`
}

// rotateRequest is the input of a rotation.
type rotateRequest struct {
	Ref  string `path:"ref"`
	Body rotateBody
}

// maxGrace bounds how long two tokens count: whoever rotates one wants to be rid of it.
const maxGrace = 30 * 24 * time.Hour

// webhookToken shows the token, which is made at the first look.
func (s *Server) webhookToken(ctx context.Context, in *byRef) (*WebhookToken, error) {
	return s.putToken(ctx, in.Ref, s.opts.Store.AddWebhookToken)
}

func (s *Server) rotateWebhookToken(ctx context.Context, in *rotateRequest) (*WebhookToken, error) {
	var grace time.Duration
	if in.Body.Grace != "" {
		var ok bool
		if grace, ok = parseAgo(in.Body.Grace); !ok || grace > maxGrace {
			return nil, newError(CodeInvalidRequest, fmt.Sprintf("cannot use grace: found %q", in.Body.Grace), "expected 90s, 1h or 7d, at most 30d")
		}
	}
	return s.putToken(ctx, in.Ref, func(ctx context.Context, n store.NewWebhookToken) (*store.WebhookToken, error) {
		return s.opts.Store.RenewWebhookToken(ctx, n, grace)
	})
}

// putToken makes a token, has it stored, and gives the one that counts then.
func (s *Server) putToken(ctx context.Context, ref string, put func(context.Context, store.NewWebhookToken) (*store.WebhookToken, error)) (*WebhookToken, error) {
	_, r, err := s.find(ctx, manifest.KindTrigger, ref)
	if err != nil {
		return nil, err
	}
	spec := r.Spec.(*manifest.Trigger)
	switch {
	case spec.Type != manifest.TriggerWebhook:
		return nil, newError(CodeConflict, fmt.Sprintf("trigger %s has no token: it is no webhook, its type is %s", r.Ref, spec.Type), "")
	case spec.Verify != nil && spec.Verify.Type == manifest.VerifyNone:
		return nil, newError(CodeConflict, fmt.Sprintf("trigger %s has no token: its verify is none", r.Ref), "")
	case spec.Verify != nil && spec.Verify.Type != manifest.VerifyToken:
		return nil, newError(CodeConflict, fmt.Sprintf("trigger %s has no token: senders are checked by their signature (%s)", r.Ref, spec.Verify.Type),
			"the secret is "+spec.Verify.Secret)
	}
	token := webhook.NewToken()
	owner, place := store.WebhookTokenOwner(r.Ref)
	sealed, err := s.opts.Keys.Seal(owner, place, token)
	if err != nil {
		return nil, err
	}
	stored, err := put(ctx, store.NewWebhookToken{Trigger: r.Ref, Hash: webhook.Hash(token), Sealed: sealed, By: caller(ctx)})
	if err != nil {
		return nil, err
	}
	s.opts.Webhooks.TokensChanged()
	opened, err := s.opts.Keys.Open(owner, place, stored.Sealed)
	if err != nil {
		return nil, newError(CodeConflict, fmt.Sprintf("cannot show the token of trigger %s: %v", r.Ref, err),
			"it still counts; `attune trigger rotate-token "+r.Ref+"` makes one that can be shown")
	}
	text, _ := opened.(string)
	return &WebhookToken{
		Trigger: r.Ref, URL: s.webhookURL(spec), Token: text,
		CreatedAt: stored.CreatedAt, CreatedBy: stored.CreatedBy, FormerUntil: stored.FormerUntil,
	}, nil
}

// webhookURL is where a webhook is served; empty: it is none, or TCP is off.
func (s *Server) webhookURL(t *manifest.Trigger) string {
	if t.Type != manifest.TriggerWebhook || s.URL() == "" {
		return ""
	}
	return webhook.URL(s.URL(), t.Ref)
}
