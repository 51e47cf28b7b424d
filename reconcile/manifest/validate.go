package manifest

import (
	"fmt"
	slashpath "path"
	"slices"
	"strings"
	"time"
)

// Environment is what only the machine knows, asked while checking.
type Environment interface {
	// Runtime says whether an interpreter of the runtime is there whose version satisfies the semver
	// range (empty: any). interpreter is "bash" or "sh" for the shell and empty else. The error's
	// text says what is missing and what would do.
	Runtime(runtime, interpreter, versions string) error
	// EntryPoint checks a script before its first start: missing, outside the pack, CRLF, empty, a
	// shebang that names another interpreter, the x bit for native. pack is the folder's name and
	// path is inside the pack ("actions/echo.sh"). It gives findings without Place.
	EntryPoint(pack, path string, r Runner) []*Error
	// IgnoresStdin says that a script surely reads nothing from stdin: no word of it does, and no other
	// file that it may use is known.
	IgnoresStdin(pack, path string, r Runner) bool
	// Schedule checks the parameters of a timer trigger (type interval, cron or datetime) and gives
	// the name of the parameter that is wrong with the error.
	Schedule(triggerType string, parameters map[string]any) (parameter string, err error)
}

// CheckOptions are what Check knows beside the files.
type CheckOptions struct {
	// InForce are the components that the database has in force now; nil for lint.
	InForce *Set
	// Config is [packs.config], by pack ref.
	Config map[string]map[string]any
	// ConfigPlace gives where the operator wrote a key of [packs.config.<pack>]; nil, or a zero Place:
	// nobody knows.
	ConfigPlace func(pack, key string) Place
	// Refused gives, of packs that are not among the bundles, the file of each manifest that was refused when
	// its pack was last checked, by kind and ref. What is found about a bundle must not depend on which others
	// are checked with it. It is asked only where something is missing; nil: there are no other packs.
	Refused func() map[Kind]map[string]string
	// SwitchedOff tells who has switched a component off, or its pack, whatever the files say, and what
	// takes that back; empty: nobody has. nil: there are no operators.
	SwitchedOff func(kind Kind, ref string) (why, wayBack string)
	// Environment may be nil: then what it would tell is not checked.
	Environment Environment
	// Seals says why nothing secret could be encrypted to be stored; nil: it could be, or nothing is stored.
	Seals func() error
	// Version is the daemon's own version, for a pack's `attune` range. Without numbers, as a build from
	// sources may have it, it is not checked.
	Version string
	// Now is the time against which a fire_at is judged to be past; zero: not judged.
	Now time.Time
	// Strict makes every warning an error.
	Strict bool
}

// Check validates bundles against each other and against what is in force: dependencies and cycles,
// runtimes, entry points, that a sensor's triggers and a rule's trigger and actions exist, and the
// rule's are enabled, that parameters and configuration fit their schemas, that expressions compile
// against the payload schema, that schedules are valid. What is refused moves from the bundle's lists to Broken, with its error;
// a component that names one whose new version was refused is checked against the version in force.
// The bundles' Errors end sorted.
//
// A component or pack that is switched off is refused for none of this, only warned about: else it
// could not be switched off once what it needs is gone.
func Check(bundles []*Bundle, opts CheckOptions) {
	if opts.InForce == nil {
		opts.InForce = NewSet()
	}
	c := &crossCheck{
		bundles: bundles, opts: opts, byFolder: map[string]*Bundle{}, settled: map[string]bool{},
		packRefused: map[string]bool{}, broken: map[Kind]map[string]string{},
	}
	for _, b := range bundles {
		c.byFolder[b.Folder] = b
		if opts.Strict {
			for _, e := range b.Errors {
				e.Severity = SeverityError
			}
		}
	}
	c.packs()
	c.world = c.startingWorld()
	for _, kind := range ComponentKinds() {
		for _, b := range bundles {
			for _, component := range ofKind(b, kind) {
				c.component(b, component)
			}
		}
	}
	for _, b := range bundles {
		b.tidy()
	}
}

