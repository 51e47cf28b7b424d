package worker

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
	"github.com/attune-io/attune/reconcile/store"
)

// tempPrefix tells the folders of attempts from those of sensors, which are in the same folder.
const tempPrefix = "exec-"

// plan is an attempt that is ready to start.
type plan struct {
	action  *manifest.Action
	pack    string
	dir     string // the revision's pack folder
	data    string // the pack's own folder
	temp    string // the attempt's own folder
	modules string // node's, of the pack's environment; empty: none
	owner   *child.User
	mask    *child.Mask
	timeout time.Duration
	// total says that timeout is what all attempts together have left.
	total bool
	spec  child.Spec

	config     map[string]any // the pack's
	confSchema *manifest.Schema
}

// clear removes what the attempt left. Of a tree that may live on nothing is used again.
func (p *plan) clear(t *temps, outlived bool) {
	if p.temp != "" {
		t.back(p.temp, p.owner, !outlived && !p.spec.Detach)
	}
}

func (p *plan) resultFile() string { return filepath.Join(p.temp, "result") }

// result finds the result; problem, where wanted, is told why there is none although there should be.
func (p *plan) result(stdout *child.Capture, problem *error) json.RawMessage {
	raw, whole := stdout.Raw()
	from := printed{stdout: raw, whole: whole, written: stdout.Written()}
	from.file, from.fileErr = readResultFile(p.resultFile(), p.owner)
	from.file = p.mask.Bytes(from.file)
	result, err := readResult(p.action.OutputFormat, from)
	if problem != nil {
		*problem = err
	}
	return result
}

// prepare does all that can be done before the start is recorded. The plan, where there is one, is to
// be cleared also after an error.
func (a *attempt) prepare() (*plan, error) {
	action := a.action()
	if action == nil {
		return nil, a.gone()
	}
	p := &plan{action: action, pack: packOf(a.claim.Action)}
	p.timeout = a.timeout(action, p.pack)
	if err := a.limitAll(action); err != nil {
		return nil, err
	}
	parameters, err := a.parameters(p)
	if err != nil {
		return nil, err
	}
	delivery, err := deliver(action, parameters, secretNames(action.Parameters, a.claim.Secrets))
	if err != nil {
		return nil, err
	}
	if err := a.gather(p); err != nil {
		return nil, err
	}
	if err := a.folders(p); err != nil {
		return p, err
	}
	return p, a.lay(p, delivery)
}

// gone tells people why there is nothing to run: they removed the action while this execution waited, or
// switched it off.
func (a *attempt) gone() error {
	catalog, err := a.pool.opts.Store.Catalog(a.ctx, nil)
	if err != nil {
		return fmt.Errorf("action no longer exists, or is disabled (%w)", err)
	}
	record := catalog.Actions[a.claim.Action]
	if record == nil || !record.Present && record.DisabledBy == "" {
		return errors.New("action no longer exists")
	}
	pack := catalog.Packs[record.Pack]
	why := store.WhyDisabled(record, pack)
	if why == "" {
		return errors.New("action was not in force, or could not be read, when this was claimed")
	}
	if back := store.WayBack(record, pack); back != "" {
		why += "; " + back
	}
	return errors.New("action is disabled: " + why)
}

// timeout is the execution's own, else the action's, else the daemon's, but never more than the pack
// may take.
func (a *attempt) timeout(action *manifest.Action, pack string) time.Duration {
	timeout := a.claim.Timeout
	if timeout <= 0 {
		timeout = time.Duration(action.Timeout)
	}
	if timeout <= 0 {
		timeout = a.pool.opts.Timeout
	}
	if most := a.pool.opts.MaxTimeout(pack); most > 0 {
		timeout = min(timeout, most)
	}
	return timeout
}

