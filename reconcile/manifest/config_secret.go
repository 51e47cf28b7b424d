package manifest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// secretOnly is a text that is a reference to a secret and nothing else, and secretWithin one that holds a
// reference.
var (
	secretOnly   = regexp.MustCompile(`^\s*\{\{\s*secret\.([A-Za-z0-9_][A-Za-z0-9_.-]*)\s*\}\}\s*$`)
	secretWithin = regexp.MustCompile(`\{\{\s*secret\s*[.\[]`)
)

// ConfigSecret gives the name of the secret that a value of a pack's configuration refers to by
// "{{ secret.name }}"; empty: it is a value of its own.
func ConfigSecret(value any) string {
	text, _ := value.(string)
	if m := secretOnly.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// SecretRef is a reference to a secret of a pack's configuration, as rules see it. They can hand it on to an
// action as a whole, and do nothing else with it: the value is read when the action starts.
type SecretRef struct{ name string }

// MarshalJSON gives the reference, as it was written.
func (s SecretRef) MarshalJSON() ([]byte, error) { return json.Marshal("{{ secret." + s.name + " }}") }

// ReferringConfig gives a pack's configuration with a SecretRef in place of each reference; config itself where
// it holds none.
func ReferringConfig(config map[string]any) map[string]any {
	replaced, err := replaceReferences(config, func(name string) (any, error) { return SecretRef{name}, nil })
	if err != nil {
		return config // the func above gives none
	}
	return replaced
}

// ResolvedConfig gives a pack's configuration with the secrets in place of the references to them, for a child
// that starts; config itself where it holds none. secret gives a secret by its name.
func ResolvedConfig(config map[string]any, secret func(name string) (string, error)) (map[string]any, error) {
	return replaceReferences(config, func(name string) (any, error) {
		if secret == nil {
			return nil, fmt.Errorf("there is no secret %q", name)
		}
		return secret(name)
	})
}

func replaceReferences(config map[string]any, replace func(name string) (any, error)) (map[string]any, error) {
	found := configSecrets(config)
	if len(found) == 0 {
		return config, nil
	}
	filled := deepCopy(config)
	for _, pointer := range sortedKeys(found) {
		value, err := replace(found[pointer])
		if err != nil {
			return nil, fmt.Errorf("cannot use pack.config.%s: %w", dotted(pointer), err)
		}
		filled = setPointer(filled, pointer, value)
	}
	object, _ := filled.(map[string]any)
	return object, nil
}

// configSecrets gives the names of the secrets that a configuration refers to, by pointer.
func configSecrets(config map[string]any) map[string]string {
	found := map[string]string{}
	walkTexts(config, "", func(pointer, text string) {
		if name := ConfigSecret(text); name != "" {
			found[pointer] = name
		}
	})
	return found
}

// configMisfits tells what of a configuration does not fit its schema. What a reference will bring is not
// judged; that it may stand there is: only what the schema calls secret is hidden wherever it is handed over
// or shown.
func configMisfits(schema *Schema, config map[string]any) []SchemaError {
	found := configSecrets(config)
	misfits := slices.DeleteFunc(schema.Validate(config), func(e SchemaError) bool {
		_, refers := found[e.Pointer]
		return refers && !strings.HasPrefix(e.Message, unknownProperty)
	})
	walkTexts(config, "", func(pointer, text string) {
		switch {
		case found[pointer] != "" && !schema.IsSecret(pointer):
			misfits = append(misfits, SchemaError{pointer, fmt.Sprintf(
				"found a reference to secret %s, expected one only where conf_schema says secret: true", quoted(found[pointer]))})
		case found[pointer] == "" && secretWithin.MatchString(text):
			misfits = append(misfits, SchemaError{pointer, `found a secret inside a text, expected "{{ secret.name }}" and nothing else`})
		}
	})
	sortSchemaErrors(misfits)
	return misfits
}
