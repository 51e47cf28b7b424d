package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
)

// instanceDigits is how many hex digits of the digest an instance's id shows: 64 bits, so that two
// parameter sets of one trigger never meet by chance.
const instanceDigits = 16

// Instance gives the identity of a trigger with these parameters: the canonical parameters (defaults
// filled in, those marked x-identity: false left out) and the id of the trigger instance made from
// them, "core.intervaltimer#" and 16 hex digits of the SHA-256 of the canonical JSON. Parameters that
// mean the same give the same id: 1 and 1.0, a default spelled out and one left out, null and absence.
// rule is the ref of the rule that asks, which SpreadCron draws by: rules whose H comes out differently
// have different instances.
func (t *Trigger) Instance(rule string, params map[string]any) (id string, canonical map[string]any) {
	canonical = t.ParametersSchema.ApplyDefaults(t.Spread(rule, params))
	if t.ParametersSchema != nil {
		for _, p := range annotated(t.ParametersSchema.raw(), "x-identity", false) {
			remove(canonical, p)
		}
	}
	if plain, errs := plainNumbers(canonical, ""); len(errs) == 0 {
		canonical = plain.(map[string]any)
	}
	// Parameters come from YAML or JSON, which can say nothing that this cannot encode.
	text, _ := compactJSON(canonical)
	sum := sha256.Sum256(text)
	return t.Ref + "#" + hex.EncodeToString(sum[:])[:instanceDigits], canonical
}

// Spread gives the parameters of a rule as they are in force: those of a cron trigger with numbers for
// each H. What it is given stays as it is.
func (t *Trigger) Spread(rule string, params map[string]any) map[string]any {
	expression, ok := params["expression"].(string)
	if !ok || t.Type != TriggerCron {
		return params
	}
	spread := SpreadCron(expression, rule)
	if spread == expression {
		return params
	}
	params = maps.Clone(params)
	params["expression"] = spread
	return params
}

// remove deletes the properties that a pattern names.
func remove(tree any, p pattern) {
	if len(p) == 0 {
		return
	}
	switch t := tree.(type) {
	case map[string]any:
		for key, item := range t {
			if p[0] != key && p[0] != "*" {
				continue
			}
			if len(p) == 1 {
				delete(t, key)
			} else {
				remove(item, p[1:])
			}
		}
	case []any:
		for i, item := range slices.All(t) {
			if p[0] == "*" || p[0] == strconv.Itoa(i) {
				remove(item, p[1:])
			}
		}
	}
}