// crossCheck is one run of Check. Kinds are checked in the order in which they name each other, so what
// a component names is settled before it.
type crossCheck struct {
	bundles  []*Bundle
	opts     CheckOptions
	byFolder map[string]*Bundle
	// world is what will be there: accepted components, and those in force of what is held.
	world *Set
	// broken has the file of each refused component whose ref is known, for messages; elsewhere has those of
	// packs that are not among the bundles, once it was asked for.
	broken    map[Kind]map[string]string
	elsewhere map[Kind]map[string]string
	// compiler is of all rules; nil: there was none yet.
	compiler *Compiler

	settled     map[string]bool
	packRefused map[string]bool
}

func ofKind(b *Bundle, kind Kind) []Component {
	return slices.DeleteFunc(b.Components(), func(c Component) bool { return c.Kind() != kind })
}

// report adds a finding to a bundle and says whether it is an error in the end.
func (c *crossCheck) report(b *Bundle, e *Error) {
	if c.opts.Strict {
		e.Severity = SeverityError
	}
	b.Errors = append(b.Errors, e)
}

// packError tells that a pack cannot be loaded. One that is switched off is only warned about.
func (c *crossCheck) packError(b *Bundle, place Place, hint, format string, args ...any) {
	severity := SeverityError
	if b.Pack != nil && !b.Pack.Enabled && !c.opts.Strict {
		severity = SeverityWarning
	}
	c.report(b, &Error{
		Place: orFile(place, b.Folder, packFile), Severity: severity, Kind: KindPack, Ref: b.Folder,
		Message: fmt.Sprintf(format, args...), Hint: hint,
	})
	if severity == SeverityError {
		c.packRefused[b.Folder] = true
	}
}

func orFile(place Place, folder, file string) Place {
	if place.File == "" {
		place.File = folder + "/" + file
	}
	return place
}

// packs checks everything that holds a whole pack.
func (c *crossCheck) packs() {
	for _, b := range c.bundles {
		if b.Pack == nil {
			continue
		}
		for _, e := range b.Errors {
			// Under Strict, what was a warning of pack.yaml counts.
			if e.Severity == SeverityError && (e.File == b.Folder+"/"+packFile || e.File == b.Folder+"/"+configSchemaFile) {
				c.packRefused[b.Folder] = true
			}
		}
		c.packVersion(b)
		c.packConfig(b)
		c.packRuntimes(b)
	}
	c.packDependencies()
	for _, b := range c.bundles {
		if c.packRefused[b.Folder] {
			b.refusePack()
		}
	}
}

func (c *crossCheck) packVersion(b *Bundle) {
	if !strings.Contains(c.opts.Version, ".") || satisfies(c.opts.Version, b.Pack.Attune) {
		return
	}
	place := b.Pack.Places.At("/attune")
	if _, ok := b.Pack.Places["/attune"]; !ok {
		place = b.Pack.Places.At("/dependencies/attune_version")
	}
	c.packError(b, place, "update Attune, or take a version of the pack that goes with this one",
		"cannot load pack %q: it needs attune %s, found %s", b.Folder, b.Pack.Attune, c.opts.Version)
}

// packConfig checks the pack's own configuration and the operator's over it against conf_schema.
func (c *crossCheck) packConfig(b *Bundle) {
	for _, f := range ConfigFindings(b, c.opts.Config[b.Folder], c.opts.ConfigPlace) {
		if f.Severity == SeverityWarning {
			c.report(b, f)
			continue
		}
		c.packError(b, f.Place, f.Hint, "%s", f.Message)
	}
}

// packRuntimes warns of the runtimes that the pack says it needs. What really needs one is refused by
// itself; the rest of the pack runs.
func (c *crossCheck) packRuntimes(b *Bundle) {
	if c.opts.Environment == nil || !b.Pack.Enabled {
		return
	}
	for _, need := range b.Pack.RuntimeDeps {
		_, interpreter, _ := resolveRuntime(need.Ref)
		if err := c.opts.Environment.Runtime(need.Ref, interpreter, need.Version); err != nil {
			c.report(b, &Error{
				Place:    orFile(b.Pack.Places.At("/runtime_deps/"+need.Ref), b.Folder, packFile),
				Severity: SeverityWarning, Kind: KindPack, Ref: b.Folder,
				Message: fmt.Sprintf("cannot satisfy runtime_deps: %v", err),
			})
		}
	}
}

