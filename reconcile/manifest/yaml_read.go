package manifest

import (
	"bytes"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// ReadYAML reads one YAML document that an action printed, under the rules and caps of manifests:
// dates and yes or no stay strings, keys are strings, there is no second document. It gives plain
// values (maps, lists, strings, bools, nil, int64, float64); the error has line and column.
func ReadYAML(text []byte) (any, error) {
	r := &yamlReader{expanding: map[*yaml.Node]bool{}}
	content, ok := r.checkBytes(text)
	if !ok {
		return nil, r.first()
	}
	r.content, r.lines = content, bytes.Split(content, []byte("\n"))
	doc := r.parse(content)
	if doc == nil {
		return nil, r.first()
	}
	v := r.convert(doc.Content[0], 0)
	if r.errs.HasErrors() {
		return nil, r.first()
	}
	return v.plain(), nil
}

// first gives the first finding in words that do not speak of a manifest.
func (r *yamlReader) first() error {
	r.errs.Sort()
	e := r.errs[slices.IndexFunc(r.errs, func(e *Error) bool { return e.Severity == SeverityError })]
	message := strings.TrimPrefix(e.Message, "cannot read the manifest: ")
	if e.Line == 0 {
		return errorf("%s", message)
	}
	return errorf("line %d, column %d: %s", e.Line, max(e.Col, 1), message)
}
