package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// parseRequirement reads "core", "core >= 1.2, < 3", "core@1.2" or "core ^1.2".
func parseRequirement(text string) (Requirement, error) {
	text = strings.TrimSpace(text)
	ref, versions := text, ""
	if i := strings.IndexAny(text, " \t@<>=!~^"); i >= 0 {
		ref, versions = text[:i], strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text[i:]), "@"))
	}
	if ref == "" {
		return Requirement{}, errorf("expected a ref and perhaps a range, like \"core >= 1.2\"")
	}
	versions = strings.Join(strings.Fields(versions), " ")
	if err := checkRange(versions); err != nil {
		return Requirement{}, err
	}
	return Requirement{Ref: ref, Version: versions}, nil
}

// checkRange says what is wrong with a semver range; an empty one is any version.
func checkRange(versions string) error {
	if versions == "" {
		return nil
	}
	const longest = 200 // bytes; real ranges have some twenty
	if len(versions) > longest {
		return errorf("a range has at most %d characters", longest)
	}
	if _, err := semver.NewConstraint(versions); err != nil {
		return errorf("expected a range like \">= 1.2, < 3\"")
	}
	return nil
}

// satisfies says whether a version lies in a range. A pre-release counts as what comes just before
// its release: the folder holds that version and no other, so refusing it would help nobody.
func satisfies(version, versions string) bool {
	if versions == "" {
		return true
	}
	v, err := semver.NewVersion(version)
	if err != nil {
		return false
	}
	c, err := semver.NewConstraint(versions)
	if err != nil {
		return false
	}
	c.IncludePrerelease = true
	return c.Check(v)
}

// versions reads a semver range; "" where there is none or it is wrong.
func (o *mapping) versions(key string) string {
	e := o.get(key)
	if e == nil {
		return ""
	}
	s, ok := e.scalar.(string)
	if !ok {
		hint := ""
		if e.kind == scalarValue {
			hint = fmt.Sprintf("write \">= %s\"", e.text)
		}
		o.d.mismatch(e, "a range in quotes", hint)
		return ""
	}
	s = strings.Join(strings.Fields(s), " ")
	if err := checkRange(s); err != nil {
		o.d.fail(e.place, "", "cannot use %s: found %s: %v", e.path, quoted(s), err)
		return ""
	}
	return s
}

// version reads the pack's own version.
func (o *mapping) version(key string) string {
	const start = "0.0.0"
	e := o.get(key)
	if e == nil {
		if !o.has(key) {
			o.d.warn(o.v.place, `add version: "0.1.0"`, "cannot find the pack's version: taken as %s", start)
		}
		return start
	}
	s, ok := e.scalar.(string)
	if !ok {
		hint := ""
		if full := completeVersion(e.text); e.kind == scalarValue && full != e.text {
			hint = fmt.Sprintf("write %q", full)
		}
		o.d.mismatch(e, "a version in quotes", hint)
		return start
	}
	if _, err := semver.StrictNewVersion(s); err != nil {
		hint := `write it like "1.2.0"`
		if full := completeVersion(s); full != s {
			hint = fmt.Sprintf("write %q", full)
		}
		o.d.mismatch(e, "a semantic version", hint)
		return start
	}
	return s
}

// completeVersion makes 1.2 and v1.2 what semver wants, "1.2.0"; what it cannot read it gives back.
func completeVersion(text string) string {
	v, err := semver.NewVersion(text)
	if err != nil {
		return text
	}
	return v.String()
}

// dependencies reads the packs that this one needs, in all their spellings, and the daemon's version
// that may stand among them.
func (d *decoder) dependencies(o *mapping, p *Pack) {
	e := o.get("dependencies")
	if e == nil {
		return
	}
	list := e
	if e.kind == mappingValue {
		m := d.mapping(e.value, e.pointer, dependencyKeys)
		if own := m.versions("attune_version"); own != "" {
			if p.Attune != "" && p.Attune != own {
				d.fail(m.place("attune_version"), "keep one of them",
					"cannot use %s.attune_version: attune says %s", e.path, quoted(p.Attune))
			}
			p.Attune = own
		}
		list = m.get("packs")
		m.finish()
		if list == nil {
			return
		}
	}
	if list.kind != listValue {
		d.mismatch(list, "a list", `write a list like ["core >= 1.2"]`)
		return
	}
	p.Dependencies = d.requirements(list, "/dependencies", packRequirement)
}

