package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
)

// ruleToPlace is a rule whose trigger instance is looked for.
type ruleToPlace struct {
	ID         int64
	PackID     int64
	Ref        string
	TriggerRef string
	// Parameters are those of the manifest, where what is in Secrets is masked.
	Parameters *json.RawMessage
	Secrets    map[string]string
	InstanceID string
	// Changed says that this apply wrote it.
	Changed bool
	// Trigger is the manifest of the rule's trigger, in the first rule of each trigger that there is.
	Trigger *json.RawMessage
	// Actions are those of the manifest, where encryptedPlace stands for what is in ActionSecrets, and Secretive
	// the refs of those that take something secret.
	Actions       json.RawMessage
	ActionSecrets map[string]string
	Secretive     []string
}

// placeRules sends what was queued, and tells each changed rule of the packs, and each rule of a changed
// trigger of theirs, its trigger instance, and activates and deactivates the instances that this concerns. What
// rules give is written, and encrypted where it is secret.
func (a *apply) placeRules(ctx context.Context, rows *changeRows) error {
	var rules []ruleToPlace
	a.queue("RulesToPlace", pgx.StrictNamedArgs{
		"generation": a.next, "packs": rows.packs.refs, "pack_ids": a.packIDs(), "given": slices.Sorted(maps.Keys(rows.given)),
		"secretive": rows.secretive,
	}).Query(func(found pgx.Rows) (err error) {
		rules, err = pgx.CollectRows(found, pgx.RowToStructByName[ruleToPlace])
		return err
	})
	if err := a.send(ctx); err != nil {
		return err
	}
	return a.place(ctx, rules, rows.given)
}

// place queues what placeRules finds. given is of rules that were just put.
func (a *apply) place(ctx context.Context, rules []ruleToPlace, given map[string]*givenByRule) error {
	if len(rules) == 0 {
		return nil
	}
	triggers := map[string]*manifest.Trigger{}
	for _, rule := range rules {
		if rule.Trigger == nil {
			continue
		}
		trigger := new(manifest.Trigger)
		if err := json.Unmarshal(*rule.Trigger, trigger); err != nil {
			return fmt.Errorf("cannot read a stored trigger: %w", err)
		}
		triggers[rule.TriggerRef] = trigger
	}
	placed := placedRules{s: a.s}
	if err := placed.findTaken(ctx, a.tx, rules); err != nil {
		return err
	}
	for _, rule := range rules {
		if err := placed.add(rule, triggers[rule.TriggerRef], given[rule.Ref]); err != nil {
			return err
		}
	}
	if err := placed.findSigned(ctx, a.tx); err != nil {
		return err
	}
	var packs []int64
	for _, r := range placed.rules {
		if r.fresh || len(r.secrets) > 0 && (!r.hidden || r.instance != r.before) {
			a.changed[r.pack] = true
		}
		if len(r.secrets)+len(r.actionSecrets) > 0 {
			packs = append(packs, r.pack)
		}
	}
	if err := placed.queue(a); err != nil || len(packs) == 0 {
		return err
	}
	return a.sealFiles(ctx, packs)
}

// placedRule is a rule with its trigger instance.
type placedRule struct {
	id, pack int64
	rule     string
	trigger  string
	// instance is empty where the trigger does not exist.
	instance string
	// before is the instance that the rule had; former is the one that it would have if nothing were secret.
	before, former string
	// canonical are the parameters that make the instance, whole those that are in force, and written those
	// of the manifest (nil: they stay). Whatever is secret in them is masked, and encrypted in secrets.
	canonical, whole, written map[string]any
	secrets                   map[string]string
	schema                    *manifest.Schema
	clear                     map[string]any // canonical, with what is secret
	// signatures are of canonical, by each key; none where nothing of it is secret.
	signatures []string
	known      bool // an instance of such a signature is there
	fresh      bool // its row is written from what was given
	hidden     bool // its row had secrets encrypted before
	// actions are those of the manifest (nil: they stay). Whatever is secret in them is in actionSecrets; the row
	// had such before where hiddenActions says so.
	actions       []any
	actionSecrets map[string]string
	hiddenActions bool
}

// placedRules are rules on the way to their rows.
type placedRules struct {
	s     *Store
	rules []*placedRule
	// schemas are those of the actions that take something secret; see findTaken.
	schemas map[string]*manifest.Schema
}

