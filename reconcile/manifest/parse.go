package manifest

import (
	"cmp"
	"fmt"
	slashpath "path"
	"regexp"
	"slices"
	"strings"
)

// Caps on one manifest, against files that were made to hurt.
const (
	MaxFileSize = 1 << 20 // bytes
	MaxDepth    = 64      // nested nodes
	MaxNodes    = 20_000  // nodes, each expansion of an alias counted
	maxParts    = 40_000  // lines and commas; texts have them too
)

// The manifests that are no component.
const (
	packFile         = "pack.yaml"
	configSchemaFile = "config.schema.yaml"
)

// File is a file of a pack as the scan found it.
type File struct {
	// Content is set for manifests only (IsManifest); nil for all others.
	Content    []byte
	Executable bool
	// Problem says why a manifest could not be read (too large, not a regular file, no permission);
	// it becomes an error at that file.
	Problem string
}

// IsManifest says whether the file at this path inside a pack is read by Parse: pack.yaml,
// config.schema.yaml, and *.yaml or *.yml directly in actions/, triggers/, sensors/ and rules/.
func IsManifest(path string) bool {
	if path == packFile || path == configSchemaFile {
		return true
	}
	_, ok := manifestKind(path)
	return ok
}

// manifestKind tells the kind of component that a manifest at this path describes.
func manifestKind(file string) (Kind, bool) {
	folder, name := slashpath.Split(file)
	for _, kind := range ComponentKinds() {
		if folder == kind.Folder()+"/" && isManifestName(name) && !isLeaving(name) {
			return kind, true
		}
	}
	return "", false
}

func isManifestName(name string) bool {
	return strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

// isLeaving tells what editors leave beside a file, which is nobody's manifest or script.
func isLeaving(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") ||
		strings.HasSuffix(name, ".swp") || strings.HasSuffix(name, ".bak") || strings.HasSuffix(name, ".tmp") ||
		strings.HasSuffix(name, ".orig") || strings.HasSuffix(name, ".pyc")
}

// Bundle is one pack as parsed: what could be understood, and what could not.
type Bundle struct {
	// Folder is the pack's folder name, and so the ref that it should have.
	Folder string
	// Pack is nil when pack.yaml is broken or absent: then the whole pack is held. Its components are
	// listed nevertheless, so that everything wrong is told at once.
	Pack     *Pack
	Actions  []*Action
	Triggers []*Trigger
	Sensors  []*Sensor
	Rules    []*Rule
	// Broken are the manifests that were refused, by Parse or by Check.
	Broken []Broken
	// Errors are the findings, sorted, warnings included.
	Errors Errors
}

// Broken is a manifest that was refused. Ref is empty when not even that could be read; whoever
// knows which component came from File last time keeps that one.
type Broken struct {
	Kind Kind
	File string // inside the pack
	Ref  string
}

// Components lists the accepted components, in the order of ComponentKinds, each kind by ref.
func (b *Bundle) Components() []Component {
	var all []Component
	for _, c := range b.Triggers {
		all = append(all, c)
	}
	for _, c := range b.Actions {
		all = append(all, c)
	}
	for _, c := range b.Sensors {
		all = append(all, c)
	}
	for _, c := range b.Rules {
		all = append(all, c)
	}
	order := func(c Component) int { return slices.Index(ComponentKinds(), c.Kind()) }
	slices.SortStableFunc(all, func(a, b Component) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Head().Ref, b.Head().Ref))
	})
	return all
}

// add puts a component into the list of its kind.
func (b *Bundle) add(c Component) {
	switch c := c.(type) {
	case *Action:
		b.Actions = append(b.Actions, c)
	case *Trigger:
		b.Triggers = append(b.Triggers, c)
	case *Sensor:
		b.Sensors = append(b.Sensors, c)
	case *Rule:
		b.Rules = append(b.Rules, c)
	}
}

// refuse moves the component of a manifest from the lists to Broken.
func (b *Bundle) refuse(c Component) {
	switch c := c.(type) {
	case *Action:
		b.Actions = without(b.Actions, c)
	case *Trigger:
		b.Triggers = without(b.Triggers, c)
	case *Sensor:
		b.Sensors = without(b.Sensors, c)
	case *Rule:
		b.Rules = without(b.Rules, c)
	}
	b.Broken = append(b.Broken, Broken{Kind: c.Kind(), File: c.Head().File, Ref: c.Head().Ref})
}

func without[T comparable](list []T, one T) []T {
	return slices.DeleteFunc(list, func(other T) bool { return other == one })
}

