package store

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
)

// ownerRule, ownerActions and ownerInstance are what the secrets of a row are sealed for. No action is called so.
func ownerRule(ref string) string { return "rule " + ref }

func ownerActions(ref string) string { return "actions of rule " + ref }

func ownerInstance(id string) string { return "trigger instance " + id }

// encryptedPlace stands in a rule's row where what it gives an action is encrypted. A daemon from before that takes
// it for a template that cannot be compiled, and so runs nothing with it.
const encryptedPlace = "{{ encrypted }}"

// hideSecrets gives parameters without what the schema calls secret, and that encrypted, by JSON pointer. Without
// keys they are stored as they are.
func (s *Store) hideSecrets(owner string, schema *manifest.Schema, parameters map[string]any) (map[string]any, map[string]string, error) {
	if s.keys == nil || len(parameters) == 0 || len(schema.Secrets()) == 0 {
		return parameters, nil, nil
	}
	secrets := map[string]string{}
	hidden, err := schema.ReplaceSecrets(parameters, func(pointer string, value any) (any, error) {
		if value == nil {
			return nil, nil
		}
		sealed, err := s.keys.Seal(owner, pointer, value)
		secrets[pointer] = sealed
		return manifest.Mask, err
	})
	return hidden, secrets, err
}

// hideActions gives the actions of a rule without what their schemas call secret of what it gives them, and that
// encrypted, by JSON pointer. References stay: they are not the value. Without keys all is stored as it is.
func (s *Store) hideActions(rule string, schemas map[string]*manifest.Schema, actions []any) ([]any, map[string]string, error) {
	if s.keys == nil || len(schemas) == 0 {
		return actions, nil, nil
	}
	secrets := map[string]string{}
	hidden, err := replaceInActions(schemas, actions, func(pointer string, value any) (any, error) {
		sealed, err := s.keys.Seal(ownerActions(rule), pointer, value)
		secrets[pointer] = sealed
		return encryptedPlace, err
	})
	return hidden, secrets, err
}

// replaceInActions gives a copy of the actions of a rule in which each secret that it gives one as it is, is what
// replace gives for it.
func replaceInActions(schemas map[string]*manifest.Schema, actions []any, replace func(pointer string, value any) (any, error)) ([]any, error) {
	replaced := slices.Clone(actions)
	for i := range replaced {
		use, _ := replaced[i].(map[string]any)
		ref, _ := use["ref"].(string)
		parameters, _ := use["parameters"].(map[string]any)
		if schemas[ref] == nil || parameters == nil {
			continue
		}
		parameters, err := schemas[ref].ReplaceSecrets(parameters, func(pointer string, value any) (any, error) {
			if !manifest.HoldsLiteral(value) {
				return value, nil
			}
			return replace(fmt.Sprintf("/%d/parameters%s", i, pointer), value)
		})
		if err != nil {
			return nil, err
		}
		use = maps.Clone(use)
		use["parameters"] = parameters
		replaced[i] = use
	}
	return replaced, nil
}

// masked gives parameters without what hideSecrets encrypts, and how much that is.
func masked(schema *manifest.Schema, parameters map[string]any) (shown map[string]any, hidden int, err error) {
	shown, err = schema.ReplaceSecrets(parameters, func(_ string, value any) (any, error) {
		if value == nil {
			return nil, nil
		}
		hidden++
		return manifest.Mask, nil
	})
	return shown, hidden, err
}

// openSecrets puts secrets back to where they belong, as far as there is such a place and a key.
func (s *Store) openSecrets(owner string, secrets map[string]string, tree any) error {
	var failed []error
	for _, pointer := range slices.Sorted(maps.Keys(secrets)) {
		value, err := s.openSecret(owner, pointer, secrets[pointer])
		if err != nil {
			failed = append(failed, fmt.Errorf("cannot read %s of %s: %w", pointer, owner, err))
			continue
		}
		manifest.SetPointer(tree, pointer, value)
	}
	return errors.Join(failed...)
}