// runtimeDeps reads the runtimes that the pack needs.
func (d *decoder) runtimeDeps(o *mapping, p *Pack) {
	e := o.get("runtime_deps")
	if e == nil {
		return
	}
	if e.kind != listValue {
		d.mismatch(e, "a list", `write a list like ["python3 >= 3.8"]`)
		return
	}
	p.RuntimeDeps = d.requirements(e, "/runtime_deps", runtimeRequirement)
}

// requirements reads a list of requirements, sorted by ref: their order means nothing. Each gets a
// place under the pointer and its ref. name makes a ref canonical, or gives a reason and a hint.
func (d *decoder) requirements(
	list *entry, under string, name func(ref string) (canonical, problem, hint string),
) []Requirement {
	var all []Requirement
	for i, item := range list.items {
		pointer := fmt.Sprintf("%s/%d", list.pointer, i)
		e := &entry{value: item, path: fmt.Sprintf("%s.%d", list.path, i), pointer: pointer}
		r, ok := d.requirement(e)
		if !ok {
			continue
		}
		canonical, problem, hint := name(r.Ref)
		if problem != "" {
			d.fail(item.place, hint, "cannot use %s: found %s, %s", e.path, quoted(r.Ref), problem)
			continue
		}
		r.Ref = canonical
		if slices.ContainsFunc(all, func(other Requirement) bool { return other.Ref == r.Ref }) {
			d.fail(item.place, "join the ranges with a comma", "cannot use %s: %s is listed twice", e.path, quoted(r.Ref))
			continue
		}
		d.places[under+"/"+escapePointer(r.Ref)] = item.place
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Requirement) int { return strings.Compare(a.Ref, b.Ref) })
	return all
}

// requirement reads one requirement, a text or {ref, version}.
func (d *decoder) requirement(e *entry) (Requirement, bool) {
	if e.kind == mappingValue {
		before := len(d.errs)
		o := d.mapping(e.value, e.pointer, requirementKeys)
		r := Requirement{Ref: o.str("ref"), Version: o.versions("version")}
		o.finish()
		if d.errs[before:].HasErrors() {
			return r, false
		}
		if r.Ref == "" {
			d.fail(e.place, "write {ref: core, version: \">= 1.2\"}", "cannot use %s: it has no ref", e.path)
			return r, false
		}
		return r, true
	}
	text, ok := e.scalar.(string)
	if !ok {
		d.mismatch(e, "a text like \"core >= 1.2\"", "")
		return Requirement{}, false
	}
	if isURL(text) {
		d.fail(e.place, "put that pack's folder beside this one, and name it by its ref",
			"cannot use %s: found the address %s, expected a ref", e.path, quoted(text))
		return Requirement{}, false
	}
	r, err := parseRequirement(text)
	if err != nil {
		d.fail(e.place, "", "cannot use %s: found %s: %v", e.path, quoted(text), err)
		return Requirement{}, false
	}
	return r, true
}

func isURL(text string) bool {
	return strings.Contains(text, "://") || strings.HasPrefix(text, "git@") ||
		strings.HasSuffix(text, ".git") || strings.Contains(text, "/")
}

func packRequirement(ref string) (canonical, problem, hint string) {
	switch {
	case isURL(ref):
		return "", "expected a ref", "put that pack's folder beside this one, and name it by its ref"
	case !packRefPattern.MatchString(ref):
		return "", "expected " + packRefRule, ""
	}
	return ref, "", ""
}

func runtimeRequirement(ref string) (canonical, problem, hint string) {
	runtime, _, ok := resolveRuntime(ref)
	if !ok {
		return "", "expected a runtime: " + orList(runtimeWords()), wayToGo(ref)
	}
	return runtime, "", ""
}