// refusePack holds the whole pack.
func (b *Bundle) refusePack() {
	b.Pack = nil
	if !slices.ContainsFunc(b.Broken, func(x Broken) bool { return x.Kind == KindPack }) {
		b.Broken = append(b.Broken, Broken{Kind: KindPack, File: packFile, Ref: b.Folder})
	}
}

// tidy puts the findings and the refused into their order.
func (b *Bundle) tidy() {
	b.Errors.Sort()
	order := append([]Kind{KindPack}, ComponentKinds()...)
	slices.SortFunc(b.Broken, func(x, y Broken) int {
		return cmp.Or(cmp.Compare(slices.Index(order, x.Kind), slices.Index(order, y.Kind)), cmp.Compare(x.File, y.File))
	})
}

// Parse reads the manifests of one pack. It is a pure function of its input: no clock, no
// environment, no file. files has every file of the pack by its slash path inside it. All findings
// are told at once, in Bundle.Errors.
func Parse(folder string, files map[string]File) *Bundle {
	p := &packParser{bundle: &Bundle{Folder: folder}, files: files, found: map[Kind][]found{}}
	if _, ok := files[packFile]; !ok {
		p.noPack()
		return p.bundle
	}
	src := &source{pack: p.packFile(), files: files, runtimes: map[string]string{}}
	if pack := p.bundle.Pack; pack != nil {
		for _, r := range pack.RuntimeDeps {
			src.runtimes[r.Ref] = r.Version
		}
	}
	for _, file := range sortedKeys(files) {
		if kind, ok := manifestKind(file); ok {
			p.component(kind, file, src)
		}
	}
	for _, kind := range ComponentKinds() {
		p.clashes(kind)
	}
	p.unusedFolders()
	p.bundle.tidy()
	return p.bundle
}

// packParser is one pack being parsed.
type packParser struct {
	bundle *Bundle
	files  map[string]File
	// found has every manifest of a kind whose ref could be read, accepted or not.
	found map[Kind][]found
}

// found is a manifest with its ref and where it says so.
type found struct {
	ref       string
	place     Place
	file      string
	component Component // nil when it was refused already
}

// noPack tells a folder that is no pack.
func (p *packParser) noPack() {
	hint := "add one with ref, label and version, or move the folder away"
	if _, ok := p.files["pack.yml"]; ok {
		hint = "rename pack.yml to pack.yaml"
	}
	p.bundle.Errors = Errors{{
		Place: Place{File: p.bundle.Folder}, Severity: SeverityWarning, Kind: KindPack, Ref: p.bundle.Folder,
		Message: "cannot load this folder as a pack: it has no pack.yaml", Hint: hint,
	}}
}

// read gives the tree of a manifest; nil after a finding in d.
func (p *packParser) read(d *decoder) *value {
	f := p.files[d.path]
	if f.Problem != "" {
		d.fail(Place{}, "", "cannot read the manifest: %s", f.Problem)
		return nil
	}
	v, errs := readYAML(d.file, f.Content)
	d.errs = append(d.errs, errs...)
	if v != nil {
		v.register(d.places, d.texts, "")
	}
	return v
}

// tell adds the findings of a manifest to the bundle's.
func (p *packParser) tell(d *decoder, kind Kind, ref string) {
	for _, e := range d.errs {
		e.Kind, e.Ref = kind, ref
	}
	p.bundle.Errors = append(p.bundle.Errors, d.errs.limit()...)
}

// packFile reads pack.yaml and config.schema.yaml, and gives the ref that components belong to.
func (p *packParser) packFile() string {
	d := newDecoder(p.bundle.Folder, packFile)
	if !packRefPattern.MatchString(p.bundle.Folder) {
		d.fail(Place{File: p.bundle.Folder}, "rename the folder",
			"cannot use folder name %s as a pack's ref: expected %s", quoted(p.bundle.Folder), packRefRule)
	}
	schema := p.configSchema(d)
	ref := p.bundle.Folder
	var pack *Pack
	if v := p.read(d); v != nil {
		pack = d.pack(v, p.bundle.Folder, schema)
		if packRefPattern.MatchString(pack.Ref) {
			// The components of a misnamed pack are judged by the name it gives itself: one mistake is
			// one finding, not one for each component.
			ref = pack.Ref
		}
	}
	if d.errs.HasErrors() {
		p.bundle.refusePack()
	} else {
		p.bundle.Pack = pack
	}
	p.tell(d, KindPack, ref)
	return ref
}

