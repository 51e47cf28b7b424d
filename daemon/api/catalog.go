package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// componentQuery is the input of the lists of components.
type componentQuery struct {
	All     bool   `query:"all" doc:"The disabled and the vanished too"`
	Pack    string `query:"pack"`
	Type    string `query:"type" doc:"Of triggers"`
	State   string `query:"state" doc:"Of sensors"`
	Trigger string `query:"trigger" doc:"Of rules, and of sensors that can fire it"`
	Action  string `query:"action" doc:"Of rules"`
}

// catalog is the newest snapshot.
func (s *Server) catalog(ctx context.Context) (*store.Catalog, error) {
	return s.opts.Catalogs.Catalog(ctx, 0)
}

// find gives a component, or an error that names the nearest one.
func (s *Server) find(ctx context.Context, kind manifest.Kind, ref string) (*store.Catalog, *store.Record, error) {
	catalog, err := s.catalog(ctx)
	if err != nil {
		return nil, nil, err
	}
	records := catalog.Records(kind)
	if record, ok := records[ref]; ok {
		return catalog, record, nil
	}
	if err := refused(catalog, kind, ref); err != nil {
		return nil, nil, err
	}
	return nil, nil, unknown(string(kind), ref, slices.Collect(maps.Keys(records)))
}

// refused says why a component that the files have is not there; nil: they do not have it.
func refused(catalog *store.Catalog, kind manifest.Kind, ref string) error {
	name, _, _ := strings.Cut(ref, ".")
	pack := catalog.Packs[name]
	if pack == nil {
		return nil
	}
	for _, e := range pack.Errors {
		if e.Ref == ref && e.Kind == kind && e.Severity == manifest.SeverityError {
			return newError(CodeNotFound, fmt.Sprintf("%s %s was refused: %v", kind, ref, e), "see `attune pack show "+name+"`")
		}
	}
	return nil
}

// unknown says that there is no such thing, and which one was probably meant.
func unknown(kind, ref string, known []string) *Error {
	hint := ""
	if near := nearest(ref, known); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	return newError(CodeNotFound, fmt.Sprintf("%s %s is not known", kind, ref), hint)
}

// nearest is the ref that was probably meant: by its spelling, or one of that name in whichever pack.
func nearest(ref string, known []string) string {
	if near := manifest.Nearest(ref, known); near != "" {
		return near
	}
	slices.Sort(known)
	for _, candidate := range known {
		if _, name, _ := strings.Cut(candidate, "."); name == ref {
			return candidate
		}
	}
	return ""
}

// disabled says why a component is not in force, and what to do about it.
func disabled(catalog *store.Catalog, r *store.Record) *Error {
	pack := catalog.Packs[r.Pack]
	return newError(CodeDisabled, fmt.Sprintf("%s %s is disabled: %s", r.Kind, r.Ref, store.WhyDisabled(r, pack)), store.WayBack(r, pack))
}

// selected gives the records of a kind that a list wants, by ref.
func selected(ctx context.Context, catalog *store.Catalog, kind manifest.Kind, q *componentQuery) []*store.Record {
	pack := onlyPack(ctx, q.Pack)
	records := catalog.Records(kind)
	var chosen []*store.Record
	for _, ref := range slices.Sorted(maps.Keys(records)) {
		r := records[ref]
		if (r.Enabled || q.All) && (pack == "" || pack == r.Pack) {
			chosen = append(chosen, r)
		}
	}
	return chosen
}

// component is what all kinds have in common.
func component(catalog *store.Catalog, r *store.Record) Component {
	head := r.Spec.Head()
	c := Component{
		Ref: r.Ref, Pack: r.Pack, Name: head.Name, Label: head.Label, Description: head.Description,
		Enabled: r.Enabled, Present: r.Present, ManifestEnabled: r.ManifestEnabled, DisabledBy: optional(r.DisabledBy), DisabledAt: r.DisabledAt,
		DisabledReason: optional(r.DisabledReason), WhyDisabled: store.WhyDisabled(r, catalog.Packs[r.Pack]),
		Tags: orEmpty(head.Tags), File: r.File, Digest: r.TreeDigest, Errors: manifest.Errors{},
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	if pack := catalog.Packs[r.Pack]; pack != nil {
		c.Held = held(pack, r)
		c.Errors = findings(pack, r)
	}
	return c
}

// held says whether the newest version of a component was refused.
func held(pack *store.PackRow, r *store.Record) bool {
	return r.Present && findings(pack, r).HasErrors()
}

// findings are those of the newest scan that concern a component: by its ref, or where that could not
// be read by its file.
func findings(pack *store.PackRow, r *store.Record) manifest.Errors {
	found := manifest.Errors{}
	for _, e := range pack.Errors {
		if e.Ref == r.Ref || e.File == r.Pack+"/"+r.File {
			found = append(found, e)
		}
	}
	return found
}

// normalForm gives the manifest of what is shown, without secrets.
func normalForm(catalog *store.Catalog, v any) (json.RawMessage, error) {
	return manifest.MaskedJSON(v, func(kind manifest.Kind, ref string) *manifest.Schema {
		if r := catalog.Records(kind)[ref]; r != nil {
			return takenBy(r)
		}
		return nil
	})
}

// takenBy is the schema of what rules give to an action or a trigger.
func takenBy(r *store.Record) *manifest.Schema {
	switch spec := r.Spec.(type) {
	case *manifest.Action:
		return spec.Parameters
	case *manifest.Trigger:
		return spec.ParametersSchema
	default:
		return nil
	}
}

// orEmpty keeps a list from being null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// optional is nil for the empty text.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
