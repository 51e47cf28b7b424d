package rule

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// MaxItems is how many elements a for_each may have: each becomes an execution in the event's own
// transaction, which has to stay short.
const MaxItems = 1000

// Index holds the enabled rules whose trigger is enabled, by the trigger instance that they ask for.
// It belongs to one generation, never changes, and may be used by many.
type Index struct {
	catalog  *store.Catalog
	compiler *manifest.Compiler
	triggers map[string]*triggerRules
	rules    map[string]*entry
	logger   *slog.Logger
}

// triggerRules are the rules of one trigger, and the same by instance.
type triggerRules struct {
	all       *group
	instances map[string]*group
	// decode says that some rule looks into the payload; where none does, it stays the bytes it is.
	decode bool
}

// entry is a rule of an index. It is shared by the indexes of all generations in which nothing that
// it was made from changed, and compiled when the first event asks for it: a daemon with thousands
// of rules starts without compiling one.
type entry struct {
	rule    *manifest.Rule
	trigger *store.Record
	digest  string // of the rule
	actions []*store.Record
	// off tells of each action that is not in force why it is not.
	off      []string
	instance string
	dynamic  bool // reads the event: by a condition, for_each, the key of a limit or a template
	// sealed is why what it gives its actions cannot be read; nil: it can.
	sealed error

	compile sync.Once
	program *manifest.CompiledRule
	refused error // why it could not be compiled
	// fixed is what every event of a rule that is not dynamic leads to.
	fixed func() (store.Match, bool)
}

// NewIndex makes the index of a catalog. With previous (nil: none) it takes over the compiled form
// of every rule that is what it was, together with its trigger and actions.
func NewIndex(catalog *store.Catalog, previous *Index, logger *slog.Logger) *Index {
	ix := &Index{
		catalog:  catalog,
		compiler: manifest.NewCompiler(),
		triggers: map[string]*triggerRules{},
		rules:    make(map[string]*entry, len(catalog.Rules)),
		logger:   logger,
	}
	if previous != nil {
		ix.compiler = previous.compiler
	}
	entries := make([]*entry, 0, len(catalog.Rules))
	for ref, record := range catalog.Rules {
		e := ix.entry(record, previous)
		if e == nil {
			continue
		}
		ix.rules[ref] = e
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.rule.Ref, b.rule.Ref) })
	for _, e := range entries {
		t := ix.triggers[e.trigger.Ref]
		if t == nil {
			t = &triggerRules{all: &group{}, instances: map[string]*group{}}
			ix.triggers[e.trigger.Ref] = t
		}
		t.all.add(e)
		instance := t.instances[e.instance]
		if instance == nil {
			instance = &group{}
			t.instances[e.instance] = instance
		}
		instance.add(e)
		t.decode = t.decode || e.dynamic
	}
	return ix
}

// entry makes or takes over one rule; nil: it is not in force.
func (ix *Index) entry(record *store.Record, previous *Index) *entry {
	rule, ok := record.Spec.(*manifest.Rule)
	if !ok || !record.Enabled {
		return nil
	}
	trigger := ix.catalog.Triggers[rule.Trigger.Ref]
	if trigger == nil || !trigger.Enabled {
		return nil
	}
	spec, ok := trigger.Spec.(*manifest.Trigger)
	if !ok {
		return nil
	}
	if previous != nil {
		if e := previous.rules[record.Ref]; e != nil && e.same(ix.catalog, record, trigger) {
			return e
		}
	}
	e := &entry{
		rule:    rule,
		trigger: trigger,
		digest:  record.Digest,
		actions: make([]*store.Record, len(rule.Actions)),
		off:     make([]string, len(rule.Actions)),
		dynamic: dynamic(rule),
		sealed:  record.SealedActions,
	}
	for i, use := range rule.Actions {
		e.actions[i] = ix.catalog.Actions[use.Ref]
		e.off[i] = whyOff(ix.catalog, e.actions[i])
	}
	if e.instance = record.Instance; e.instance == "" {
		e.instance, _ = spec.Instance(record.Ref, rule.Trigger.Parameters)
	}
	return e
}

// same says whether the entry would be made anew from what the catalog has now.
func (e *entry) same(catalog *store.Catalog, record, trigger *store.Record) bool {
	if e.sealed != nil || record.SealedActions != nil { // its digest tells nothing
		return false
	}
	if e.digest != record.Digest || e.trigger.Digest != trigger.Digest || record.Instance != "" && record.Instance != e.instance {
		return false
	}
	for i, use := range e.rule.Actions {
		was, is := e.actions[i], catalog.Actions[use.Ref]
		if was == is {
			continue
		}
		if was == nil || is == nil || was.Digest != is.Digest || was.Enabled != is.Enabled || was.Present != is.Present || e.off[i] != whyOff(catalog, is) {
			return false
		}
	}
	return true
}

// whyOff tells why a component is not in force; empty: it is, or there is none.
func whyOff(catalog *store.Catalog, record *store.Record) string {
	if record == nil {
		return ""
	}
	return store.WhyDisabled(record, catalog.Packs[record.Pack])
}

