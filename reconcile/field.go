package reconcile

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
)

// FieldChange is one field of a manifest, old and new, as JSON.
type FieldChange struct {
	Field string `json:"field"` // JSON pointer into the normal form
	Old   any    `json:"old,omitempty"`
	New   any    `json:"new,omitempty"`
}

// fieldChanges compares the normal forms of two packs or components; wanted has the encoded form of
// the new one.
func fieldChanges(old any, wanted json.RawMessage) []FieldChange {
	was, err := manifest.Encode(old)
	if err != nil {
		return nil // it came from the database, where it was encoded
	}
	var changes []FieldChange
	compare("", tree(was), tree(wanted), &changes)
	return changes
}

// tree reads JSON as maps, lists and texts; a number stays as it is written.
func tree(data json.RawMessage) any {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return string(data)
	}
	return v
}

// compare tells the smallest parts that differ. Lists of another length are one part: what moved
// within them would be told as a change of each place.
func compare(at string, old, wanted any, changes *[]FieldChange) {
	if reflect.DeepEqual(old, wanted) {
		return
	}
	switch o := old.(type) {
	case map[string]any:
		if w, ok := wanted.(map[string]any); ok {
			keys := map[string]bool{}
			for key := range o {
				keys[key] = true
			}
			for key := range w {
				keys[key] = true
			}
			for _, key := range sortedKeys(keys) {
				compare(at+"/"+pointerKey(key), o[key], w[key], changes)
			}
			return
		}
	case []any:
		if w, ok := wanted.([]any); ok && len(w) == len(o) {
			for i := range o {
				compare(at+"/"+strconv.Itoa(i), o[i], w[i], changes)
			}
			return
		}
	}
	*changes = append(*changes, FieldChange{Field: at, Old: old, New: wanted})
}

// pointerKey escapes a key as JSON pointers want it.
func pointerKey(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
