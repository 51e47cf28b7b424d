package manifest

import (
	"maps"
	"math"
	slashpath "path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// source is what a component's decoder knows of its pack beside the one manifest.
type source struct {
	pack  string
	files map[string]File
	// runtimes are the ranges of the pack's runtime_deps, by runtime.
	runtimes map[string]string
}

// runner reads how an action or a sensor is started.
func (d *decoder) runner(o *mapping, kind Kind, name string, src *source) Runner {
	var r Runner
	explicit := o.get("runner_type")
	if explicit != nil {
		d.runnerType(explicit, &r)
	}
	r.EntryPoint = d.entryPoint(o, kind, name, r.RunnerType, src)
	if explicit == nil && !o.has("runner_type") && r.EntryPoint != "" {
		d.inferRuntime(o, kind, &r, src)
	}
	r.RuntimeVersion = o.versions("runtime_version")
	if !o.has("runtime_version") {
		r.RuntimeVersion = src.runtimes[r.RunnerType]
	}
	r.RunAs = d.user(o)
	r.Limits = d.limits(o)
	r.Env = d.environment(o)
	return r
}

func (d *decoder) runnerType(e *entry, r *Runner) {
	word, isText := e.scalar.(string)
	if !isText {
		d.mismatch(e, orList(runtimeWords()), "")
		return
	}
	var ok bool
	if r.RunnerType, r.Interpreter, ok = resolveRuntime(word); !ok {
		d.mismatch(e, orList(runtimeWords()), wayToGo(word))
	}
}

// entryPoint reads the script's path, relative to the folder of its kind; absent, it is the only
// "<name>.*" there. Whether the script will do is the environment's to say.
func (d *decoder) entryPoint(o *mapping, kind Kind, name, runtime string, src *source) string {
	folder := kind.Folder()
	e := o.get("entry_point")
	if e == nil {
		if o.has("entry_point", "entrypoint") || name == "" {
			return ""
		}
		return d.onlyScript(o, folder, name, runtime, src)
	}
	written, isText := e.scalar.(string)
	if !isText {
		d.mismatch(e, "a path below "+folder+"/", "")
		return ""
	}
	relative := slashpath.Clean(written)
	if _, exists := src.files[folder+"/"+relative]; !exists {
		relative = strings.TrimPrefix(relative, folder+"/")
	}
	inside := slashpath.Join(folder, relative)
	if written == "" || slashpath.IsAbs(written) || strings.HasPrefix(inside, "../") || inside == ".." || inside == "." || inside == folder {
		d.fail(e.place, "", "cannot use %s: found %s, expected a path below %s/ that stays in the pack",
			e.path, quoted(written), folder)
		return ""
	}
	return relative
}

// onlyScript finds the entry point that a manifest does not name.
func (d *decoder) onlyScript(o *mapping, folder, name, runtime string, src *source) string {
	var scripts, known []string
	for file, f := range src.files {
		base, inFolder := strings.CutPrefix(file, folder+"/")
		if !inFolder || strings.Contains(base, "/") || isManifestName(base) || isLeaving(base) {
			continue
		}
		if base != name && !strings.HasPrefix(base, name+".") || base == name && !f.Executable {
			continue
		}
		scripts = append(scripts, base)
		if of, _ := runtimeOfExtension(strings.TrimPrefix(base, name)); of != "" && (runtime == "" || of == runtime) {
			known = append(known, base)
		}
	}
	slices.Sort(scripts)
	switch {
	case len(scripts) == 1:
		return scripts[0]
	case len(known) == 1:
		return known[0] // echo.sh beside echo.md
	case len(scripts) == 0:
		d.fail(o.v.place, "put the script there, or name it by entry_point",
			"cannot find the entry point: there is no %s/%s.*", folder, name)
	default:
		d.fail(o.v.place, "name one by entry_point",
			"cannot choose the entry point: found %s", strings.Join(scripts, ", "))
	}
	return ""
}

// inferRuntime tells the runtime by the script's extension.
func (d *decoder) inferRuntime(o *mapping, kind Kind, r *Runner, src *source) {
	extension := slashpath.Ext(r.EntryPoint)
	r.RunnerType, r.Interpreter = runtimeOfExtension(extension)
	if r.RunnerType != "" {
		return
	}
	f, exists := src.files[slashpath.Join(kind.Folder(), r.EntryPoint)]
	if extension == "" && (f.Executable || !exists) {
		r.RunnerType = RuntimeNative
		return
	}
	hint := "add runner_type: " + orList(runtimeWords())
	if extension == "" {
		hint = "make it executable for runner_type native, or add runner_type: " + orList(runtimeWords())
	}
	d.fail(o.v.place, hint, "cannot tell the runner_type of %s", quoted(r.EntryPoint))
}

// user reads run_as; a numeric id is a user too.
func (d *decoder) user(o *mapping) string {
	e := o.get("run_as")
	if e == nil {
		return ""
	}
	switch e.scalar.(type) {
	case string, int64:
		return e.text
	}
	d.mismatch(e, "a user", "")
	return ""
}

func (d *decoder) limits(o *mapping) *Limits {
	c := o.child("limits")
	if c == nil {
		return nil
	}
	l := &Limits{
		Memory:    c.size("memory"),
		Pids:      c.integer("pids"),
		CPU:       c.cores("cpu"),
		OpenFiles: c.integer("nofile"),
		FileSize:  c.size("fsize"),
	}
	c.finish()
	if *l == (Limits{}) {
		return nil
	}
	return l
}

func (o *mapping) cores(key string) float64 {
	e := o.get(key)
	if e == nil {
		return 0
	}
	var cores float64
	switch n := e.scalar.(type) {
	case int64:
		cores = float64(n)
	case float64:
		cores = n
	}
	if cores <= 0 {
		o.d.mismatch(e, "a number of cores above 0", "")
		return 0
	}
	return cores
}

var sizePattern = regexp.MustCompile(`^([0-9]+)\s*([A-Za-z]+)$`)

// sizeUnits are bytes.
var sizeUnits = map[string]int64{
	"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// size reads bytes, or a text like "64MiB".
func (o *mapping) size(key string) int64 {
	e := o.get(key)
	if e == nil {
		return 0
	}
	bytes := int64(0)
	switch s := e.scalar.(type) {
	case int64:
		bytes = s
	case string:
		if m := sizePattern.FindStringSubmatch(s); m != nil {
			n, err := strconv.ParseInt(m[1], 10, 64)
			if unit := sizeUnits[m[2]]; err == nil && unit > 0 && n <= math.MaxInt64/unit {
				bytes = n * unit
			}
		}
	}
	if bytes <= 0 {
		o.d.mismatch(e, `bytes or a size like "64MiB"`, "")
		return 0
	}
	return bytes
}

var variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environment reads env. Numbers and booleans are taken as written: the environment knows only text.
func (d *decoder) environment(o *mapping) map[string]string {
	c := o.child("env")
	if c == nil || len(c.v.fields) == 0 {
		return nil
	}
	env := map[string]string{}
	for _, f := range c.v.fields {
		switch {
		case f.value.kind == brokenValue:
		case !variablePattern.MatchString(f.key):
			d.fail(f.place, "", "cannot use key %s of env: expected a variable's name", quoted(f.key))
		case strings.HasPrefix(f.key, "ATTUNE_"):
			d.fail(f.place, "take another name", "cannot set %s: variables that begin with ATTUNE_ are Attune's own", f.key)
		case f.value.kind != scalarValue || f.value.isNull():
			d.mismatch(&entry{value: f.value, path: "env." + f.key}, "a string", "")
		default:
			env[f.key] = f.value.text
		}
	}
	return env
}

// variableName is the <KEY> of ATTUNE_ACTION_<KEY>: upper case, and _ for all but A to Z and 0 to 9.
func variableName(parameter string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return c
		default:
			return '_'
		}
	}, parameter)
}

// sortedKeys lists a map's keys in order, so that findings do not depend on the map's.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