// limitAll finds out how long all attempts together may take yet.
func (a *attempt) limitAll(action *manifest.Action) error {
	if a.total = a.claim.TimeoutTotal; a.total <= 0 {
		a.total = time.Duration(action.TimeoutTotal)
	}
	if a.total <= 0 {
		return nil
	}
	since := time.Duration(0)
	if a.claim.Attempt > 1 {
		var err error
		if since, err = a.pool.queue.SinceFirstStart(a.ctx, a.claim.ExecutionID, a.claim.CreatedAt); err != nil {
			return fmt.Errorf("%w: %w", errAway, err)
		}
	}
	a.allUntil = time.Now().Add(a.total - since)
	if since >= a.total {
		return errAllOver
	}
	return nil
}

// parameters gives the parameters with defaults and secrets, checked against the schema of now: it may
// have changed since they were queued.
func (a *attempt) parameters(p *plan) (map[string]any, error) {
	var given map[string]any
	if len(a.claim.Parameters) > 0 && string(a.claim.Parameters) != "{}" {
		decoder := json.NewDecoder(bytes.NewReader(a.claim.Parameters))
		decoder.UseNumber()
		if err := decoder.Decode(&given); err != nil {
			return nil, fmt.Errorf("cannot read its parameters: %v", err)
		}
	}
	schema := p.action.Parameters
	encrypted, named := a.secrets()
	if given == nil {
		given = map[string]any{}
	}
	texts, err := fillSecrets(given, encrypted, func(pointer, sealed string) (any, error) {
		return a.pool.opts.Unseal(a.claim.Action, pointer, sealed)
	})
	if err != nil {
		return nil, err
	}
	if errs := schema.ValidateUnresolved(given, named); len(errs) > 0 {
		texts := make([]string, len(errs))
		for i, e := range errs {
			texts[i] = dotted(e.Pointer) + ": " + e.Message
			// What was secret when it was queued stays so, whatever the schema calls it by now.
			if within(encrypted, e.Pointer) {
				texts[i] = dotted(e.Pointer) + ": the encrypted value does not fit the schema"
			}
		}
		return nil, fmt.Errorf("cannot use its parameters: %s", strings.Join(texts, "; "))
	}
	parameters := schema.ApplyDefaults(given)
	values, err := fillSecrets(parameters, named, func(_, name string) (any, error) { return a.pool.opts.Secret(name) })
	if err != nil {
		return nil, err
	}
	p.confSchema = a.pool.opts.ConfSchema(p.pack)
	if p.config, err = manifest.ResolvedConfig(a.pool.opts.PackConfig(p.pack), a.pool.opts.Secret); err != nil {
		return nil, err
	}
	p.mask = child.NewMask(slices.Concat(values, texts, schema.SecretTexts(parameters), p.confSchema.SecretTexts(p.config)))
	return parameters, nil
}

// within tells whether a pointer leads to one of the values, or into it.
func within(values map[string]string, pointer string) bool {
	for at := range values {
		if pointer == at || strings.HasPrefix(pointer, at+"/") {
			return true
		}
	}
	return false
}

// secrets are the values that were encrypted when they were queued, and the names of those that are
// looked up now.
func (a *attempt) secrets() (encrypted, named map[string]string) {
	encrypted, named = map[string]string{}, map[string]string{}
	for pointer, text := range a.claim.Secrets {
		if seal.IsSealed(text) {
			encrypted[pointer] = text
		} else {
			named[pointer] = text
		}
	}
	return encrypted, named
}

