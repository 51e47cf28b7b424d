package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// WebhookTokens gives the hashes of the tokens that count now, by trigger.
func (s *Store) WebhookTokens(ctx context.Context) (map[string][][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	type row struct {
		Trigger      string
		Hash, Former []byte
	}
	rows, err := collect(ctx, s, s.pool, "WebhookTokens", nil, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, s.failed("read the tokens of webhooks", err)
	}
	tokens := make(map[string][][]byte, len(rows))
	for _, r := range rows {
		tokens[r.Trigger] = append(tokens[r.Trigger], r.Hash)
		if r.Former != nil {
			tokens[r.Trigger] = append(tokens[r.Trigger], r.Former)
		}
	}
	return tokens, nil
}

// WebhookToken is the token of one webhook as it is stored.
type WebhookToken struct {
	Trigger   string
	Sealed    string
	CreatedAt time.Time
	CreatedBy string
	// FormerUntil is how long the one before it counts; nil: it does not.
	FormerUntil *time.Time
}

// NewWebhookToken is a token about to be stored.
type NewWebhookToken struct {
	Trigger string
	Hash    []byte // SHA-256 of the token
	Sealed  string // the token, as package seal encrypts it
	By      string // who asks
}

// AddWebhookToken stores the token where the trigger has none, and gives the one that it has then.
func (s *Store) AddWebhookToken(ctx context.Context, n NewWebhookToken) (*WebhookToken, error) {
	return s.putWebhookToken(ctx, "AddWebhookToken", "make webhook token", n, nil)
}

// RenewWebhookToken replaces the token. The former one counts for the grace beside it.
func (s *Store) RenewWebhookToken(ctx context.Context, n NewWebhookToken, grace time.Duration) (*WebhookToken, error) {
	return s.putWebhookToken(ctx, "RenewWebhookToken", "rotate webhook token", n, &grace)
}

// putWebhookToken writes a token with its row in the audit, in one transaction, and reads back what counts.
func (s *Store) putWebhookToken(ctx context.Context, query, doing string, n NewWebhookToken, grace *time.Duration) (*WebhookToken, error) {
	args := pgx.StrictNamedArgs{"trigger_ref": n.Trigger, "hash": n.Hash, "sealed": n.Sealed, "actor": cleanText(n.By)}
	if grace != nil {
		args["grace"] = *grace
	}
	var found []WebhookToken
	err := s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		ctx, cancel := context.WithTimeout(ctx, hotTimeout)
		defer cancel()
		tag, err := tx.Exec(ctx, s.queries.get(query), args)
		if err != nil {
			return err
		}
		if tag.RowsAffected() > 0 {
			row := &NewAudit{Actor: n.By, Action: doing, Object: n.Trigger}
			if grace != nil {
				row.After = fmt.Appendf(nil, `{"former_token_counts_for_seconds": %g}`, grace.Seconds())
			}
			if err := s.auditIn(ctx, tx, row); err != nil {
				return err
			}
		}
		found, err = collect(ctx, s, tx, "WebhookToken", pgx.StrictNamedArgs{"trigger_ref": n.Trigger}, pgx.RowToStructByPos[WebhookToken])
		return err
	})
	if err != nil || len(found) != 1 {
		return nil, s.failed(fmt.Sprintf("%s of %s", doing, n.Trigger), err)
	}
	return &found[0], nil
}

// tokenPlace is the place of a webhook's token for package seal: see WebhookTokenOwner.
const tokenPlace = "webhook_token"

// WebhookTokenOwner and place are what a webhook's token is sealed for.
func WebhookTokenOwner(trigger string) (owner, place string) { return "trigger " + trigger, tokenPlace }

// resealTokens is Reseal for the tokens of webhooks.
func (s *Store) resealTokens(ctx context.Context, renew func(owner string, secrets map[string]string) (map[string]string, bool, error)) (int, error) {
	type row struct{ Trigger, Sealed string }
	rows, err := collect(ctx, s, s.pool, "SealedWebhookTokens", nil, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, s.failed("look for the tokens of webhooks", err)
	}
	resealed := 0
	for _, r := range rows {
		owner, place := WebhookTokenOwner(r.Trigger)
		renewed, changed, err := renew(owner, map[string]string{place: r.Sealed})
		if err != nil {
			return resealed, fmt.Errorf("cannot encrypt the token of webhook %s anew: %w", r.Trigger, err)
		}
		if !changed {
			continue
		}
		_, err = collect(ctx, s, s.pool, "ResealWebhookToken", pgx.StrictNamedArgs{
			"trigger_ref": r.Trigger, "was": r.Sealed, "sealed": renewed[place],
		}, pgx.RowTo[any])
		if err != nil {
			return resealed, s.failed("store an encrypted token", err)
		}
		resealed++
	}
	return resealed, nil
}