// add computes the instance of one rule; a rule whose trigger does not exist has none. given is what the row of a
// rule that was just put does not have yet.
func (p *placedRules) add(rule ruleToPlace, trigger *manifest.Trigger, given *givenByRule) error {
	r := &placedRule{
		id: rule.ID, pack: rule.PackID, rule: rule.Ref, trigger: rule.TriggerRef, before: rule.InstanceID,
		hidden: len(rule.Secrets) > 0, hiddenActions: len(rule.ActionSecrets) > 0,
	}
	parameters, actions, err := p.opened(rule)
	switch {
	case given != nil && (rule.Changed || err != nil):
		if parameters, actions, err = r.take(given); err != nil {
			return fmt.Errorf("cannot read what rule %s gives: %w", rule.Ref, err)
		}
	case err != nil:
		// Its folder has what nobody here can read any more.
		p.s.log.Warn("rule keeps its trigger instance until its pack is loaded anew", "component", "store", "rule", rule.Ref, "err", err)
		return nil
	}
	p.rules = append(p.rules, r)
	if err := p.hideActions(r, actions); err != nil {
		return err
	}
	if trigger == nil {
		return nil
	}
	r.schema = trigger.ParametersSchema
	r.instance, r.clear = trigger.Instance(rule.Ref, parameters)
	r.former, r.canonical = r.instance, r.clear
	r.whole = trigger.Spread(rule.Ref, parameters)
	if trigger.ParametersSchema != nil {
		r.whole = trigger.ParametersSchema.ApplyDefaults(r.whole)
	}
	return p.hide(r, parameters)
}

// take has the row written from what was given.
func (r *placedRule) take(given *givenByRule) (parameters map[string]any, actions []any, err error) {
	r.fresh = true
	if r.written, err = decodeObject(given.trigger); err != nil {
		return nil, nil, err
	}
	if r.actions, err = decodeList(given.actions); err != nil {
		return nil, nil, err
	}
	return r.written, r.actions, nil
}

// opened is what a rule gives its trigger, and its actions, as its row has them.
func (p *placedRules) opened(rule ruleToPlace) (parameters map[string]any, actions []any, err error) {
	if rule.Parameters != nil {
		if parameters, err = decodeObject(*rule.Parameters); err != nil {
			return nil, nil, err
		}
		if err = p.s.openSecrets(ownerRule(rule.Ref), rule.Secrets, parameters); err != nil {
			return nil, nil, err
		}
	}
	if len(rule.Secretive)+len(rule.ActionSecrets) == 0 {
		return parameters, nil, nil // nothing about them has to change
	}
	if actions, err = decodeList(rule.Actions); err != nil {
		return nil, nil, err
	}
	return parameters, actions, p.s.openSecrets(ownerActions(rule.Ref), rule.ActionSecrets, actions)
}

// hideActions encrypts what is secret of what a rule gives its actions.
func (p *placedRules) hideActions(r *placedRule, actions []any) error {
	hidden, secrets, err := p.s.hideActions(r.rule, p.schemas, actions)
	if err != nil {
		return err
	}
	if r.actionSecrets = secrets; len(secrets) > 0 || r.hiddenActions {
		r.actions = hidden
	}
	return nil
}

// findTaken looks up what the rules' actions take, of those that take something secret.
func (p *placedRules) findTaken(ctx context.Context, db querier, rules []ruleToPlace) error {
	refs := map[string]bool{}
	for _, rule := range rules {
		for _, ref := range rule.Secretive {
			refs[ref] = true
		}
	}
	if len(refs) == 0 {
		return nil
	}
	type taken struct {
		Ref        string
		Parameters json.RawMessage
	}
	found, err := collect(ctx, p.s, db, "TakenByActions", pgx.StrictNamedArgs{
		"refs": slices.Sorted(maps.Keys(refs)),
	}, pgx.RowToStructByPos[taken])
	if err != nil {
		return err
	}
	p.schemas = make(map[string]*manifest.Schema, len(found))
	for _, action := range found {
		schema := new(manifest.Schema)
		if err := json.Unmarshal(action.Parameters, schema); err != nil {
			return fmt.Errorf("cannot read the stored parameters of action %s: %w", action.Ref, err)
		}
		p.schemas[action.Ref] = schema
	}
	return nil
}

// hide encrypts what is secret of a rule's parameters.
func (p *placedRules) hide(r *placedRule, parameters map[string]any) (err error) {
	if r.whole, r.secrets, err = p.s.hideSecrets(ownerRule(r.rule), r.schema, r.whole); err != nil || len(r.secrets) == 0 {
		return err
	}
	if r.written, _, err = masked(r.schema, parameters); err != nil {
		return err
	}
	hidden := 0
	if r.canonical, hidden, err = masked(r.schema, r.clear); err != nil || hidden == 0 {
		return err
	}
	if r.signatures, err = p.s.sign(r.trigger, r.clear); err != nil {
		return err
	}
	_, mac, _ := strings.Cut(r.signatures[0], ":")
	r.instance = r.trigger + "#" + mac[:len(r.former)-len(r.trigger)-1]
	return nil
}