func (s *Store) openSecret(owner, pointer, sealed string) (any, error) {
	if s.keys == nil {
		return nil, errors.New("it is encrypted, and there are no keys")
	}
	return s.keys.Open(owner, pointer, sealed)
}

// sign tells equal parameters of a trigger, by each key, the one that seals first.
func (s *Store) sign(trigger string, canonical map[string]any) ([]string, error) {
	text, err := json.Marshal(canonical)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the parameters of trigger %s: %w", trigger, err)
	}
	return s.keys.Sign("trigger instance\x00" + trigger + "\x00" + string(text))
}

// decodeObject reads a JSON object; numbers keep their digits. Empty text is none.
func decodeObject(text json.RawMessage) (object map[string]any, err error) {
	err = decodeNumbers(text, &object)
	return object, err
}

// decodeList is decodeObject for a list.
func decodeList(text json.RawMessage) (list []any, err error) {
	err = decodeNumbers(text, &list)
	return list, err
}

func decodeNumbers(text json.RawMessage, to any) error {
	if len(text) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return decoder.Decode(to)
}

// SealParameters encrypts what rules, the manifests of rules in revisions and trigger instances of before still
// hold in clear, and forgets instances that no rule asks for and that do. It gives the number of rules, and raises
// the generation where trigger instances are other ones with that.
func (s *Store) SealParameters(ctx context.Context) (sealed int, err error) {
	if s.keys == nil {
		return 0, nil
	}
	doing := "encrypt what rules give in clear"
	// Mostly there is nothing, and nobody has to wait for that.
	rules, instances, err := s.inClear(ctx, s.pool)
	if err != nil || len(rules)+len(instances) == 0 {
		return 0, s.failed(doing, err)
	}
	err = s.inTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		a := newApply(s, tx)
		a.begin()
		a.lockGeneration()
		if err := a.send(ctx); err != nil {
			return err
		}
		if rules, _, err = s.inClear(ctx, tx); err != nil {
			return err
		}
		if err := a.place(ctx, rules, nil); err != nil {
			return err
		}
		if err := a.send(ctx); err != nil {
			return err
		}
		if _, instances, err = s.inClear(ctx, tx); err != nil {
			return err
		}
		a.queue("DropInstances", pgx.StrictNamedArgs{"ids": instances})
		a.end()
		return a.send(ctx)
	})
	if err != nil {
		return 0, s.failed(doing, err)
	}
	return len(rules), nil
}

// inClear finds rules with secrets that are not encrypted, and instances that no rule asks for with such.
func (s *Store) inClear(ctx context.Context, db querier) (rules []ruleToPlace, instances []string, err error) {
	found, err := collect(ctx, s, db, "RulesToSeal", nil, pgx.RowToStructByName[ruleToPlace])
	if err != nil {
		return nil, nil, err
	}
	placed := placedRules{s: s}
	if err := placed.findTaken(ctx, db, found); err != nil {
		return nil, nil, err
	}
	triggers := map[string]*manifest.Trigger{}
	texts := map[string]*json.RawMessage{}
	for _, rule := range found {
		if rule.Trigger != nil { // the first of those on it
			trigger := new(manifest.Trigger)
			if err := json.Unmarshal(*rule.Trigger, trigger); err != nil {
				return nil, nil, fmt.Errorf("cannot read the stored trigger %s: %w", rule.TriggerRef, err)
			}
			triggers[rule.TriggerRef], texts[rule.TriggerRef] = trigger, rule.Trigger
		}
		if clear, err := placed.isInClear(rule, triggers[rule.TriggerRef]); err != nil {
			return nil, nil, fmt.Errorf("cannot read what rule %s gives: %w", rule.Ref, err)
		} else if clear {
			rule.Trigger = texts[rule.TriggerRef]
			rules = append(rules, rule)
		}
	}
	type unasked struct {
		ID         string
		Trigger    json.RawMessage
		Parameters json.RawMessage
	}
	left, err := collect(ctx, s, db, "InstancesToDrop", nil, pgx.RowToStructByPos[unasked])
	if err != nil {
		return nil, nil, err
	}
	for _, instance := range left {
		trigger := new(manifest.Trigger)
		if err := json.Unmarshal(instance.Trigger, trigger); err != nil {
			return nil, nil, fmt.Errorf("cannot read the stored trigger of %s: %w", instance.ID, err)
		}
		if clear, err := holdsSecrets(trigger, instance.Parameters); err != nil {
			return nil, nil, fmt.Errorf("cannot read the parameters of %s: %w", instance.ID, err)
		} else if clear {
			instances = append(instances, instance.ID)
		}
	}
	return rules, instances, nil
}

