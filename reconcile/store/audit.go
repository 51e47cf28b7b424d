package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// AuditEntry is a row of audit: who did what to which object, from where, and what changed by it.
type AuditEntry struct {
	ID        int64           `json:"id"`
	CreatedAt time.Time       `json:"created_at"`
	Actor     string          `json:"actor"`
	Origin    string          `json:"origin"` // an address, or the unix socket; empty: the daemon itself
	RequestID string          `json:"request_id"`
	Action    string          `json:"action"`
	Object    string          `json:"object"`
	Before    json.RawMessage `json:"before"` // null: nothing, or nobody knows
	After     json.RawMessage `json:"after"`
	Detail    json.RawMessage `json:"detail"`
}

// AuditFilter narrows the audit. Zero fields do not filter.
type AuditFilter struct {
	Actor  string
	Action string
	Object string
	Origin string
	Since  time.Time
	Before int64 // ids below this one, for paging
	Limit  int   // Defaults to 100.
}

// Origin is from where a change is wanted.
type Origin struct {
	From      string // an address, or the unix socket
	RequestID string
}

type originKey struct{}

// WithOrigin gives a context that tells the audit from where whatever is done with it is wanted.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// OriginOf is the origin that WithOrigin said; empty: the daemon itself.
func OriginOf(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}

// NewAudit is a row of audit to be written in the transaction of what it tells of.
type NewAudit struct {
	Actor, Action, Object string
	// Origin is that of the context where it is empty.
	Origin Origin
	// Before, After and Detail are JSON objects; nil: none. They must not hold secrets.
	Before, After, Detail json.RawMessage
}

// args are the arguments of the query Audit.
func (a *NewAudit) args(ctx context.Context) pgx.StrictNamedArgs {
	origin := a.Origin
	if origin == (Origin{}) {
		origin = OriginOf(ctx)
	}
	return pgx.StrictNamedArgs{
		"actor": cleanText(a.Actor), "action": cleanText(a.Action), "object": cleanText(a.Object),
		"origin": cleanText(origin.From), "request_id": cleanText(origin.RequestID),
		"before": optionalJSON(a.Before), "after": optionalJSON(a.After), "detail": storable(a.Detail),
	}
}

// originArgs adds the context's origin to the arguments of a query that writes its row of the audit itself.
func originArgs(ctx context.Context, args pgx.StrictNamedArgs) pgx.StrictNamedArgs {
	origin := OriginOf(ctx)
	args["origin"], args["request_id"] = cleanText(origin.From), cleanText(origin.RequestID)
	return args
}

// optionalJSON is storable where there is something to store.
func optionalJSON(text json.RawMessage) *string {
	if len(text) == 0 {
		return nil
	}
	return new(storable(text))
}

// Audit records a change that the database has no other part in: before it is made, so that nothing is done
// that nobody can find.
func (s *Store) Audit(ctx context.Context, a NewAudit) error {
	ctx, cancel := context.WithTimeout(ctx, hotTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, s.queries.get("Audit"), a.args(ctx))
	return s.failed("record "+a.Action+" in the audit", err)
}

// auditIn records a change in its own transaction.
func (s *Store) auditIn(ctx context.Context, tx pgx.Tx, a *NewAudit) error {
	_, err := collect(ctx, s, tx, "Audit", a.args(ctx), pgx.RowTo[any])
	return err
}

// audit records who wanted changes, with them.
func (a *apply) audit(ctx context.Context, changes []PackChange) {
	for _, c := range changes {
		if c.Audit == nil {
			continue
		}
		a.queue("Audit", c.Audit.args(ctx))
	}
}

// ListAudit gives what was recorded, newest first.
func (s *Store) ListAudit(ctx context.Context, f AuditFilter) ([]AuditEntry, error) {
	entries, err := list(ctx, s, "ListAudit", pgx.StrictNamedArgs{
		"actor": optional(f.Actor), "action": optional(f.Action), "object": optional(f.Object), "origin": optional(f.Origin),
		"since": optional(f.Since), "before": optional(f.Before), "most": limitOf(f.Limit),
	}, pgx.RowToStructByPos[AuditEntry])
	return entries, s.failed("list the audit", err)
}
