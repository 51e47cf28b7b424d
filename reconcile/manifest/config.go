package manifest

import (
	"maps"
)

// EffectiveConfig is the configuration that a pack's children get: the pack's own, above it what the
// operator says (a top-level key replaces the pack's as a whole), and the schema's defaults for the
// rest.
//
// What the operator says and the schema refuses is left out, so that what is not valid reaches nobody:
// the pack's own value or the default stays. The misfits tell what that is, each with a pointer into
// the operator's configuration.
func (p *Pack) EffectiveConfig(operator map[string]any) (config map[string]any, misfits []SchemaError) {
	config = map[string]any{}
	maps.Copy(config, p.Config)
	maps.Copy(config, operator)
	if p.ConfSchema == nil {
		return config, nil
	}
	for _, misfit := range p.ConfSchema.Validate(config) {
		top := topKey(misfit.Pointer)
		if _, said := operator[top]; !said {
			continue // it is the pack's own, or nobody's
		}
		misfits = append(misfits, misfit)
		delete(config, top)
		if own, ok := p.Config[top]; ok {
			config[top] = own
		}
	}
	return p.ConfSchema.ApplyDefaults(config), misfits
}

// topKey is the first name of a pointer; empty: the whole is meant.
func topKey(pointer string) string {
	path := segments(pointer)
	if len(path) == 0 {
		return ""
	}
	return path[0]
}