// configSchema reads config.schema.yaml where it is there.
func (p *packParser) configSchema(d *decoder) *value {
	if _, ok := p.files[configSchemaFile]; !ok {
		return nil
	}
	own := newDecoder(p.bundle.Folder, configSchemaFile)
	root := p.read(own)
	d.errs = append(d.errs, own.errs...)
	return root
}

// component reads one manifest. What is wrong with it harms no other.
func (p *packParser) component(kind Kind, file string, src *source) {
	d := newDecoder(p.bundle.Folder, file)
	v := p.read(d)
	var c Component
	if v != nil {
		c = d.component(kind, v, src)
	}
	one := found{file: file, place: Place{File: d.file, Line: 1, Col: 1}}
	if c == nil {
		one.ref = guessRef(p.files[file].Content, src.pack)
	} else {
		one.ref = c.Head().Ref
		one.place = refPlace(v)
	}
	if c == nil || d.errs.HasErrors() {
		p.bundle.Broken = append(p.bundle.Broken, Broken{Kind: kind, File: file, Ref: one.ref})
	} else {
		one.component = c
		p.bundle.add(c)
	}
	if one.ref != "" {
		p.found[kind] = append(p.found[kind], one)
	}
	p.tell(d, kind, one.ref)
}

func (d *decoder) component(kind Kind, v *value, src *source) Component {
	switch kind {
	case KindAction:
		return d.action(v, src)
	case KindTrigger:
		return d.trigger(v, src)
	case KindSensor:
		return d.sensor(v, src)
	case KindRule:
		return d.rule(v, src)
	default:
		panic("manifest: no manifest of kind " + string(kind))
	}
}

// refPlace is where a manifest says its ref.
func refPlace(v *value) Place {
	for _, key := range []string{"ref", "name"} {
		if f := v.field(key); f != nil {
			return f.value.place
		}
	}
	return v.place
}

var topLevelName = regexp.MustCompile(`(?m)^(ref|name):[ \t]+["']?([A-Za-z0-9_][A-Za-z0-9_.-]*)["']?[ \t]*(?:#.*)?\r?$`)

// guessRef finds the ref in a manifest that is no YAML, so that the version in force can be told and
// kept; "" where it does not say.
func guessRef(content []byte, pack string) string {
	if len(content) > MaxFileSize {
		return ""
	}
	said := map[string]string{}
	for _, m := range topLevelName.FindAllSubmatch(content, -1) {
		if _, again := said[string(m[1])]; !again {
			said[string(m[1])] = string(m[2])
		}
	}
	if refPack, name := SplitRef(said["ref"]); name != "" {
		if refPack != "" && refPack != pack {
			return ""
		}
		return pack + "." + name
	}
	if name := strings.TrimPrefix(said["name"], pack+"."); name != "" {
		return pack + "." + name
	}
	return ""
}

// clashes refuses components of one kind whose refs are the same, or differ only in case: whichever
// won, it would be by chance. What is in force stays.
func (p *packParser) clashes(kind Kind) {
	groups := map[string][]found{}
	for _, one := range p.found[kind] {
		key := strings.ToLower(one.ref)
		groups[key] = append(groups[key], one)
	}
	for _, key := range sortedKeys(groups) {
		group := groups[key]
		if len(group) < 2 {
			continue
		}
		for i, one := range group {
			other := group[(i+1)%len(group)]
			message := fmt.Sprintf("cannot use ref %q: %s has it too", one.ref, other.place)
			if other.ref != one.ref {
				message = fmt.Sprintf("cannot use ref %q: %s has %q, which differs only in case", one.ref, other.place, other.ref)
			}
			p.bundle.Errors = append(p.bundle.Errors, &Error{
				Place: one.place, Severity: SeverityError, Ref: one.ref, Kind: kind, Message: message,
				Hint: "rename one of them; what is in force stays until then",
			})
			if one.component != nil {
				p.bundle.refuse(one.component)
			}
		}
	}
}

// unusedFolders tells the folders of other systems once each: what lies there would be missed.
func (p *packParser) unusedFolders() {
	seen := map[string]bool{}
	for file := range p.files {
		folder, _, _ := strings.Cut(file, "/")
		if folder != file {
			seen[folder] = true
		}
	}
	for _, folder := range []string{"workflows", "policies", "aliases", "permission_sets", "runtimes", "queues"} {
		if seen[folder] {
			p.bundle.Errors = append(p.bundle.Errors, &Error{
				Place: Place{File: p.bundle.Folder + "/" + folder}, Severity: SeverityWarning, Kind: KindPack, Ref: p.bundle.Folder,
				Message: fmt.Sprintf("cannot use folder %s: it is kept, but nothing in it is used", folder),
			})
		}
	}
}
