package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
)

// Switch is an operator's word that packs or components be in force, or not. It outlives reloads, and
// goes together with what manifests say: both have to agree.
type Switch struct {
	Kind   manifest.Kind
	Refs   []string
	Enable bool
	By     string // who says so
	Reason string // why they are disabled; may be empty
}

// Switch switches packs or components on or off, in one transaction with its rows in the audit. It
// gives those that were not switched so before, sorted, and the generation in force afterwards. Refs
// that nothing has are ignored.
func (s *Store) Switch(ctx context.Context, sw Switch) (changed []string, generation int64, err error) {
	verb := "disable"
	if sw.Enable {
		verb = "enable"
	}
	doing := fmt.Sprintf("%s %s", verb, sw.Kind)
	detail, err := encode(struct {
		Reason string `json:"reason,omitempty"`
	}{sw.Reason})
	if err != nil {
		return nil, 0, fmt.Errorf("cannot %s: %w", doing, err)
	}
	row := NewAudit{
		Actor: sw.By, Action: doing, Detail: json.RawMessage(detail),
		Before: disabledJSON(sw.Enable), After: disabledJSON(!sw.Enable),
	}
	err = s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		a := newApply(s, tx)
		a.begin()
		a.lockGeneration()
		if err := a.send(ctx); err != nil {
			return err
		}
		if changed, err = a.flip(ctx, sw); err != nil {
			return err
		}
		if len(changed) > 0 {
			args := row.args(ctx)
			delete(args, "object")
			args["objects"] = changed
			a.queue("AuditEach", args)
		}
		if err := a.placeRules(ctx, &changeRows{}); err != nil {
			return err
		}
		generation = a.end()
		return a.send(ctx)
	})
	if err != nil {
		return nil, 0, s.failed(doing, err)
	}
	return changed, generation, nil
}

// disabledJSON says whether an operator has disabled a thing, for the audit.
func disabledJSON(is bool) json.RawMessage { return fmt.Appendf(nil, `{"disabled": %t}`, is) }

// flip writes the switches and gives the refs whose did change.
func (a *apply) flip(ctx context.Context, sw Switch) ([]string, error) {
	query := ofKind("SwitchKIND", sw.Kind)
	if sw.Kind == manifest.KindPack {
		query = "SwitchPack"
	}
	type row struct {
		ID  int64
		Ref string
	}
	var rows []row
	a.queue(query, pgx.StrictNamedArgs{
		"enable": sw.Enable, "refs": sw.Refs, "actor": cleanText(sw.By), "reason": cleanText(sw.Reason),
		"generation": a.next,
	}).Query(func(found pgx.Rows) (err error) {
		rows, err = pgx.CollectRows(found, pgx.RowToStructByPos[row])
		return err
	})
	if err := a.send(ctx); err != nil {
		return nil, err
	}
	var refs []string
	for _, r := range rows {
		a.changed[r.ID] = true
		refs = append(refs, r.Ref)
	}
	slices.Sort(refs)
	if sw.Kind == manifest.KindPack && len(refs) > 0 {
		a.follow(refs)
	}
	return refs, nil
}
