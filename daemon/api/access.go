package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/attune-io/attune/reconcile/store"
)

// Scope is what a token is good for: each has what those before it have.
type Scope string

// The scopes.
const (
	ScopeRead  Scope = "read"  // see everything but tokens, secrets and the audit
	ScopeRun   Scope = "run"   // start and stop work: run, fire, replay, cancel, restart
	ScopeAdmin Scope = "admin" // change what is in force, who may come in, and what is secret
)

var allScopes = []Scope{ScopeRead, ScopeRun, ScopeAdmin}

// holds says whether it is enough for what wants the other.
func (s Scope) holds(wanted Scope) bool {
	have, want := slices.Index(allScopes, s), slices.Index(allScopes, wanted)
	return want >= 0 && have >= want
}

// packRule says what a token of one pack may do with an operation.
type packRule int

const (
	// ofAll concerns more than one pack: such a token may not.
	ofAll packRule = iota + 1
	// ofRef concerns what {ref} in the path names, which has to be of the pack.
	ofRef
	// ofChecked looks itself what is of the pack, in its handler.
	ofChecked
)

// need is what an operation wants of who asks. Every operation says it.
type need struct {
	scope Scope
	packs packRule
}

// needKey is the key of an operation's need among its metadata.
const needKey = "attune.need"

// schemeToken is the name of the tokens among the security schemes of the document.
const schemeToken = "token"

// demand puts what an operation wants where people and the middleware read it.
func (n need) demand(op *huma.Operation) {
	op.Metadata = map[string]any{needKey: n}
	op.Security = []map[string][]string{{schemeToken: {string(n.scope)}}}
	var note string
	switch n.packs {
	case ofAll:
		note = "A token of one pack may not."
	case ofRef:
		note = "A token of one pack may with what is of that pack."
	case ofChecked:
		note = "A token of one pack sees, and does, only what is of that pack."
	}
	op.Description = strings.TrimSpace(fmt.Sprintf("%s\n\nWants scope %s. %s", op.Description, n.scope, note))
}

// visitor is who asks.
type visitor struct {
	name   string // "alice", "token ci"
	origin string // an address, or the unix socket
	scope  Scope
	pack   string // the only one that they may see; empty: all
}

type visitorKey struct{}

// withVisitor notes who asks, also for the audit.
func withVisitor(ctx context.Context, v visitor) context.Context {
	ctx = store.WithOrigin(ctx, store.Origin{From: v.origin, RequestID: requestID(ctx)})
	return context.WithValue(ctx, visitorKey{}, v)
}

func visitorOf(ctx context.Context) visitor {
	v, _ := ctx.Value(visitorKey{}).(visitor)
	return v
}

// caller is who asks, for rows that say by whom something was done.
func caller(ctx context.Context) string {
	if v := visitorOf(ctx); v.name != "" {
		return v.name
	}
	return "unknown"
}

// packOfRef is the pack of a ref, also of a pack's own.
func packOfRef(ref string) string {
	pack, _, _ := strings.Cut(ref, ".")
	return pack
}

// sees says whether who asks may know of what is of the pack.
func sees(ctx context.Context, pack string) bool {
	v := visitorOf(ctx)
	return v.pack == "" || v.pack == pack
}

// mayTouch refuses what is of another pack than the token, whether it is there or not.
func mayTouch(ctx context.Context, ref string) error {
	if sees(ctx, packOfRef(ref)) {
		return nil
	}
	return newError(CodeForbidden, fmt.Sprintf("this token is for pack %s alone", visitorOf(ctx).pack), "")
}

// nowhere is the name of no pack.
const nowhere = "-"

// onlyPack is the pack that a list is narrowed to, of the one that is asked for and the one that may be seen.
func onlyPack(ctx context.Context, asked string) string {
	v := visitorOf(ctx)
	switch {
	case v.pack == "" || v.pack == asked:
		return asked
	case asked == "":
		return v.pack
	default:
		return nowhere
	}
}

// onlyRefs leaves what may be seen of a list of refs.
func onlyRefs(ctx context.Context, refs []string) []string {
	if visitorOf(ctx).pack == "" {
		return refs
	}
	return slices.DeleteFunc(slices.Clone(refs), func(ref string) bool { return !sees(ctx, packOfRef(ref)) })
}

// admit is the one place where what an operation wants is compared with who asks.
func (s *Server) admit() func(huma.Context, func(huma.Context)) {
	return func(hctx huma.Context, next func(huma.Context)) {
		v := visitorOf(hctx.Context())
		wants, ok := hctx.Operation().Metadata[needKey].(need)
		problem := ""
		switch {
		case !ok:
			problem = "nobody may do that" // and a test says that somebody forgot to say who may
		case !v.scope.holds(wants.scope):
			problem = fmt.Sprintf("it has scope %s, this wants %s", v.scope, wants.scope)
		case v.pack == "" || wants.packs == ofChecked:
		case wants.packs == ofAll:
			problem = fmt.Sprintf("it is for pack %s alone, this concerns all of them", v.pack)
		case packOfRef(hctx.Param("ref")) != v.pack:
			problem = fmt.Sprintf("it is for pack %s alone", v.pack)
		}
		if problem == "" {
			next(hctx)
			return
		}
		r, w := humago.Unwrap(hctx)
		s.refusals.note(refusedScope, v.name, v.origin)
		writeError(w, r, newError(CodeForbidden, "this token may not do that: "+problem, "`attune token create` makes one that may"))
	}
}

// auditOf is the row of the audit for what who asks does.
func (s *Server) auditOf(ctx context.Context, action, object string) *store.NewAudit {
	return &store.NewAudit{Actor: caller(ctx), Action: action, Object: object, Origin: store.OriginOf(ctx)}
}

// actionJSON tells the audit which action was asked for. With what parameters, the execution tells.
func actionJSON(ref string) json.RawMessage {
	text, err := json.Marshal(map[string]string{"action_ref": ref})
	if err != nil {
		return nil
	}
	return text
}
