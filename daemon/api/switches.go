package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// NewSwitch asks for packs, or for components of one kind, to be switched on or off by an operator: all
// of them, or none.
type NewSwitch struct {
	Kind manifest.Kind `json:"kind" enum:"pack,action,trigger,sensor,rule"`
	Refs []string      `json:"refs" minItems:"1" maxItems:"10000"`
	// Reason says why they are disabled, for whoever wonders later.
	Reason string `json:"reason,omitempty" maxLength:"1000"`
	// Force disables packs of the system as well.
	Force bool `json:"force,omitempty"`
}

// Switched is what became of a switch.
type Switched struct {
	// Generation is the first that has it.
	Generation int64        `json:"generation"`
	Items      []SwitchItem `json:"items"` // by ref
}

// SwitchItem is one pack or component after a switch.
type SwitchItem struct {
	Kind manifest.Kind `json:"kind"`
	Ref  string        `json:"ref"`
	// Changed says that it was not switched so before.
	Changed bool `json:"changed"`
	// Enabled says that it is in force; WhyDisabled, why it is not, which after an enable may have other
	// reasons than an operator.
	Enabled     bool   `json:"enabled"`
	WhyDisabled string `json:"why_disabled"`
}

// switchInput is the body of enable and disable.
type switchInput struct{ Body NewSwitch }

func (s *Server) enable(ctx context.Context, in *switchInput) (*Switched, error) {
	return s.flip(ctx, in.Body, true)
}

func (s *Server) disable(ctx context.Context, in *switchInput) (*Switched, error) {
	return s.flip(ctx, in.Body, false)
}

func (s *Server) flip(ctx context.Context, asked NewSwitch, enable bool) (*Switched, error) {
	for _, ref := range asked.Refs {
		if err := mayTouch(ctx, ref); err != nil {
			return nil, err
		}
	}
	slices.Sort(asked.Refs)
	asked.Refs = slices.Compact(asked.Refs)
	if err := s.mayFlip(ctx, asked, enable); err != nil {
		return nil, err
	}
	changed, generation, err := s.opts.Store.Switch(ctx, store.Switch{
		Kind: asked.Kind, Refs: asked.Refs, Enable: enable, By: caller(ctx), Reason: asked.Reason,
	})
	if err != nil {
		return nil, err
	}
	// Whoever asks next is to see it.
	catalog, err := s.opts.Catalogs.Catalog(ctx, generation)
	if err != nil {
		return nil, err
	}
	result := &Switched{Generation: generation, Items: []SwitchItem{}}
	for _, ref := range asked.Refs {
		item := SwitchItem{Kind: asked.Kind, Ref: ref, Changed: slices.Contains(changed, ref)}
		if asked.Kind == manifest.KindPack {
			item.Enabled, item.WhyDisabled = catalog.Packs[ref].Enabled, catalog.Packs[ref].WhyDisabled()
		} else {
			r := catalog.Records(asked.Kind)[ref]
			item.Enabled, item.WhyDisabled = r.Enabled, store.WhyDisabled(r, catalog.Packs[r.Pack])
		}
		if enable && asked.Kind == manifest.KindRule && s.breakerOf(ref) != nil {
			if _, err := s.opts.Store.ResetRule(ctx, ref, caller(ctx)); err != nil {
				return nil, err
			}
			s.opts.Rules.Closed(ref)
			s.log.Info("breaker closed by hand", "rule", ref, "by", caller(ctx))
		}
		if item.Changed {
			s.log.Info("switched by an operator", "kind", string(asked.Kind), "ref", ref, "enabled", enable, "by", caller(ctx), "reason", asked.Reason)
		}
		result.Items = append(result.Items, item)
	}
	return result, nil
}

// mayFlip refuses what is not known, and what would take a pack of the system out of force unasked.
func (s *Server) mayFlip(ctx context.Context, asked NewSwitch, enable bool) error {
	if asked.Kind != manifest.KindPack {
		for _, ref := range asked.Refs {
			if _, _, err := s.find(ctx, asked.Kind, ref); err != nil {
				return err
			}
		}
		return nil
	}
	for _, ref := range asked.Refs {
		_, row, err := s.findPack(ctx, ref)
		if err != nil {
			return err
		}
		if !enable && !asked.Force && row.Manifest != nil && row.Manifest.System {
			return newError(CodeConflict, fmt.Sprintf("cannot disable pack %s: it is part of the system, and other packs rely on it", ref),
				"if you mean it, say --force")
		}
	}
	return nil
}

// auditQuery narrows the audit.
type auditQuery struct {
	Actor  string `query:"actor" doc:"A user, or token and its name"`
	Action string `query:"action" doc:"What was done, such as cancel execution"`
	Object string `query:"object" doc:"A ref, an id or a name"`
	Origin string `query:"origin" doc:"An address, or unix socket"`
	Since  string `query:"since" doc:"90s, 1h or 7d before now, or an RFC 3339 time"`
	Before int64  `query:"before" minimum:"0" doc:"Ids below this one: the last of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

// AuditEntry is one change that somebody made by command or API.
type AuditEntry = store.AuditEntry

// AuditFilter narrows the audit. Zero fields do not filter.
type AuditFilter struct {
	Actor  string
	Action string
	Object string
	Origin string
	Since  string // "90s", "1h", "7d" before now, or an RFC 3339 time
	Before int64  // ids below this one
	Limit  int    // Defaults to 100; at most 1000.
}

func (s *Server) listAudit(ctx context.Context, q *auditQuery) ([]AuditEntry, error) {
	since, err := parseSince(q.Since, time.Now())
	if err != nil {
		return nil, err
	}
	entries, err := s.opts.Store.ListAudit(ctx, store.AuditFilter{
		Actor: q.Actor, Action: q.Action, Object: q.Object, Origin: q.Origin, Since: since, Before: q.Before, Limit: q.Limit,
	})
	return orEmpty(entries), err
}
