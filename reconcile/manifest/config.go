package manifest

import (
	"fmt"
	"maps"
	"slices"
)

// EffectiveConfig is the configuration that a pack's children get: the pack's own, above it what the
// operator says (a top-level key replaces the pack's as a whole), and the schema's defaults for the
// rest.
//
// What the operator says and the schema refuses is left out, so that what is not valid reaches nobody:
// the pack's own value or the default stays. The misfits tell what that is, each with a pointer into
// the operator's configuration. References to secrets stay as they are written: see ResolvedConfig.
func (p *Pack) EffectiveConfig(operator map[string]any) (config map[string]any, misfits []SchemaError) {
	config = map[string]any{}
	maps.Copy(config, p.Config)
	maps.Copy(config, operator)
	for _, misfit := range configMisfits(p.ConfSchema, config) {
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
	if p.ConfSchema == nil {
		return config, misfits
	}
	return p.ConfSchema.ApplyDefaults(config), misfits
}

// Key is the top-level key that a misfit is in; empty: it is of the whole.
func (e SchemaError) Key() string { return topKey(e.Pointer) }

// topKey is the first name of a pointer; empty: the whole is meant.
func topKey(pointer string) string {
	path := segments(pointer)
	if len(path) == 0 {
		return ""
	}
	return path[0]
}

// ConfigFindings tells what of a pack's configuration, its own and the operator's over it, its schema
// refuses, each at its place in whichever file is wrong. place gives those of the operator's keys; nil,
// or a zero Place: nobody knows.
func ConfigFindings(b *Bundle, operator map[string]any, place func(pack, key string) Place) Errors {
	if b.Pack == nil {
		return nil
	}
	config := map[string]any{}
	maps.Copy(config, b.Pack.Config)
	maps.Copy(config, operator)
	var found Errors
	for _, misfit := range configMisfits(b.Pack.ConfSchema, config) {
		top := topKey(misfit.Pointer)
		_, own := b.Pack.Config[top]
		_, said := operator[top]
		f := &Error{Severity: SeverityError, Kind: KindPack, Ref: b.Folder}
		operators := dottedBelow("packs.config."+b.Folder, misfit.Pointer)
		switch {
		case said:
			f.Message = fmt.Sprintf("cannot use %s: %s", operators, misfit.Message)
			if place != nil {
				f.Place = place(b.Folder, top)
			}
			if f.Place == (Place{}) {
				f.Place, f.Hint = schemaPlace(b, top), "correct it in attune.toml"
			}
		case own:
			f.Message = fmt.Sprintf("cannot use %s: %s", dottedBelow("config", misfit.Pointer), misfit.Message)
			f.Place = b.Pack.Places.At("/config" + misfit.Pointer)
		default:
			f.Message = fmt.Sprintf("cannot use %s: %s", operators, misfit.Message)
			f.Place, f.Hint = schemaPlace(b, top), fmt.Sprintf("give it in [packs.config.%s] of attune.toml, or under config here", b.Folder)
		}
		f.Place = orFile(f.Place, b.Folder, packFile)
		found = append(found, f)
	}
	return append(found, unnamedKeys(b, operator, place)...)
}

// unnamedKeys warns of keys that the operator gives and conf_schema does not name: nobody reads a
// misspelt key.
func unnamedKeys(b *Bundle, operator map[string]any, place func(pack, key string) Place) Errors {
	schema := b.Pack.ConfSchema
	var known []string
	for _, p := range schema.Properties() {
		known = append(known, p.Name)
	}
	if len(known) == 0 || schema.raw()["additionalProperties"] != nil || schema.raw()["patternProperties"] != nil {
		return nil
	}
	var found Errors
	for _, key := range sortedKeys(operator) {
		if slices.Contains(known, key) {
			continue
		}
		f := &Error{
			Severity: SeverityWarning, Kind: KindPack, Ref: b.Folder, Hint: didYouMean(key, known),
			Message: fmt.Sprintf("unknown key %s: conf_schema of pack %s does not name it", dottedBelow("packs.config."+b.Folder, "/"+escapePointer(key)), b.Folder),
		}
		if place != nil {
			f.Place = place(b.Folder, key)
		}
		if f.Place == (Place{}) {
			f.Place = b.Pack.Places.At("/conf_schema")
		}
		f.Place = orFile(f.Place, b.Folder, packFile)
		found = append(found, f)
	}
	return found
}

// schemaPlace is where conf_schema declares a key, in either of its forms.
func schemaPlace(b *Bundle, key string) Place {
	name := escapePointer(key)
	for _, pointer := range []string{"/conf_schema/properties/" + name, "/conf_schema/" + name} {
		if place, ok := b.Pack.Places[pointer]; ok {
			return place
		}
	}
	return b.Pack.Places.At("/conf_schema")
}
