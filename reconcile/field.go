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

// fieldChanges compares the normal forms of two packs or components. Values that are secret are told
// as changed, and not shown; takes gives the schemas of what a rule names.
func fieldChanges(old, wanted any, takes manifest.TakenBy) []FieldChange {
	was, will := shownForm(old, takes), shownForm(wanted, takes)
	var changes []FieldChange
	compare("", was, will, &changes)
	return changes
}

// form is a normal form, whole and as people may see it. Both have the same shape but for what is
// secret.
type form struct{ whole, shown any }

func shownForm(v any, takes manifest.TakenBy) form {
	data, _ := normalForm(v)
	f := form{whole: tree(data)}
	var err error
	if f.shown, err = manifest.Masked(v, takes); err != nil {
		f.shown = manifest.Mask // it has a normal form, so it can be masked
	}
	return f
}

// at is the part under a key; the whole stays hidden where the parts of a secret are not shown.
func (f form) at(key string) form {
	part := form{shown: f.shown}
	if whole, ok := f.whole.(map[string]any); ok {
		part.whole = whole[key]
	}
	if shown, ok := f.shown.(map[string]any); ok {
		part.shown = shown[key]
	}
	return part
}

// index is the part at a place of a list.
func (f form) index(i int) form {
	part := form{shown: f.shown}
	if whole, ok := f.whole.([]any); ok && i < len(whole) {
		part.whole = whole[i]
	}
	if shown, ok := f.shown.([]any); ok && i < len(shown) {
		part.shown = shown[i]
	}
	return part
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
func compare(at string, old, wanted form, changes *[]FieldChange) {
	if reflect.DeepEqual(old.whole, wanted.whole) {
		return
	}
	switch o := old.whole.(type) {
	case map[string]any:
		if w, ok := wanted.whole.(map[string]any); ok {
			keys := map[string]bool{}
			for key := range o {
				keys[key] = true
			}
			for key := range w {
				keys[key] = true
			}
			for _, key := range sortedKeys(keys) {
				compare(at+"/"+pointerKey(key), old.at(key), wanted.at(key), changes)
			}
			return
		}
	case []any:
		if w, ok := wanted.whole.([]any); ok && len(w) == len(o) {
			for i := range o {
				compare(at+"/"+strconv.Itoa(i), old.index(i), wanted.index(i), changes)
			}
			return
		}
	}
	*changes = append(*changes, FieldChange{Field: at, Old: old.shown, New: wanted.shown})
}

// pointerKey escapes a key as JSON pointers want it.
func pointerKey(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}