// startingWorld is what is there before any component is refused by Check.
func (c *crossCheck) startingWorld() *Set {
	world := NewSet()
	for ref := range c.opts.InForce.Packs {
		world.Packs[ref] = c.packOf(ref)
	}
	for _, component := range all(c.opts.InForce) {
		if c.held(component) {
			world.Add(component)
		}
	}
	for _, b := range c.bundles {
		for _, broken := range b.Broken {
			c.noteBroken(broken.Kind, broken.Ref, b.Folder+"/"+broken.File)
		}
		if b.Pack == nil {
			continue
		}
		world.Packs[b.Folder] = b.Pack
		for _, component := range b.Components() {
			world.Add(component)
		}
	}
	return world
}

func (c *crossCheck) noteBroken(kind Kind, ref, file string) {
	if c.broken[kind] == nil {
		c.broken[kind] = map[string]string{}
	}
	c.broken[kind][ref] = file
}

// refusedFile gives the file of a refused manifest; "": none with this ref was refused.
func (c *crossCheck) refusedFile(kind Kind, ref string) string {
	if file := c.broken[kind][ref]; file != "" {
		return file
	}
	pack := ref
	if kind != KindPack {
		pack, _ = SplitRef(ref)
	}
	if c.byFolder[pack] != nil {
		return ""
	}
	return c.others()[kind][ref]
}

// others are what was refused of packs that are not among the bundles.
func (c *crossCheck) others() map[Kind]map[string]string {
	if c.elsewhere == nil && c.opts.Refused != nil {
		c.elsewhere = c.opts.Refused()
	}
	return c.elsewhere
}

// packNames are the packs that there are, accepted or not.
func (c *crossCheck) packNames() []string {
	names := map[string]bool{}
	for ref := range c.world.Packs {
		names[ref] = true
	}
	for ref := range c.byFolder {
		names[ref] = true
	}
	for ref := range c.others()[KindPack] {
		names[ref] = true
	}
	return sortedKeys(names)
}

// held says whether a component in force stays as it is because its new version was refused, or its
// pack was, or because its pack is not among the bundles.
func (c *crossCheck) held(component Component) bool {
	h := component.Head()
	b := c.byFolder[h.Pack]
	if b == nil || b.Pack == nil {
		return true
	}
	return slices.ContainsFunc(b.Broken, func(broken Broken) bool {
		if broken.Kind != component.Kind() {
			return false
		}
		// A refused manifest is also the one of what came from its file, whatever ref it says now; where
		// nobody knows from which, one that says none may be.
		return broken.Ref == h.Ref || h.File == broken.File || h.File == "" && broken.Ref == ""
	})
}

// all lists the components of a set.
func all(s *Set) []Component {
	var list []Component
	for _, ref := range sortedKeys(s.Triggers) {
		list = append(list, s.Triggers[ref])
	}
	for _, ref := range sortedKeys(s.Actions) {
		list = append(list, s.Actions[ref])
	}
	for _, ref := range sortedKeys(s.Sensors) {
		list = append(list, s.Sensors[ref])
	}
	for _, ref := range sortedKeys(s.Rules) {
		list = append(list, s.Rules[ref])
	}
	return list
}

// component checks one component and refuses it where an error was found.
func (c *crossCheck) component(b *Bundle, component Component) {
	h := component.Head()
	k := &componentCheck{crossCheck: c, bundle: b, head: h, kind: component.Kind()}
	k.off = !h.Enabled || b.Pack != nil && !b.Pack.Enabled
	switch component := component.(type) {
	case *Action:
		k.runner(component.Runner)
		k.unreadSecrets(component)
	case *Sensor:
		k.runner(component.Runner)
		k.sensor(component)
	case *Rule:
		k.rule(component)
	}
	findings := k.errs.limit()
	for _, e := range findings {
		c.report(b, e)
	}
	file := b.Folder + "/" + h.File
	refused := findings.HasErrors() || c.opts.Strict && slices.ContainsFunc(b.Errors, func(e *Error) bool { return e.File == file })
	if !refused {
		return
	}
	b.refuse(component)
	c.noteBroken(component.Kind(), h.Ref, file)
	c.restore(component.Kind(), h.Ref)
}