// gather finds everything that the child is made of.
func (a *attempt) gather(p *plan) (err error) {
	record := a.claim.Record
	if p.dir, err = a.pool.opts.Revisions.Dir(a.ctx, record.RevisionID, record.TreeDigest); err != nil {
		if store.IsTransient(err) || a.ctx.Err() != nil {
			return fmt.Errorf("%w: its files: %w", errAway, err)
		}
		return fmt.Errorf("cannot make the files of its revision: %w", err)
	}
	script, err := a.pool.resolved.entryPoint(p.dir, p.action.EntryPoint)
	if err != nil {
		return err
	}
	satisfies, err := VersionCheck(p.action.RuntimeVersion)
	if err != nil {
		return err
	}
	path, args := script, []string(nil)
	if p.action.RunnerType != manifest.RuntimeNative {
		in, err := a.pool.opts.Interpreters.Find(p.action.RunnerType, p.action.Interpreter, satisfies)
		if err != nil {
			return err
		}
		path, args = in.Path, []string{script}
		if err := a.equip(p, in, &path); err != nil {
			return err
		}
	}
	if p.owner, err = a.pool.opts.Runner.User(cmp.Or(p.action.RunAs, a.pool.opts.RunAs)); err != nil {
		return err
	}
	p.spec = child.Spec{
		Name: "execution " + strconv.FormatInt(a.claim.ExecutionID, 10),
		Path: path, Args: args, Dir: p.dir, User: p.owner, Detach: p.action.Detach,
	}
	if p.action.Warm || a.pool.opts.Warm {
		p.spec.Warm = warmKind(p.action)
	}
	if l := p.action.Limits; l != nil {
		p.spec.Limits = child.Limits{
			Memory: l.Memory, FileSize: l.FileSize, OpenFiles: l.OpenFiles, Pids: l.Pids, CPU: l.CPU,
		}
	}
	return nil
}

// equip finds the environment that the pack's requirements ask for.
func (a *attempt) equip(p *plan, in *child.Interpreter, path *string) error {
	if a.pool.opts.Environments == nil {
		return nil
	}
	env, err := a.pool.opts.Environments.For(environment.Need{Pack: p.pack, Runtime: p.action.RunnerType, Dir: p.dir, Interpreter: *in})
	if _, waits := errors.AsType[*environment.WaitError](err); waits {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	if err != nil {
		return err
	}
	*path, p.modules = env.Path, env.NodePath
	return nil
}

// warmKind is the kind of parent that can start an action; empty: there is none.
func warmKind(action *manifest.Action) string {
	switch action.RunnerType {
	case manifest.RuntimePython:
		return child.WarmPython
	case manifest.RuntimeNode:
		return child.WarmNode
	case manifest.RuntimeShell:
		if action.Interpreter != "sh" {
			return child.WarmBash
		}
	}
	return ""
}

// entryPoint gives the real path of an action's script, which neither ".." nor a link may lead out of
// the pack.
func entryPoint(dir, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("cannot use entry_point %q: it is not inside actions/", name)
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("cannot find the pack's folder: %v", err)
	}
	script, err := filepath.EvalSymlinks(filepath.Join(root, "actions", name))
	if err != nil {
		return "", fmt.Errorf("cannot find entry_point %q: %v", name, err)
	}
	if !strings.HasPrefix(script, root+string(filepath.Separator)) {
		return "", fmt.Errorf("cannot use entry_point %q: it leads out of the pack", name)
	}
	return script, nil
}

// VersionCheck makes the test of a runtime_version; nil: any version will do.
func VersionCheck(versions string) (func(string) bool, error) {
	if versions == "" {
		return nil, nil
	}
	constraint, err := semver.NewConstraint(versions)
	if err != nil {
		return nil, fmt.Errorf("cannot use runtime_version %q: %v", versions, err)
	}
	return func(version string) bool {
		v, err := semver.NewVersion(version)
		return err == nil && constraint.Check(v)
	}, nil
}

// folders makes the pack's data folder and a folder for this attempt alone.
func (a *attempt) folders(p *plan) (err error) {
	p.data = filepath.Join(a.pool.opts.DataDir, child.DataFolder(p.pack, p.owner))
	if err := child.MakeFolder(p.data, p.owner); err != nil {
		return fmt.Errorf("cannot make the pack's data folder: %w", err)
	}
	p.temp, err = a.pool.temps.take(p.owner)
	return err
}

