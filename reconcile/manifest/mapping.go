package manifest

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// decoder reads one manifest and collects what is wrong with it.
type decoder struct {
	// file is relative to the packs directory, path to the pack.
	file, path string
	places     Places
	texts      Places
	errs       Errors
}

func newDecoder(folder, path string) *decoder {
	return &decoder{file: folder + "/" + path, path: path, places: Places{}, texts: Places{}}
}

// alias makes what stands under one pointer known under another as well.
func (d *decoder) alias(from, to string) {
	d.places.alias(from, to)
	d.texts.alias(from, to)
}

func (d *decoder) report(severity Severity, place Place, hint, format string, args ...any) {
	if place.File == "" {
		place.File = d.file
	}
	d.errs = append(d.errs, &Error{
		Place: place, Severity: severity, Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (d *decoder) fail(place Place, hint, format string, args ...any) {
	d.report(SeverityError, place, hint, format, args...)
}

func (d *decoder) warn(place Place, hint, format string, args ...any) {
	d.report(SeverityWarning, place, hint, format, args...)
}

// mapping gives a mapping's keys out one by one, by the table of the keys that it may have; finish tells
// the others.
type mapping struct {
	d *decoder
	v *value
	// pointer is canonical: where an alias was written, its places are known under both names.
	pointer string
	keys    []Key
	used    map[string]bool
}

func (d *decoder) mapping(v *value, pointer string, keys []Key) *mapping {
	return &mapping{d: d, v: v, pointer: pointer, keys: keys, used: map[string]bool{}}
}

// key gives the entry of the table. To ask for what is not in it is a mistake of ours that the first test
// finds.
func (o *mapping) key(name string) *Key {
	k := findKey(o.keys, name)
	if k == nil {
		panic("manifest: key " + name + " is not in its table")
	}
	return k
}

// entry is a value with the name it was written under, for messages, and its canonical pointer.
type entry struct {
	*value
	path    string
	pointer string
}

// get gives what stands under the key or one of its aliases, or nil where that is absent, null or
// told as broken already.
func (o *mapping) get(key string) *entry {
	var found *field
	k := o.key(key)
	for i := -1; i < len(k.Aliases); i++ {
		name := k.Name
		if i >= 0 {
			name = k.Aliases[i]
		}
		f := o.v.field(name)
		if f == nil {
			continue
		}
		o.used[name] = true
		switch {
		case f.value.isNull():
		case found != nil:
			o.d.fail(f.place, "keep one of them", "cannot use key %s beside %s: both mean %s",
				quoted(name), quoted(found.key), key)
		default:
			found = f
		}
	}
	if found == nil || found.value.kind == brokenValue {
		return nil
	}
	pointer := o.at(key)
	o.d.alias(o.at(found.key), pointer)
	return &entry{value: found.value, path: dotted(o.at(found.key)), pointer: pointer}
}

// at is the canonical pointer of a key.
func (o *mapping) at(key string) string { return o.pointer + "/" + escapePointer(key) }

// has says whether the key is given, be it broken.
func (o *mapping) has(keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		f := o.v.field(key)
		return f != nil && !f.value.isNull()
	})
}

// place is where the key's value stands, or else the object.
func (o *mapping) place(key string) Place {
	if f := o.v.field(key); f != nil {
		return f.value.place
	}
	return o.v.place
}

// placeOf is where the value stands that is given under any spelling of a key, or else the object.
func (o *mapping) placeOf(key string) Place {
	for _, name := range keyNames([]Key{*o.key(key)}) {
		if f := o.v.field(name); f != nil && !f.value.isNull() {
			return f.value.place
		}
	}
	return o.v.place
}

// mismatch tells a value of the wrong type.
func (d *decoder) mismatch(e *entry, expected, hint string) {
	d.fail(e.place, hint, "cannot use %s: found %s, expected %s", e.path, e.describe(), expected)
}

// str reads a text; "" where there is none.
func (o *mapping) str(key string) string {
	e := o.get(key)
	if e == nil {
		return ""
	}
	s, ok := e.scalar.(string)
	if !ok {
		hint := ""
		if e.kind == scalarValue {
			hint = "write " + strconv.Quote(e.text)
		}
		o.d.mismatch(e, "a string", hint)
	}
	return s
}

// flag reads true or false.
func (o *mapping) flag(key string) bool {
	absent := o.key(key).Default == "true"
	e := o.get(key)
	if e == nil {
		return absent
	}
	b, ok := e.scalar.(bool)
	if ok {
		return b
	}
	hint := ""
	switch s, _ := e.scalar.(string); strings.ToLower(s) {
	case "yes", "y", "on", "true":
		hint = "write true"
	case "no", "n", "off", "false":
		hint = "write false"
	}
	o.d.mismatch(e, "true or false", hint)
	return absent
}

// integer reads a whole number of 32 bits, which is what the database has, from the lowest on that its
// key allows.
func (o *mapping) integer(key string) int64 {
	low := o.key(key).shape.(integerShape).low
	e := o.get(key)
	if e == nil {
		return 0
	}
	i, ok := e.scalar.(int64)
	switch {
	case !ok:
		o.d.mismatch(e, "a whole number", "")
	case i < low:
		o.d.mismatch(e, fmt.Sprintf("at least %d", low), "")
	case i > math.MaxInt32:
		o.d.mismatch(e, fmt.Sprintf("at most %d", math.MaxInt32), "")
	default:
		return i
	}
	return 0
}

// texts reads a list of texts, each once.
func (o *mapping) texts(key string) []string {
	e := o.get(key)
	if e == nil {
		return nil
	}
	if e.kind != listValue {
		hint := ""
		if s, ok := e.scalar.(string); ok && !strings.Contains(s, ",") {
			hint = fmt.Sprintf("write [%s]", s)
		}
		o.d.mismatch(e, "a list", hint)
		return nil
	}
	var list []string
	for i, item := range e.items {
		s, ok := item.scalar.(string)
		if !ok {
			hint := ""
			if item.kind == scalarValue && !item.isNull() {
				hint = "write " + strconv.Quote(item.text)
			}
			o.d.mismatch(&entry{value: item, path: e.path + "." + strconv.Itoa(i)}, "a string", hint)
			continue
		}
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// duration reads a time span, above zero unless its key allows that.
func (o *mapping) duration(key string) Duration {
	k := o.key(key)
	lowest, hint := Duration(1), "leave it out for the default"
	if k.shape.(durationShape).zero {
		lowest = 0
	}
	if k.Required {
		hint = ""
	}
	e := o.get(key)
	if e == nil {
		return 0
	}
	var text string
	switch s := e.scalar.(type) {
	case string:
		text = s
	case int64, float64:
		text = e.text
	}
	d, err := parseDuration(text)
	switch {
	case errors.Is(err, errTooLong):
		o.d.mismatch(e, "at most 292 years", "")
		return 0
	case err != nil:
		o.d.mismatch(e, "seconds or a duration like 1m30s", "")
		return 0
	case d < lowest && lowest > 0:
		o.d.mismatch(e, "more than 0", hint)
		return 0
	case d < lowest:
		o.d.mismatch(e, "0 or more", "")
		return 0
	}
	return d
}

// choice reads one of the words of its key and gives what it means.
func (o *mapping) choice(key string) string {
	words := o.key(key).shape.(choiceShape).words
	e := o.get(key)
	if e == nil {
		return ""
	}
	s, isText := e.scalar.(string)
	if word, ok := words[s]; ok && isText {
		return word
	}
	names := slices.Sorted(maps.Keys(words))
	o.d.mismatch(e, orList(names), didYouMean(s, names))
	return ""
}

// words makes the table for choice of words that mean themselves. The first is the default and
// becomes "", so that writing it and leaving it out are one.
func words(list ...string) map[string]string {
	m := map[string]string{list[0]: ""}
	for _, word := range list[1:] {
		m[word] = word
	}
	return m
}

// child reads a mapping with keys of its own; nil where there is none.
func (o *mapping) child(key string) *mapping {
	e := o.get(key)
	if e == nil {
		return nil
	}
	if e.kind != mappingValue {
		o.d.mismatch(e, "a mapping", "")
		return nil
	}
	return o.d.mapping(e.value, e.pointer, subKeys(o.key(key).shape))
}

// tree reads a mapping that is kept as it is; nil where there is none or it is empty.
func (o *mapping) tree(key string) map[string]any {
	e := o.get(key)
	if e == nil {
		return nil
	}
	if e.kind != mappingValue {
		o.d.mismatch(e, "a mapping", "")
		return nil
	}
	if len(e.fields) == 0 {
		return nil
	}
	return e.plain().(map[string]any)
}

// schema reads a schema in either form; open says whether unlisted properties are allowed.
func (o *mapping) schema(key string, open bool) *Schema {
	e := o.get(key)
	if e == nil {
		return nil
	}
	if e.kind != mappingValue {
		o.d.mismatch(e, "a schema", "")
		return nil
	}
	return o.d.schema(e.plain(), open, e.path, func(pointer string) Place { return o.d.places.At(e.pointer + pointer) })
}

// schema makes a schema of a plain tree; at gives the place of a pointer into it.
func (d *decoder) schema(doc any, open bool, path string, at func(pointer string) Place) *Schema {
	if m, ok := doc.(map[string]any); ok && len(m) == 0 {
		return nil // `{}` and absence mean the same
	}
	s, problems, warnings := newSchema(doc, open)
	for _, p := range problems {
		d.fail(at(p.Pointer), "", "cannot use %s: %s", dottedBelow(path, p.Pointer), p.Message)
	}
	for _, w := range warnings {
		d.warn(at(w.Pointer), "", "cannot use %s: %s", dottedBelow(path, w.Pointer), w.Message)
	}
	return s
}

// dottedBelow names what a pointer into a value means, when path names the value.
func dottedBelow(path, pointer string) string {
	if pointer == "" {
		return path
	}
	return path + "." + dotted(pointer)
}

// meantKeys are the words that newcomers from elsewhere use for a key, too far from it to be a slip.
var meantKeys = map[string]string{
	"runner": "runner_type", "runtime": "runner_type", "params": "parameters", "input_schema": "parameters",
	"script": "entry_point", "command": "entry_point", "environment": "env", "retries": "retry",
	"condition": "when", "if": "when", "schema": "parameters_schema", "disabled": "enabled",
	"open_files": "nofile", "file_size": "fsize", "attempts": "max_attempts",
	"limit": "max", "count": "max", "rate": "max", "period": "per", "group_by": "key", "by": "key", "within": "window",
	"ttl": "window", "cooldown": "pause", "reset": "pause", "wait": "window",
}

// commaHint is for what looks like the second half of a sentence: in {a: b, c} the c is a key.
const commaHint = "quote the text before it: between { and }, a comma begins a new key"

// isProse says whether a key has more than one word.
func isProse(key string) bool { return strings.ContainsRune(strings.TrimSpace(key), ' ') }

// finish tells the keys that nobody asked for.
func (o *mapping) finish() {
	for _, f := range o.v.fields {
		if o.used[f.key] {
			continue
		}
		if slices.Contains(notEnforced, f.key) {
			o.d.warnNotEnforced(f)
			continue
		}
		known := keyNames(o.keys)
		if f.value.isNull() && slices.Contains(known, f.key) {
			continue // absent, and so not asked for
		}
		hint := didYouMean(f.key, known)
		if meant := meantKeys[f.key]; hint == "" && slices.Contains(known, meant) {
			hint = didYouMean(meant, []string{meant})
		}
		if f.value.isNull() && isProse(f.key) {
			hint = commaHint
		}
		const most = 8 // a longer list is no help
		expected := ""
		if hint == "" && len(known) <= most {
			slices.Sort(known)
			expected = ", expected " + orList(known)
		}
		o.d.warn(f.place, hint, "cannot use key %s: unknown%s", quoted(f.key), expected)
	}
}

// keep takes the keys that are kept untouched: those of the table, and all of x-*.
func (o *mapping) keep() map[string]any {
	var extra map[string]any
	for _, f := range o.v.fields {
		if k := findKey(o.keys, f.key); !strings.HasPrefix(f.key, "x-") && (k == nil || k.shape != shape(keptShape{})) {
			continue
		}
		o.used[f.key] = true
		if f.value.isNull() || f.value.kind == brokenValue {
			continue
		}
		if extra == nil {
			extra = map[string]any{}
		}
		extra[f.key] = f.value.plain()
	}
	return extra
}