// restore puts the version in force back into the world, or nothing.
func (c *crossCheck) restore(kind Kind, ref string) {
	switch kind {
	case KindTrigger:
		replace(c.world.Triggers, c.opts.InForce.Triggers, ref)
	case KindAction:
		replace(c.world.Actions, c.opts.InForce.Actions, ref)
	case KindSensor:
		replace(c.world.Sensors, c.opts.InForce.Sensors, ref)
	case KindRule:
		replace(c.world.Rules, c.opts.InForce.Rules, ref)
	}
}

func replace[T any](world, inForce map[string]T, ref string) {
	if old, ok := inForce[ref]; ok {
		world[ref] = old
	} else {
		delete(world, ref)
	}
}

// componentCheck collects what is wrong with one component.
type componentCheck struct {
	*crossCheck
	bundle *Bundle
	head   *Header
	kind   Kind
	// off says that the component is switched off, itself or with its pack.
	off  bool
	errs Errors
}

func (k *componentCheck) report(severity Severity, pointer, hint, format string, args ...any) {
	k.add(&Error{
		Place: k.head.Places.At(pointer), Severity: severity, Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (k *componentCheck) fail(pointer, hint, format string, args ...any) {
	k.report(SeverityError, pointer, hint, format, args...)
}

func (k *componentCheck) add(e *Error) {
	e.Place = orFile(e.Place, k.bundle.Folder, k.head.File)
	e.Kind, e.Ref = k.kind, k.head.Ref
	if e.Severity == "" {
		e.Severity = SeverityError
	}
	if k.off && !k.opts.Strict {
		e.Severity = SeverityWarning
	}
	k.errs = append(k.errs, e)
}

// runner asks the machine whether it can start this. Of what is switched off nothing is started.
func (k *componentCheck) runner(r Runner) {
	if k.opts.Environment == nil || k.off {
		return
	}
	if err := k.opts.Environment.Runtime(r.RunnerType, r.Interpreter, r.RuntimeVersion); err != nil {
		pointer := "/runner_type"
		if _, ok := k.head.Places["/runtime_version"]; ok {
			pointer = "/runtime_version"
		}
		k.fail(pointer, "", "cannot run this %s: %v", k.kind, err)
	}
	script := slashpath.Join(k.kind.Folder(), r.EntryPoint)
	for _, e := range k.opts.Environment.EntryPoint(k.bundle.Folder, script, r) {
		finding := *e
		if finding.Place == (Place{}) {
			finding.Place = k.head.Places.At("/entry_point")
		}
		k.add(&finding)
	}
}

// unreadSecrets warns of a trap: by default secret parameters come by stdin alone, and a script that was
// written for the environment finds nothing there.
func (k *componentCheck) unreadSecrets(a *Action) {
	if k.opts.Environment == nil || k.off || a.ParameterDelivery != DeliverBoth {
		return
	}
	for _, p := range a.Parameters.Properties() {
		if !p.Secret {
			continue
		}
		if !k.opts.Environment.IgnoresStdin(k.bundle.Folder, slashpath.Join(k.kind.Folder(), a.EntryPoint), a.Runner) {
			return
		}
		pointer := "/parameters/properties/" + escapePointer(p.Name)
		if _, whole := k.head.Places[pointer]; !whole {
			pointer = "/parameters/" + escapePointer(p.Name)
		}
		k.report(SeverityWarning, pointer, "read one JSON object from stdin, or write parameter_delivery: file",
			"cannot give %s the secret parameter %s: secret ones come by stdin alone, which the script never reads",
			quoted(slashpath.Base(a.EntryPoint)), quoted(p.Name))
	}
}

func (k *componentCheck) sensor(s *Sensor) {
	for _, ref := range s.TriggerTypes {
		if k.trigger(ref) == nil {
			k.missing(KindTrigger, ref, "/trigger_types/"+escapePointer(ref))
		}
	}
	if s.Parameters == nil {
		return
	}
	for _, p := range withoutTemplates(s.Parameters, s.Config) {
		severity := SeverityWarning // the operator may still give it
		if _, given := k.head.Places["/config"+p.Pointer]; given {
			severity = SeverityError
		}
		k.report(severity, "/config"+p.Pointer, "", "cannot use %s: %s", dottedBelow("config", p.Pointer), p.Message)
	}
}

// trigger and action find what a component names. Inside a held pack, its own new components count:
// they stand or fall together, and each would else be told as missing.
func (k *componentCheck) trigger(ref string) *Trigger {
	if t, ok := k.world.Triggers[ref]; ok && !k.own(ref) {
		return t
	}
	for _, t := range k.bundle.Triggers {
		if t.Ref == ref {
			return t
		}
	}
	return k.world.Triggers[ref]
}

func (k *componentCheck) action(ref string) *Action {
	if a, ok := k.world.Actions[ref]; ok && !k.own(ref) {
		return a
	}
	for _, a := range k.bundle.Actions {
		if a.Ref == ref {
			return a
		}
	}
	return k.world.Actions[ref]
}

// own says whether the ref is of the component's own pack.
func (k *componentCheck) own(ref string) bool {
	pack, _ := SplitRef(ref)
	return pack == k.head.Pack
}

// missing tells a ref that names nothing.
func (k *componentCheck) missing(kind Kind, ref, pointer string) {
	if file := k.refusedFile(kind, ref); file != "" {
		k.fail(pointer, "correct that file first", "cannot use %s %q: it is refused itself, see %s", kind, ref, file)
		return
	}
	var known []string
	if kind == KindTrigger {
		known = sortedKeys(k.world.Triggers)
		for _, t := range k.bundle.Triggers {
			known = append(known, t.Ref)
		}
	} else {
		known = sortedKeys(k.world.Actions)
		for _, a := range k.bundle.Actions {
			known = append(known, a.Ref)
		}
	}
	k.fail(pointer, k.meant(kind, ref, known), "cannot find %s %q", kind, ref)
}

// meant is the hint for a ref that names nothing: the nearest one, or what the reader has to know.
func (k *componentCheck) meant(kind Kind, ref string, known []string) string {
	pack, name := SplitRef(ref)
	if near := nearestOf(pack, name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	switch {
	case kind == KindTrigger && k.action(ref) != nil:
		return "it is an action; a rule waits for a trigger"
	case kind == KindAction && k.trigger(ref) != nil:
		return "it is a trigger; a rule queues an action"
	case k.world.Packs[pack] == nil && k.refusedFile(KindPack, pack) != "":
		return fmt.Sprintf("pack %q is refused itself, see %s; correct that file first", pack, k.refusedFile(KindPack, pack))
	case k.world.Packs[pack] == nil && k.byFolder[pack] != nil:
		return fmt.Sprintf("pack %q is refused itself; correct that pack first", pack)
	case k.world.Packs[pack] == nil:
		near := Nearest(pack, k.packNames())
		switch {
		case near != "" && slices.Contains(known, near+"."+name):
			return fmt.Sprintf("did you mean %q?", near+"."+name)
		case near != "":
			return fmt.Sprintf("there is no pack %q; did you mean %q?", pack, near)
		}
		return fmt.Sprintf("there is no pack %q: add its folder, or correct the ref", pack)
	}
	var own []string
	for _, other := range known {
		if of, _ := SplitRef(other); of == pack && !slices.Contains(own, other) {
			own = append(own, other)
		}
	}
	slices.Sort(own)
	const most = 6 // a longer list is no help
	switch {
	case len(own) == 0:
		return fmt.Sprintf("pack %q has no %s", pack, kind)
	case len(own) <= most:
		return fmt.Sprintf("pack %q has %s", pack, andList(own))
	}
	return ""
}

// nearestOf gives the ref in the pack that was probably meant. Refs as a whole are long, and with them too many
// would be near.
func nearestOf(pack, name string, known []string) string {
	var names []string
	for _, other := range known {
		if otherPack, otherName := SplitRef(other); otherPack == pack {
			names = append(names, otherName)
		}
	}
	if near := Nearest(name, names); near != "" {
		return pack + "." + near
	}
	return ""
}

// disabled says whether a component is switched off, itself or with its pack.
func (k *componentCheck) disabled(h *Header) bool {
	pack := k.world.Packs[h.Pack]
	return !h.Enabled || pack != nil && !pack.Enabled
}
