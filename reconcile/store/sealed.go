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

// ownerRule and ownerInstance are what the secrets of a row are sealed for. No action is called so.
func ownerRule(ref string) string { return "rule " + ref }

func ownerInstance(id string) string { return "trigger instance " + id }

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
func (s *Store) openSecrets(owner string, secrets map[string]string, parameters map[string]any) error {
	var failed []error
	for _, pointer := range slices.Sorted(maps.Keys(secrets)) {
		value, err := s.openSecret(owner, pointer, secrets[pointer])
		if err != nil {
			failed = append(failed, fmt.Errorf("cannot read %s of %s: %w", pointer, owner, err))
			continue
		}
		manifest.SetPointer(parameters, pointer, value)
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
func decodeObject(text json.RawMessage) (map[string]any, error) {
	if len(text) == 0 {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var object map[string]any
	return object, decoder.Decode(&object)
}

// SealParameters encrypts what rules and trigger instances of before still hold in clear, and forgets
// instances that no rule asks for and that do. It gives the number of rules, and raises the generation where
// there are any.
func (s *Store) SealParameters(ctx context.Context) (sealed int, err error) {
	if s.keys == nil {
		return 0, nil
	}
	doing := "encrypt the secret parameters of triggers"
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
	var trigger *manifest.Trigger
	for _, rule := range found {
		if rule.Trigger != nil { // the first of those on it
			trigger = new(manifest.Trigger)
			if err := json.Unmarshal(*rule.Trigger, trigger); err != nil {
				return nil, nil, fmt.Errorf("cannot read the stored trigger %s: %w", rule.TriggerRef, err)
			}
		}
		if rule.Parameters == nil {
			continue
		}
		if clear, err := holdsSecrets(trigger, *rule.Parameters); err != nil {
			return nil, nil, fmt.Errorf("cannot read the parameters that rule %s gives its trigger: %w", rule.Ref, err)
		} else if clear {
			rule.Trigger = nil
			if len(rules) == 0 || rules[len(rules)-1].TriggerRef != rule.TriggerRef {
				text, err := manifest.Encode(trigger)
				if err != nil {
					return nil, nil, err
				}
				rule.Trigger = &text
			}
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

// holdsSecrets says whether the trigger's schema calls something of its parameters secret.
func holdsSecrets(trigger *manifest.Trigger, text json.RawMessage) (bool, error) {
	parameters, err := decodeObject(text)
	if err != nil {
		return false, err
	}
	_, hidden, err := masked(trigger.ParametersSchema, trigger.ParametersSchema.ApplyDefaults(parameters))
	return hidden > 0, err
}

// sealedRule is what the catalog needs of a rule that gives its trigger secrets.
type sealedRule struct {
	Ref        string
	InstanceID string
	Secrets    map[string]string
}

// openRule decodes a rule that gives its trigger secrets.
func (s *Store) openRule(rule sealedRule, row recordRow) (*Record, error) {
	opened, sealed := s.unsealRule(rule, row.Manifest)
	if sealed == nil {
		row.Manifest = opened
	} else {
		s.log.Warn("secret parameters of a rule cannot be read", "component", "store", "rule", rule.Ref, "err", sealed)
		row.Digest = ""
	}
	record, err := row.decode(manifest.KindRule)
	if err != nil {
		return nil, err
	}
	record.Instance, record.Sealed = rule.InstanceID, sealed
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
	if err := s.openSecrets(ownerRule(rule.Ref), rule.Secrets, parameters); err != nil {
		return nil, err
	}
	return json.Marshal(whole)
}

// resealParameters is Reseal for what rules give their triggers, and for the instances made of it, whose
// signatures are made anew with them.
func (s *Store) resealParameters(ctx context.Context, renew func(owner string, secrets map[string]string) (map[string]string, bool, error)) (int, error) {
	type ruleRow struct {
		Ref     string
		Secrets map[string]string
	}
	rules, err := collect(ctx, s, s.pool, "SealedRules", nil, pgx.RowToStructByPos[ruleRow])
	if err != nil {
		return 0, s.failed("look for encrypted parameters of rules", err)
	}
	resealed := 0
	for _, r := range rules {
		renewed, changed, err := renew(ownerRule(r.Ref), r.Secrets)
		if err != nil {
			return resealed, fmt.Errorf("cannot encrypt the parameters of rule %s anew: %w", r.Ref, err)
		}
		if !changed {
			continue
		}
		if err := s.storeResealed(ctx, "ResealRule", renewed, pgx.StrictNamedArgs{"ref": r.Ref, "was": r.Secrets}); err != nil {
			return resealed, err
		}
		resealed++
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
		if err := s.storeResealed(ctx, "ResealInstance", renewed, pgx.StrictNamedArgs{"id": i.ID, "signature": signature}); err != nil {
			return resealed, err
		}
		resealed++
	}
	files, err := s.resealFiles(ctx, renew)
	return resealed + files, err
}

func (s *Store) storeResealed(ctx context.Context, query string, secrets map[string]string, args pgx.StrictNamedArgs) error {
	args["secrets"] = secrets
	return s.hot(ctx, "store encrypted parameters", func(batch *pgx.Batch) { batch.Queue(s.queries.get(query), args) })
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

// sealFiles encrypts the manifests of rules in all revisions of packs that give triggers secrets. It sends
// what was queued.
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