// isInClear says whether something secret that a rule gives is not encrypted.
func (p *placedRules) isInClear(rule ruleToPlace, trigger *manifest.Trigger) (bool, error) {
	if trigger != nil && rule.Parameters != nil && len(rule.Secrets) == 0 {
		if clear, err := holdsSecrets(trigger, *rule.Parameters); clear || err != nil {
			return clear, err
		}
	}
	if len(rule.Secretive) == 0 {
		return false, nil
	}
	actions, err := decodeList(rule.Actions)
	if err != nil {
		return false, err
	}
	clear := false
	_, err = replaceInActions(p.schemas, actions, func(_ string, value any) (any, error) {
		clear = true
		return value, nil
	})
	return clear, err
}

// holdsSecrets says whether the trigger's schema calls something of its parameters secret.
func holdsSecrets(trigger *manifest.Trigger, text json.RawMessage) (bool, error) {
	parameters, err := decodeObject(text)
	if err != nil {
		return false, err
	}
	_, hidden, err := masked(trigger.ParametersSchema, trigger.ParametersSchema.ApplyDefaults(parameters))
	return hidden > 0, err
}

// sealedRule is what the catalog needs of a rule that gives its trigger, or its actions, secrets.
type sealedRule struct {
	Ref           string
	InstanceID    string
	Secrets       map[string]string // of what it gives its trigger
	ActionSecrets map[string]string
}

// openRule decodes a rule that gives secrets.
func (s *Store) openRule(rule sealedRule, row recordRow) (*Record, error) {
	opened, sealed := s.unsealRule(rule, row.Manifest)
	if sealed != nil {
		s.log.Warn("secret parameters of a rule cannot be read", "component", "store", "rule", rule.Ref, "err", sealed)
		row.Digest = ""
		var err error
		if opened, err = maskRule(rule, row.Manifest); err != nil {
			return nil, err
		}
	}
	row.Manifest = opened
	record, err := row.decode(manifest.KindRule)
	if err != nil {
		return nil, err
	}
	record.Instance, record.Sealed = rule.InstanceID, sealed
	if len(rule.ActionSecrets) > 0 {
		record.SealedActions = sealed
	}
	return record, nil
}

// unsealRule puts the secrets into a stored manifest.
func (s *Store) unsealRule(rule sealedRule, stored []byte) ([]byte, error) {
	whole, err := decodeObject(stored)
	if err != nil {
		return nil, err
	}
	use, _ := whole["trigger"].(map[string]any)
	parameters, _ := use["parameters"].(map[string]any)
	if err := errors.Join(
		s.openSecrets(ownerRule(rule.Ref), rule.Secrets, parameters),
		s.openSecrets(ownerActions(rule.Ref), rule.ActionSecrets, whole["actions"]),
	); err != nil {
		return nil, err
	}
	return json.Marshal(whole)
}

// maskRule has a stored manifest show that something is hidden where secrets belong.
func maskRule(rule sealedRule, stored []byte) ([]byte, error) {
	whole, err := decodeObject(stored)
	if err != nil {
		return nil, err
	}
	for pointer := range rule.ActionSecrets {
		manifest.SetPointer(whole["actions"], pointer, manifest.Mask)
	}
	return json.Marshal(whole)
}

