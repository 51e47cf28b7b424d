package manifest

import (
	slashpath "path"
	"regexp"
	"strings"
)

var (
	packRefPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	namePattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// What the patterns say, for messages.
const (
	packRefRule = "lower-case letters, digits, _ and -"
	nameRule    = "letters, digits, _, . and -"
)

// SplitRef parts a ref at its first dot into pack and name; a ref without a dot has no pack.
func SplitRef(ref string) (pack, name string) {
	pack, name, found := strings.Cut(ref, ".")
	if !found {
		return "", ref
	}
	return pack, name
}

// header reads what every component has. The ref in it is as good as it could be read, also where
// there are errors, so that the version in force can be kept.
func (d *decoder) header(o *mapping, pack string) Header {
	h := Header{
		Pack:        pack,
		Label:       o.str("label"),
		Description: o.str("description"),
		Enabled:     o.flag("enabled"),
		Tags:        o.texts("tags"),
		Extra:       o.keep(),
		File:        d.path,
		Places:      d.places,
		Texts:       d.texts,
	}
	for _, key := range []string{"pack", "pack_ref"} {
		if said := o.str(key); said != "" && said != pack {
			d.fail(o.place(key), "remove it", "cannot use %s %s: this is in pack %s", key, quoted(said), quoted(pack))
		}
	}
	h.Name = d.name(o, pack)
	if h.Name != "" {
		h.Ref = pack + "." + h.Name
	}
	return h
}

// name finds the component's name in name, ref or the file's name, in this order, and says where they
// disagree; "" where none will do.
func (d *decoder) name(o *mapping, pack string) string {
	name, ref := o.str("name"), o.str("ref")
	// Some write the whole ref where the name belongs; a name that begins with its pack is no use.
	name = strings.TrimPrefix(name, pack+".")
	from := "name"
	if ref != "" {
		refPack, refName := SplitRef(ref)
		switch {
		case refPack != "" && refPack != pack:
			d.fail(o.place("ref"), "write "+quoted(pack+"."+refName),
				"cannot use ref %s: a component belongs to the pack of its folder, %s", quoted(ref), quoted(pack))
			return ""
		case name != "" && name != refName:
			d.fail(o.place("name"), "keep one of them, or make them alike",
				"cannot use name %s: ref says %s", quoted(name), quoted(ref))
		}
		name, from = refName, "ref"
	}
	if ref == "" && name == "" {
		if o.has("name") && o.v.field("name").value.scalar != "" || o.has("ref") && o.v.field("ref").value.scalar != "" {
			return "" // it is there, unreadable, and told
		}
		name, from = strings.TrimSuffix(slashpath.Base(d.path), slashpath.Ext(d.path)), "file name"
	}
	if !namePattern.MatchString(name) {
		hint := ""
		if from == "name" && !o.has("label") && strings.Contains(name, " ") {
			hint = "put it under label"
		}
		d.fail(o.place(from), hint, "cannot use %s %s: expected %s", from, quoted(name), nameRule)
		return ""
	}
	return name
}

// reference reads a ref that may leave out its own pack.
func (d *decoder) reference(e *entry, pack string) string {
	ref, ok := e.scalar.(string)
	if !ok {
		d.mismatch(e, "a ref like \"pack.name\"", "")
		return ""
	}
	refPack, name := SplitRef(ref)
	if refPack == "" {
		refPack = pack
	}
	if !packRefPattern.MatchString(refPack) || !namePattern.MatchString(name) {
		d.mismatch(e, "a ref like \"pack.name\"", "")
		return ""
	}
	return refPack + "." + name
}

// CheckPackRef says what is wrong with a name for a pack.
func CheckPackRef(ref string) error {
	if !packRefPattern.MatchString(ref) {
		return errorf("expected %s, the first a letter or a digit", packRefRule)
	}
	return nil
}

// NearPackRef gives the name for a pack that is nearest to a text; "" where nothing is left of it.
func NearPackRef(text string) string {
	near := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r == ' ', r == '.', r == '/':
			return '_'
		}
		return -1
	}, text)
	return strings.Trim(near, "_-")
}