// findSigned gives rules with secret parameters the instance that equal ones have already, whichever key it
// was made with.
func (p *placedRules) findSigned(ctx context.Context, tx pgx.Tx) error {
	var all []string
	for _, r := range p.rules {
		all = append(all, r.signatures...)
	}
	if len(all) == 0 {
		return nil
	}
	type signed struct{ Signature, ID string }
	found, err := collect(ctx, p.s, tx, "InstancesSigned", pgx.StrictNamedArgs{"signatures": all}, pgx.RowToStructByPos[signed])
	if err != nil {
		return err
	}
	ids := make(map[string]string, len(found))
	for _, f := range found {
		ids[f.Signature] = f.ID
	}
	for _, r := range p.rules {
		for _, signature := range r.signatures {
			if id, ok := ids[signature]; ok {
				r.instance, r.known = id, true
				break
			}
		}
	}
	return nil
}

// instanceColumns are instances as statements take them.
type instanceColumns struct{ formers, ids, triggers, parameters, secrets, signatures []string }

func (c *instanceColumns) add(r *placedRule, secrets map[string]string) error {
	parameters, err := encodeObject(r.canonical)
	if err != nil {
		return fmt.Errorf("cannot encode the parameters of %s: %w", r.instance, err)
	}
	text, signature := "", ""
	if len(secrets) > 0 {
		if text, err = encode(secrets); err != nil {
			return fmt.Errorf("cannot encode the secrets of %s: %w", r.instance, err)
		}
		signature = r.signatures[0]
	}
	c.formers, c.ids, c.triggers = append(c.formers, r.former), append(c.ids, r.instance), append(c.triggers, r.trigger)
	c.parameters, c.secrets, c.signatures = append(c.parameters, parameters), append(c.secrets, text), append(c.signatures, signature)
	return nil
}

// queue has the rows written.
func (p *placedRules) queue(a *apply) error {
	var renamed, put instanceColumns
	var ids []int64
	var instances, parameters, secrets, written, actionSecrets, actions, formers, touched []string
	known := map[string]bool{}
	for _, r := range p.rules {
		whole, hidden, rewritten := "", "", ""
		var err error
		if r.instance != "" {
			if whole, err = encodeObject(r.whole); err != nil {
				return fmt.Errorf("cannot encode the parameters that rule %s gives its trigger: %w", r.rule, err)
			}
		}
		if len(r.secrets) > 0 {
			if hidden, err = encode(r.secrets); err != nil {
				return fmt.Errorf("cannot encode the secrets of rule %s: %w", r.rule, err)
			}
		}
		if r.written != nil {
			if rewritten, err = encodeObject(r.written); err != nil {
				return fmt.Errorf("cannot encode the parameters of rule %s: %w", r.rule, err)
			}
		}
		hiddenActions, rewrittenActions := "", ""
		if len(r.actionSecrets) > 0 {
			if hiddenActions, err = encode(r.actionSecrets); err != nil {
				return fmt.Errorf("cannot encode the secrets of rule %s: %w", r.rule, err)
			}
		}
		if r.actions != nil {
			if rewrittenActions, err = encode(r.actions); err != nil {
				return fmt.Errorf("cannot encode the actions of rule %s: %w", r.rule, err)
			}
		}
		actionSecrets, actions = append(actionSecrets, hiddenActions), append(actions, rewrittenActions)
		ids, instances = append(ids, r.id), append(instances, r.instance)
		parameters, secrets, written = append(parameters, whole), append(secrets, hidden), append(written, rewritten)
		if r.before != "" {
			touched = append(touched, r.before)
		}
		if r.instance == "" {
			continue
		}
		touched = append(touched, r.instance)
		if len(r.signatures) > 0 {
			formers = append(formers, r.former)
		}
		if known[r.instance] {
			continue
		}
		known[r.instance] = true
		var hiddenInstance map[string]string
		if len(r.signatures) > 0 {
			if _, hiddenInstance, err = p.s.hideSecrets(ownerInstance(r.instance), r.schema, r.clear); err != nil {
				return err
			}
		}
		if len(r.signatures) > 0 && !r.known {
			if err := renamed.add(r, hiddenInstance); err != nil {
				return err
			}
		}
		if err := put.add(r, hiddenInstance); err != nil {
			return err
		}
	}
	if len(renamed.ids) > 0 {
		a.queue("SealInstances", pgx.StrictNamedArgs{
			"formers": renamed.formers, "ids": renamed.ids, "parameters": renamed.parameters, "secrets": renamed.secrets,
			"signatures": renamed.signatures,
		})
	}
	a.queue("PutInstances", pgx.StrictNamedArgs{
		"ids": put.ids, "trigger_refs": put.triggers, "parameters": put.parameters, "secrets": put.secrets,
		"signatures": put.signatures,
	})
	a.queue("PlaceRules", pgx.StrictNamedArgs{
		"ids": ids, "instance_ids": instances, "parameters": parameters, "secrets": secrets, "written": written,
		"action_secrets": actionSecrets, "actions": actions,
	})
	if len(formers) > 0 {
		a.queue("DropInstances", pgx.StrictNamedArgs{"ids": formers})
	}
	a.queue("ActivateInstances", pgx.StrictNamedArgs{"ids": touched})
	return nil
}