// resealParameters is Reseal for what rules give, and for the trigger instances made of it, whose signatures are
// made anew with them.
func (s *Store) resealParameters(ctx context.Context, renew func(owner string, secrets map[string]string) (map[string]string, bool, error)) (int, error) {
	resealed, err := s.resealRules(ctx, renew)
	if err != nil {
		return resealed, err
	}
	type instance struct {
		ID, Trigger string
		Parameters  json.RawMessage
		Secrets     map[string]string
	}
	instances, err := collect(ctx, s, s.pool, "SealedInstances", nil, pgx.RowToStructByPos[instance])
	if err != nil {
		return resealed, s.failed("look for encrypted trigger instances", err)
	}
	for _, i := range instances {
		renewed, changed, err := renew(ownerInstance(i.ID), i.Secrets)
		if err != nil {
			return resealed, fmt.Errorf("cannot encrypt trigger instance %s anew: %w", i.ID, err)
		}
		if !changed {
			continue
		}
		signature, err := s.signAnew(i.ID, i.Trigger, i.Parameters, renewed)
		if err != nil {
			return resealed, fmt.Errorf("cannot sign trigger instance %s anew: %w", i.ID, err)
		}
		err = s.hot(ctx, "store encrypted parameters", func(batch *pgx.Batch) {
			s.queue(batch, "ResealInstance", pgx.StrictNamedArgs{"id": i.ID, "secrets": renewed, "signature": signature})
		})
		if err != nil {
			return resealed, err
		}
		resealed++
	}
	files, err := s.resealFiles(ctx, renew)
	return resealed + files, err
}

// resealRules is Reseal for the rows of rules.
func (s *Store) resealRules(ctx context.Context, renew func(owner string, secrets map[string]string) (map[string]string, bool, error)) (int, error) {
	type row struct {
		Ref              string
		Trigger, Actions map[string]string
	}
	rules, err := collect(ctx, s, s.pool, "SealedRules", nil, pgx.RowToStructByPos[row])
	if err != nil {
		return 0, s.failed("look for encrypted parameters of rules", err)
	}
	resealed := 0
	for _, r := range rules {
		now, changed := r, false
		for _, part := range []struct {
			owner   string
			secrets *map[string]string
		}{{ownerRule(r.Ref), &now.Trigger}, {ownerActions(r.Ref), &now.Actions}} {
			if *part.secrets == nil {
				continue
			}
			renewed, other, err := renew(part.owner, *part.secrets)
			if err != nil {
				return resealed, fmt.Errorf("cannot encrypt the parameters of rule %s anew: %w", r.Ref, err)
			}
			*part.secrets, changed = renewed, changed || other
		}
		if !changed {
			continue
		}
		err := s.hot(ctx, "store encrypted parameters", func(batch *pgx.Batch) {
			s.queue(batch, "ResealRule", pgx.StrictNamedArgs{
				"ref": r.Ref, "trigger_secrets": now.Trigger, "action_secrets": now.Actions,
				"trigger_were": r.Trigger, "actions_were": r.Actions,
			})
		})
		if err != nil {
			return resealed, err
		}
		resealed++
	}
	return resealed, nil
}

// signAnew gives the signature of an instance by the key that seals now.
func (s *Store) signAnew(id, trigger string, text json.RawMessage, secrets map[string]string) (string, error) {
	parameters, err := decodeObject(text)
	if err != nil {
		return "", err
	}
	if err := s.openSecrets(ownerInstance(id), secrets, parameters); err != nil {
		return "", err
	}
	signatures, err := s.sign(trigger, parameters)
	if err != nil {
		return "", err
	}
	return signatures[0], nil
}

// ownerFile is what the content of a file is sealed for.
func ownerFile(digest string) (owner, place string) { return "file " + digest, "content" }

