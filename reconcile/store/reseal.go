package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Reseal gives the secrets of every execution to renew, and stores those that it has changed: after a
// change of keys nothing is left that needs an old one. The tokens of webhooks and what rules give their triggers are no exception. It gives
// their number. What is queued meanwhile has the new key already.
func (s *Store) Reseal(ctx context.Context, renew func(action string, secrets map[string]string) (renewed map[string]string, changed bool, err error)) (int, error) {
	type row struct {
		ID        int64
		CreatedAt time.Time
		Action    string
		Secrets   map[string]string
	}
	resealed, err := s.resealTokens(ctx, renew)
	if err != nil {
		return resealed, err
	}
	of, err := s.resealParameters(ctx, renew)
	if resealed += of; err != nil {
		return resealed, err
	}
	for after := int64(0); ; {
		rows, err := collect(ctx, s, s.pool, "RowsWithSecrets", pgx.StrictNamedArgs{
			"after": after, "most": pruneBatch,
		}, pgx.RowToStructByPos[row])
		if err != nil {
			return resealed, s.failed("look for encrypted parameters", err)
		}
		if len(rows) == 0 {
			return resealed, nil
		}
		after = rows[len(rows)-1].ID
		var ids []int64
		var created []time.Time
		var texts []string
		for _, r := range rows {
			renewed, changed, err := renew(r.Action, r.Secrets)
			if err != nil {
				return resealed, fmt.Errorf("cannot encrypt the parameters of execution %d anew: %w", r.ID, err)
			}
			if !changed {
				continue
			}
			text, err := encode(renewed)
			if err != nil {
				return resealed, fmt.Errorf("cannot encode the secrets of execution %d: %w", r.ID, err)
			}
			ids, created, texts = append(ids, r.ID), append(created, r.CreatedAt), append(texts, text)
		}
		if len(ids) == 0 {
			continue
		}
		err = s.hot(ctx, "store encrypted parameters", func(batch *pgx.Batch) {
			batch.Queue(s.queries.get("ResealQueue"), pgx.StrictNamedArgs{"ids": ids, "secrets": texts})
			batch.Queue(s.queries.get("ResealExecutions"), pgx.StrictNamedArgs{"ids": ids, "created_at": created, "secrets": texts})
		})
		if err != nil {
			return resealed, err
		}
		resealed += len(ids)
	}
}