// hand writes a file that only the child can read, and that goes with the attempt.
func (p *plan) hand(name string, content []byte) (string, error) {
	file := filepath.Join(p.temp, name)
	return file, child.HandFile(file, content, p.owner)
}

// lay puts the parameters and the environment where the child finds them.
func (a *attempt) lay(p *plan, d *delivery) error {
	variables := map[string]string{}
	if d.file != nil {
		file, err := p.hand("parameters", d.file)
		if err != nil {
			return err
		}
		variables["ATTUNE_PARAMETER_FILE"] = file
	}
	if len(p.confSchema.SecretTexts(p.config)) > 0 {
		text, err := encodeJSON(p.config)
		if err != nil {
			return fmt.Errorf("cannot write the pack's configuration: %v", err)
		}
		if variables["ATTUNE_PACK_CONFIG_FILE"], err = p.hand("config.json", append(text, '\n')); err != nil {
			return err
		}
	}
	if d.stdin != nil {
		p.spec.Stdin = bytes.NewReader(d.stdin)
	}
	maps.Copy(variables, d.env)
	variables["ATTUNE_PARAMETER_DELIVERY"] = d.kind
	variables["ATTUNE_PARAMETER_FORMAT"] = d.format
	env, err := a.environment(p, variables)
	if err != nil {
		return err
	}
	p.spec.Env = env
	return nil
}

// environment is complete but for what exec/child adds. What the manifest names comes before what is
// ours, so that ours holds.
func (a *attempt) environment(p *plan, variables map[string]string) ([]string, error) {
	env := child.NewEnv(p.data, p.temp)
	var errs []error
	set := func(name, value string) { errs = append(errs, env.Set(name, value)) }
	setIf := func(name, value string) {
		if value != "" {
			set(name, value)
		}
	}
	lib := filepath.Join(p.dir, "lib")
	switch p.action.RunnerType {
	case manifest.RuntimePython:
		set("PYTHONPATH", lib)
		// Who follows an execution sees a line when it is printed, not 8 KiB later.
		set("PYTHONUNBUFFERED", "1")
	case manifest.RuntimeNode:
		if p.modules != "" {
			lib += ":" + p.modules
		}
		set("NODE_PATH", lib)
	case manifest.RuntimeShell:
		set("SHELL", p.spec.Path)
	}
	for name, value := range p.action.Env {
		set(name, value)
	}
	for key, value := range p.config {
		if value != nil && !p.confSchema.HoldsSecret(key) {
			set("ATTUNE_PACK_CONFIG_"+child.Key(key), plainText(value))
		}
	}
	for name, value := range variables {
		set(name, value)
	}
	id := strconv.FormatInt(a.claim.ExecutionID, 10)
	set("ATTUNE_EXECUTION_ID", id)
	set("ATTUNE_EXEC_ID", id)
	set("ATTUNE_ATTEMPT", strconv.Itoa(a.claim.Attempt))
	set("ATTUNE_ACTION", a.claim.Action)
	setIf("ATTUNE_RULE", a.claim.Rule)
	setIf("ATTUNE_TRIGGER", a.claim.Trigger)
	if a.claim.EventID != 0 {
		set("ATTUNE_EVENT_ID", strconv.FormatInt(a.claim.EventID, 10))
	}
	set("ATTUNE_PACK_REF", p.pack)
	set("ATTUNE_PACK_DIR", p.dir)
	set("ATTUNE_DATA_DIR", p.data)
	set("ATTUNE_RESULT_FILE", p.resultFile())
	setIf("ATTUNE_LOG_LEVEL", a.pool.opts.LogLevel)
	setIf("ATTUNE_BINARY", a.pool.opts.Binary)
	if tracer := a.pool.opts.Tracer; tracer != nil {
		set("TRACEPARENT", tracer.Parent(&a.claim))
	}
	return env.List(), errors.Join(errs...)
}
