package manifest

import "encoding/json"

// SecretTexts gives what no output may show of values: the texts and numbers in what the schema calls secret.
func (s *Schema) SecretTexts(values map[string]any) (texts []string) {
	// It replaces nothing, so it cannot fail.
	_, _ = s.ReplaceSecrets(values, func(_ string, value any) (any, error) {
		texts = append(texts, Texts(value)...)
		return value, nil
	})
	return texts
}

// Texts gives the texts and numbers that a value is made of, each as a program would print it.
func Texts(value any) (texts []string) {
	switch v := value.(type) {
	case nil, bool:
	case string:
		texts = append(texts, v)
	case map[string]any:
		for _, item := range v {
			texts = append(texts, Texts(item)...)
		}
	case []any:
		for _, item := range v {
			texts = append(texts, Texts(item)...)
		}
	default: // of JSON, YAML or TOML
		if text, err := json.Marshal(v); err == nil {
			texts = append(texts, string(text))
		}
	}
	return texts
}
