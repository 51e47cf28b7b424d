package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// AuditEntry is a row of audit: who did what to which object.
type AuditEntry struct {
	ID        int64           `json:"id"`
	CreatedAt time.Time       `json:"created_at"`
	Actor     string          `json:"actor"`
	Action    string          `json:"action"`
	Object    string          `json:"object"`
	Detail    json.RawMessage `json:"detail"`
}

// AuditFilter narrows the audit. Zero fields do not filter.
type AuditFilter struct {
	Actor  string
	Object string
	Since  time.Time
	Limit  int // Defaults to 100.
}

// Audit records who did what ("cancel execution") to which object (a ref or an id). detail is a JSON
// object; nil: none. It must not hold secrets.
func (s *Store) Audit(ctx context.Context, actor, action, object string, detail json.RawMessage) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("Audit"), pgx.StrictNamedArgs{
		"actor":  cleanText(actor),
		"action": cleanText(action),
		"object": cleanText(object),
		"detail": storable(detail),
	})
	return s.failed("record "+action+" in the audit", err)
}

// NewAudit is a row of audit to be written in the transaction of what it tells of.
type NewAudit struct {
	Actor, Action, Object string
	// Detail is a JSON object; nil: none. It must not hold secrets.
	Detail json.RawMessage
}

// audit records who wanted changes, with them.
func (a *apply) audit(changes []PackChange) {
	for _, c := range changes {
		if c.Audit == nil {
			continue
		}
		a.queue("Audit", pgx.StrictNamedArgs{
			"actor": cleanText(c.Audit.Actor), "action": cleanText(c.Audit.Action), "object": cleanText(c.Audit.Object),
			"detail": storable(c.Audit.Detail),
		})
	}
}

// ListAudit gives what was recorded, newest first.
func (s *Store) ListAudit(ctx context.Context, f AuditFilter) ([]AuditEntry, error) {
	const most = 100
	if f.Limit <= 0 {
		f.Limit = most
	}
	entries, err := list(ctx, s, "ListAudit", pgx.StrictNamedArgs{
		"actor": optional(f.Actor), "object": optional(f.Object), "since": optional(f.Since), "most": f.Limit,
	}, pgx.RowToStructByPos[AuditEntry])
	return entries, s.failed("list the audit", err)
}