// dynamic says whether what a rule does depends on the event.
func dynamic(rule *manifest.Rule) bool {
	if rule.When != "" || rule.ForEach != "" {
		return true
	}
	if rule.Throttle != nil && rule.Throttle.Key != "" || rule.Debounce != nil && rule.Debounce.Key != "" || rule.Dedupe != nil {
		return true
	}
	return slices.ContainsFunc(rule.Actions, func(use manifest.Use) bool { return hasTemplate(use.Parameters) })
}

func hasTemplate(value any) bool {
	switch v := value.(type) {
	case string:
		return strings.Contains(v, "{{")
	case []any:
		return slices.ContainsFunc(v, hasTemplate)
	case map[string]any:
		for key, element := range v {
			if strings.Contains(key, "{{") || hasTemplate(element) {
				return true
			}
		}
	}
	return false
}

// Generation is that of the catalog it was made from.
func (ix *Index) Generation() int64 { return ix.catalog.Generation }

// Len is the number of rules in force.
func (ix *Index) Len() int { return len(ix.rules) }

// Match gives what the rules make of an event, in the order of their refs: one Match for each rule
// that matched or failed. config gives a pack's configuration. now() in expressions is the time of
// the event, so that evaluating again, later, tells the same.
func (ix *Index) Match(event *store.Event, config func(pack string) map[string]any) []store.Match {
	rules := ix.triggers[event.Trigger]
	if rules == nil {
		return nil
	}
	group := rules.all
	if event.Instance != "" && event.Rules == nil { // who names rules means them
		group = rules.instances[event.Instance]
	}
	if group == nil {
		return nil
	}
	env := envOf(event)
	var unreadable error
	if rules.decode {
		env.Payload, unreadable = manifest.DecodePayload(event.Payload)
	}
	entries := group.entries
	if unreadable == nil {
		entries = group.candidates(env.Payload)
	}
	var matches []store.Match
	for _, e := range entries {
		if event.Rules != nil && !slices.Contains(event.Rules, e.rule.Ref) {
			continue
		}
		env.Rule, env.Config, env.Item = e.rule.Ref, nil, nil
		if m, ok := ix.evaluate(e, &env, config, unreadable); ok {
			matches = append(matches, m)
		}
	}
	return matches
}

// envOf is what every rule sees of an event, but for its payload.
func envOf(event *store.Event) manifest.Env {
	return manifest.Env{EventID: event.ID, Trigger: event.Trigger, Time: event.CreatedAt, Now: event.CreatedAt}
}

// evaluate contains whatever one rule does, a panic too, so that its neighbours never notice.
func (ix *Index) evaluate(e *entry, env *manifest.Env, config func(pack string) map[string]any, unreadable error) (m store.Match, ok bool) {
	defer func() {
		if p := recover(); p != nil {
			ix.logger.Error("rule panicked", "rule", e.rule.Ref, "trigger", env.Trigger, "event_id", env.EventID,
				"err", fmt.Sprint(p), "stack", string(debug.Stack()))
			m, ok = failed(e.rule.Ref, fmt.Errorf("cannot evaluate the rule: internal error: %v", p)), true
		}
	}()
	e.compile.Do(func() { e.prepare(ix.compiler) })
	switch {
	case e.refused != nil:
		return failed(e.rule.Ref, e.refused), true
	case e.dynamic && unreadable != nil:
		return failed(e.rule.Ref, unreadable), true
	case !e.dynamic:
		m, ok = e.fixed()
		m.Executions = slices.Clone(m.Executions)
		for i := range m.Executions {
			m.Executions[i].EventID = env.EventID
		}
		return m, ok
	default:
		env.Config = config(e.rule.Pack)
		return e.match(env)
	}
}

// prepare compiles the rule. It runs once for each entry.
func (e *entry) prepare(compiler *manifest.Compiler) {
	e.refused = fmt.Errorf("cannot compile the rule: internal error")
	e.fixed = sync.OnceValues(func() (store.Match, bool) {
		return e.match(&manifest.Env{Trigger: e.trigger.Ref, Rule: e.rule.Ref})
	})
	actions := make(map[string]*manifest.Action, len(e.actions))
	for _, record := range e.actions {
		if record == nil {
			continue
		}
		if action, ok := record.Spec.(*manifest.Action); ok {
			actions[record.Ref] = action
		}
	}
	trigger, _ := e.trigger.Spec.(*manifest.Trigger)
	program, findings := compiler.Rule(e.rule, trigger, actions)
	e.program, e.refused = program, nil
	for _, finding := range findings {
		if finding.Severity == manifest.SeverityError {
			e.refused = fmt.Errorf("cannot compile the rule: %v", finding)
			return
		}
	}
}