// keyNames are those of the keys that open; nil: there are none, or nobody can tell.
func (s *Store) keyNames() []string {
	if s.keys == nil {
		return nil
	}
	return s.keys.Names()
}

// sealFiles encrypts the manifests of rules in all revisions of packs whose rules give secrets. It sends what was
// queued.
func (a *apply) sealFiles(ctx context.Context, packs []int64) error {
	if err := a.send(ctx); err != nil {
		return err
	}
	trees, err := collect(ctx, a.s, a.tx, "TreesOfPacks", pgx.StrictNamedArgs{"pack_ids": packs}, pgx.RowTo[[]TreeEntry])
	if err != nil {
		return err
	}
	digests := map[string]bool{}
	for _, tree := range trees {
		ruleFiles(tree, digests)
	}
	type stored struct {
		Digest  string
		Content []byte
	}
	files, err := collect(ctx, a.s, a.tx, "FilesToSeal", pgx.StrictNamedArgs{
		"digests": slices.Sorted(maps.Keys(digests)),
	}, pgx.RowToStructByPos[stored])
	if err != nil {
		return err
	}
	for _, f := range files {
		owner, place := ownerFile(f.Digest)
		sealed, err := a.s.keys.Seal(owner, place, f.Content)
		if err != nil {
			return err
		}
		a.queue("SealFile", sealedFile(f.Digest, sealed))
	}
	return nil
}

// ruleFiles adds the digests of the manifests of rules in a tree. Where links lead is not looked into: they
// make a rule of any manifest.
func ruleFiles(tree []TreeEntry, digests map[string]bool) {
	linked := slices.ContainsFunc(tree, func(e TreeEntry) bool { return e.Link != "" })
	for _, e := range tree {
		if manifest := path.Ext(e.Path) == ".yaml" || path.Ext(e.Path) == ".yml"; !manifest || e.Digest == "" {
			continue
		}
		if linked || path.Dir(e.Path) == "rules" {
			digests[e.Digest] = true
		}
	}
}

func sealedFile(digest, sealed string) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"digest": digest, "content": []byte(sealed), "key": seal.KeyOf(sealed)}
}

// openFile gives the compressed content of a file.
func (s *Store) openFile(digest, sealed string) ([]byte, error) {
	owner, place := ownerFile(digest)
	value, err := s.openSecret(owner, place, sealed)
	if err != nil {
		return nil, err
	}
	text, _ := value.(string)
	return base64.StdEncoding.DecodeString(text) // as JSON has bytes
}

// resealFiles is Reseal for the manifests of rules.
func (s *Store) resealFiles(ctx context.Context, renew func(owner string, secrets map[string]string) (map[string]string, bool, error)) (int, error) {
	if len(s.keyNames()) == 0 {
		return 0, nil
	}
	type stored struct{ Digest, Content string }
	resealed := 0
	for after := ""; ; {
		files, err := collect(ctx, s, s.pool, "SealedFiles", pgx.StrictNamedArgs{
			"key": s.keyNames()[0], "after": after, "most": pruneBatch,
		}, func(row pgx.CollectableRow) (f stored, err error) {
			var content []byte
			err = row.Scan(&f.Digest, &content)
			f.Content = string(content)
			return f, err
		})
		if err != nil {
			return resealed, s.failed("look for encrypted files", err)
		}
		if len(files) == 0 {
			return resealed, nil
		}
		after = files[len(files)-1].Digest
		for _, f := range files {
			owner, place := ownerFile(f.Digest)
			renewed, changed, err := renew(owner, map[string]string{place: f.Content})
			if err != nil {
				return resealed, fmt.Errorf("cannot encrypt the stored file %s anew: %w", f.Digest, err)
			}
			if !changed {
				continue
			}
			err = s.hot(ctx, "store an encrypted file", func(batch *pgx.Batch) {
				batch.Queue(s.queries.get("SealFile"), sealedFile(f.Digest, renewed[place]))
			})
			if err != nil {
				return resealed, err
			}
			resealed++
		}
	}
}