// match evaluates the condition, and if it holds everything that follows.
func (e *entry) match(env *manifest.Env) (store.Match, bool) {
	holds, err := e.program.Match(env)
	if err != nil {
		return failed(e.rule.Ref, err), true
	}
	if !holds {
		return store.Match{}, false
	}
	if e.sealed != nil {
		return failed(e.rule.Ref, fmt.Errorf("cannot use the secrets that it gives its actions: %w", e.sealed)), true
	}
	m := store.Match{Rule: e.rule.Ref, Status: store.EnforcementMatched}
	items := []any{nil}
	if e.rule.ForEach != "" {
		if items, err = e.items(env); err != nil {
			return failed(e.rule.Ref, err), true
		}
	}
	for i := range e.program.Actions {
		if err := e.queue(&m, i, items, env); err != nil {
			return failed(e.rule.Ref, err), true
		}
	}
	if len(m.Executions) == 0 && len(items) > 0 && len(e.program.Actions) > 0 {
		m.Status, m.Error = store.EnforcementSkipped, strings.Join(m.Warnings, "; ")
		m.Warnings = nil
	}
	if err := e.limit(&m, env); err != nil {
		return failed(e.rule.Ref, err), true
	}
	return m, true
}

// limit names the limits of a match, for the transaction to decide.
func (e *entry) limit(m *store.Match, env *manifest.Env) error {
	r := e.rule
	if r.Throttle == nil && r.Debounce == nil && r.Dedupe == nil && r.Breaker == nil {
		return nil
	}
	env.Item = nil
	limits := &store.Limits{Throttle: r.Throttle, Debounce: r.Debounce, Dedupe: r.Dedupe, Breaker: r.Breaker}
	for _, key := range []struct {
		what     string
		compiled *manifest.CompiledKey
		text     *string
	}{
		{"throttle", e.program.ThrottleKey, &limits.Keys.Throttle},
		{"debounce", e.program.DebounceKey, &limits.Keys.Debounce},
		{"dedupe", e.program.DedupeKey, &limits.Keys.Dedupe},
	} {
		text, err := key.compiled.Text(env)
		if err != nil {
			return fmt.Errorf("cannot apply %s: %v", key.what, err)
		}
		*key.text = shortKey(text)
	}
	switch {
	case r.Dedupe == nil:
	case r.Dedupe.Key == "":
		payload, err := json.Marshal(env.Payload)
		if err != nil {
			return fmt.Errorf("cannot apply dedupe: %v", err)
		}
		limits.Keys.Dedupe = digestKey(payload)
	case limits.Keys.Dedupe == "":
		// Events without the field are no repetitions of each other.
		limits.Dedupe = nil
		m.Warnings = append(m.Warnings, fmt.Sprintf("dedupe: the key %s has no value, so this event is like no other", r.Dedupe.Key))
	}
	m.Limits = limits
	return nil
}

// maxKey is how long a key of a limit is kept as it is, in bytes; of a longer one the digest will do.
const maxKey = 200

func shortKey(text string) string {
	if len(text) <= maxKey {
		return text
	}
	return digestKey([]byte(text))
}

func digestKey(text []byte) string {
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// items evaluates for_each.
func (e *entry) items(env *manifest.Env) ([]any, error) {
	items, err := e.program.ForEach(env)
	if err != nil {
		return nil, err
	}
	if len(items) > MaxItems {
		return nil, fmt.Errorf("cannot run for_each: %d items, at most %d are allowed", len(items), MaxItems)
	}
	return items, nil
}

// queue adds the executions of the rule's action at this place: one for each item.
func (e *entry) queue(m *store.Match, place int, items []any, env *manifest.Env) error {
	compiled := &e.program.Actions[place]
	record := e.actions[place]
	switch {
	case record == nil || !record.Present:
		return fmt.Errorf("cannot run action %s: no such action", compiled.Ref)
	case !record.Enabled:
		// Somebody switched it off, which is an order and no mistake: what else the rule does goes on.
		m.Warnings = append(m.Warnings, fmt.Sprintf("action %s is disabled: %s", compiled.Ref, e.off[place]))
		return nil
	}
	action, ok := record.Spec.(*manifest.Action)
	if !ok {
		return fmt.Errorf("cannot run action %s: its record holds no action", compiled.Ref)
	}
	for n, item := range items {
		env.Item = item
		values, err := compiled.Evaluate(env)
		if err == nil {
			var parameters json.RawMessage
			if parameters, err = fit(action, values); err == nil {
				m.Warnings = append(m.Warnings, values.Warnings...)
				m.Executions = append(m.Executions, store.NewExecution{
					Action:      action.Ref,
					Rule:        e.rule.Ref,
					Trigger:     e.trigger.Ref,
					EventID:     env.EventID,
					Ordinal:     place,
					Item:        n,
					Parameters:  parameters,
					Secrets:     values.Secrets,
					Priority:    cmp.Or(e.rule.Priority, action.Priority),
					RequestedBy: "rule",
				})
				continue
			}
		}
		if e.rule.ForEach != "" {
			return fmt.Errorf("cannot run action %s for item %d: %v", action.Ref, n, err)
		}
		return fmt.Errorf("cannot run action %s: %v", action.Ref, err)
	}
	return nil
}

func failed(rule string, err error) store.Match {
	return store.Match{Rule: rule, Status: store.EnforcementError, Error: err.Error()}
}
