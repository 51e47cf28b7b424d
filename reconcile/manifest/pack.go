package manifest

import (
	"bytes"
	"encoding/json"
)

// Kind says what a manifest describes.
type Kind string

// The five kinds of manifest.
const (
	KindPack    Kind = "pack"
	KindAction  Kind = "action"
	KindTrigger Kind = "trigger"
	KindSensor  Kind = "sensor"
	KindRule    Kind = "rule"
)

// Folder is the folder of a pack that holds the manifests of this kind; empty for KindPack.
func (k Kind) Folder() string {
	if k == KindPack {
		return ""
	}
	return string(k) + "s"
}

// ComponentKinds lists the kinds that a pack is made of, in the order in which they are checked:
// a sensor names triggers, a rule names triggers and actions.
func ComponentKinds() []Kind { return []Kind{KindTrigger, KindAction, KindSensor, KindRule} }

// Place is a position in a file of a pack. File is relative to the packs directory
// ("core/actions/echo.yaml"); Line and Col count from 1, and 0 means unknown.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Col  int    `json:"col,omitempty"`
}

// Places maps the JSON pointer of a node of a manifest ("/parameters/message/type", "" for the
// whole) to where it stands. The pointers are those of the file as written; where an alias was used,
// the canonical pointer is there as well ("/when" beside "/criteria", "/actions/0/parameters" beside
// "/action_params"), so that who has only the model finds the place.
type Places map[string]Place

// Component is what actions, triggers, sensors and rules have in common.
type Component interface {
	Kind() Kind
	Head() *Header

	normalizeNumbers()
}

// Header is the part that every component has. Ref is "<pack>.<name>".
type Header struct {
	Ref         string   `json:"ref"`
	Pack        string   `json:"pack"`
	Name        string   `json:"name"`
	Label       string   `json:"label,omitempty"`
	Description string   `json:"description,omitempty"`
	Enabled     bool     `json:"enabled"`
	Tags        []string `json:"tags,omitempty"`
	// Extra keeps meta, examples, testing and x-* untouched.
	Extra map[string]any `json:"extra,omitempty"`

	// File is the manifest's path inside its pack, "actions/echo.yaml".
	File   string `json:"-"`
	Places Places `json:"-"`
	// Texts has where the first character of a string stands, behind its quote or below its bar, so
	// that a mistake inside the string has a place; Inside uses it.
	Texts Places `json:"-"`
}

// Inside gives the place of a character of the string at the pointer, counted from 0. A text that was
// folded or has escapes does not run in the file as it does in the model: then it is the place of the
// whole. ok is false for a component that was not read from a file.
func (h *Header) Inside(pointer, text string, at int) (place Place, ok bool) {
	return inside(h.Places, h.Texts, pointer, text, at), h.Texts != nil
}

func inside(places, texts Places, pointer, text string, at int) Place {
	place, exact := texts[pointer]
	if !exact {
		return places.At(pointer)
	}
	first := place.Col
	for i, char := range []rune(text) {
		if i == at {
			break
		}
		place.Col++
		if char == '\n' {
			place.Line, place.Col = place.Line+1, first
		}
	}
	return place
}

// Head gives the header of any component.
func (h *Header) Head() *Header { return h }

// Pack is pack.yaml.
type Pack struct {
	Ref         string         `json:"ref"`
	Label       string         `json:"label,omitempty"`
	Description string         `json:"description,omitempty"`
	Version     string         `json:"version"`
	Author      string         `json:"author,omitempty"`
	Email       string         `json:"email,omitempty"`
	System      bool           `json:"system,omitempty"`
	Enabled     bool           `json:"enabled"`
	ConfSchema  *Schema        `json:"conf_schema,omitempty"`
	Config      map[string]any `json:"config,omitempty"`
	Meta        map[string]any `json:"meta,omitempty"`
	Tags        []string       `json:"tags,omitempty"`
	RuntimeDeps []Requirement  `json:"runtime_deps,omitempty"`
	// Dependencies are other packs.
	Dependencies []Requirement `json:"dependencies,omitempty"`
	// Attune is the range of daemon versions that the pack needs; empty: any.
	Attune string         `json:"attune,omitempty"`
	Extra  map[string]any `json:"extra,omitempty"`

	Places Places `json:"-"`
}

// Requirement names a runtime or a pack, and the semver range that will do; empty: any version.
type Requirement struct {
	Ref     string `json:"ref"`
	Version string `json:"version,omitempty"`
}

// The runtimes that a runner_type names after its aliases are resolved.
const (
	RuntimeShell  = "shell"
	RuntimePython = "python"
	RuntimeNode   = "node"
	RuntimeNative = "native"
)

// Runner is how an action or a sensor is started.
type Runner struct {
	// RunnerType is one of the Runtime constants.
	RunnerType string `json:"runner_type"`
	// Interpreter is "bash" or "sh" for RuntimeShell, and empty else.
	Interpreter string `json:"interpreter,omitempty"`
	// RuntimeVersion is the semver range of interpreters that will do, the component's own or else
	// the one that the pack's runtime_deps gives for this runtime; empty: any.
	RuntimeVersion string `json:"runtime_version,omitempty"`
	// EntryPoint is relative to the pack's actions/ or sensors/ folder.
	EntryPoint string            `json:"entry_point"`
	RunAs      string            `json:"run_as,omitempty"`
	Limits     *Limits           `json:"limits,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
}

// Limits bound one child. Zero means the daemon's default.
type Limits struct {
	// Memory and FileSize are bytes; CPU is cores; Pids and OpenFiles are counts.
	Memory    int64   `json:"memory,omitempty"`
	Pids      int64   `json:"pids,omitempty"`
	CPU       float64 `json:"cpu,omitempty"`
	OpenFiles int64   `json:"nofile,omitempty"`
	FileSize  int64   `json:"fsize,omitempty"`
}

// How parameters reach an action.
const (
	DeliverBoth  = ""
	DeliverEnv   = "env"
	DeliverStdin = "stdin"
	DeliverFile  = "file"
)

// How an action's stdout is read. Empty: one JSON object or array as a whole is the result.
const (
	OutputAuto  = ""
	OutputText  = "text"
	OutputJSON  = "json"
	OutputYAML  = "yaml"
	OutputJSONL = "jsonl"
)

// Action is actions/*.yaml.
type Action struct {
	Header
	Runner
	Parameters        *Schema      `json:"parameters,omitempty"`
	OutputSchema      *Schema      `json:"output_schema,omitempty"`
	OutputFormat      string       `json:"output_format,omitempty"`
	ParameterDelivery string       `json:"parameter_delivery,omitempty"`
	ParameterFormat   string       `json:"parameter_format,omitempty"` // json (default), dotenv or yaml
	Timeout           Duration     `json:"timeout,omitempty"`
	TimeoutTotal      Duration     `json:"timeout_total,omitempty"`
	Expires           Duration     `json:"expires,omitempty"`
	Retry             *Retry       `json:"retry,omitempty"`
	Concurrency       *Concurrency `json:"concurrency,omitempty"`
	Priority          int          `json:"priority,omitempty"`
	OnLost            string       `json:"on_lost,omitempty"` // fail (default) or retry
	Warm              bool         `json:"warm,omitempty"`
	Detach            bool         `json:"detach,omitempty"`
}

// Kind is KindAction.
func (*Action) Kind() Kind { return KindAction }

// Retry says when an attempt that did not succeed is followed by another.
type Retry struct {
	MaxAttempts int      `json:"max_attempts"`
	Delay       Duration `json:"delay,omitempty"`
	Backoff     string   `json:"backoff,omitempty"` // constant (default) or exponential
	MaxDelay    Duration `json:"max_delay,omitempty"`
	On          []string `json:"on,omitempty"` // failed, timed_out, lost
	ExitCodes   []int    `json:"exit_codes,omitempty"`
}

// Concurrency bounds how many executions of an action, or of one key of it, run at once.
type Concurrency struct {
	Max int `json:"max"`
	// Key is an expression or a template over `parameters`; empty: all executions are counted as one.
	Key    string `json:"key,omitempty"`
	Policy string `json:"policy,omitempty"` // queue (default), skip or replace
}

// The kinds of trigger.
const (
	TriggerInterval = "interval"
	TriggerCron     = "cron"
	TriggerDatetime = "datetime"
	TriggerWebhook  = "webhook"
	TriggerCustom   = "custom"
)

// How a webhook's sender is verified: by the signature of a provider, by one of one's own (VerifyHMAC), by
// the trigger's own token, or not at all.
const (
	VerifyGitHub   = "github"
	VerifyGitLab   = "gitlab"
	VerifyStripe   = "stripe"
	VerifySlack    = "slack"
	VerifyStandard = "standard" // the Standard Webhooks specification
	VerifyHMAC     = "hmac"
	VerifyToken    = "token"
	VerifyNone     = "none"
)

// Verify says how the sender of a webhook is checked.
type Verify struct {
	// Type is one of the Verify constants.
	Type string `json:"type"`
	// Secret is a reference in braces, "{{ secret.name }}" or "{{ pack.config.name }}": never the secret
	// itself. It is empty for VerifyToken and VerifyNone.
	Secret string `json:"secret,omitempty"`
	// Header has the signature of VerifyHMAC, and Prefix what stands before it there, like "sha256=".
	Header   string `json:"header,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Encoding string `json:"encoding,omitempty"` // hex (default) or base64
	// Tolerance is how old a signed time may be; 0: the default of five minutes.
	Tolerance Duration `json:"tolerance,omitempty"`
	// DeliveryID names the header whose value is the event_id; empty: the provider's own.
	DeliveryID string `json:"delivery_id,omitempty"`
}

// Trigger is triggers/*.yaml.
type Trigger struct {
	Header
	Type             string  `json:"type"`
	ParametersSchema *Schema `json:"parameters_schema,omitempty"`
	PayloadSchema    *Schema `json:"payload_schema,omitempty"`
	OnInvalid        string  `json:"on_invalid,omitempty"` // keep (default) or refuse
	// Verify is nil for what is no webhook, and for a webhook that wants its own token.
	Verify *Verify `json:"verify,omitempty"`
}

// Kind is KindTrigger.
func (*Trigger) Kind() Kind { return KindTrigger }

// Sensor is sensors/*.yaml.
type Sensor struct {
	Header
	Runner
	TriggerTypes []string       `json:"trigger_types"`
	OnDemand     bool           `json:"on_demand,omitempty"`
	Parameters   *Schema        `json:"parameters,omitempty"`
	Config       map[string]any `json:"config,omitempty"`
	PollInterval Duration       `json:"poll_interval,omitempty"`
	Watchdog     Duration       `json:"watchdog,omitempty"`
	Ack          bool           `json:"ack,omitempty"`
	Updates      bool           `json:"updates,omitempty"`
}

// Kind is KindSensor.
func (*Sensor) Kind() Kind { return KindSensor }

// Rule is rules/*.yaml.
type Rule struct {
	Header
	Trigger  Use       `json:"trigger"`
	When     string    `json:"when,omitempty"` // empty: always
	Actions  []Use     `json:"actions"`
	ForEach  string    `json:"for_each,omitempty"`
	Priority int       `json:"priority,omitempty"`
	Throttle *Throttle `json:"throttle,omitempty"`
	Debounce *Debounce `json:"debounce,omitempty"`
	Dedupe   *Dedupe   `json:"dedupe,omitempty"`
	Breaker  *Breaker  `json:"breaker,omitempty"`
}

// Throttle lets a rule act on at most Max events in each Per; those beyond are recorded as throttled.
// Key is an expression or a template: events of different keys are counted apart. Empty: all as one.
type Throttle struct {
	Max int      `json:"max"`
	Per Duration `json:"per"`
	Key string   `json:"key,omitempty"`
}

// Debounce lets a rule act on the last event of a burst: when none of its Key has come for Window, but
// no later than MaxWait (0: no bound) after the first.
type Debounce struct {
	Window  Duration `json:"window"`
	MaxWait Duration `json:"max_wait,omitempty"`
	Key     string   `json:"key,omitempty"`
}

// Dedupe lets a rule act on the first event of a Key in each Window. Without a Key, the whole payload is
// the key.
type Dedupe struct {
	Key    string   `json:"key,omitempty"`
	Window Duration `json:"window"`
}

// Breaker stops a rule for Pause when Failures executions in a row did not succeed, or when it led to more
// than Executions executions in Per. 0 of either: not watched.
type Breaker struct {
	Failures   int      `json:"failures,omitempty"`
	Executions int      `json:"executions,omitempty"`
	Per        Duration `json:"per,omitempty"`
	Pause      Duration `json:"pause,omitempty"`
}

// Kind is KindRule.
func (*Rule) Kind() Kind { return KindRule }

// Use names a trigger or an action and the parameters that the rule gives it.
type Use struct {
	Ref        string         `json:"ref"`
	Parameters map[string]any `json:"parameters,omitempty"`
}

// Set is a collection of packs and components by ref: what is wanted, or what is in force.
type Set struct {
	Packs    map[string]*Pack
	Actions  map[string]*Action
	Triggers map[string]*Trigger
	Sensors  map[string]*Sensor
	Rules    map[string]*Rule
}

// NewSet gives an empty set.
func NewSet() *Set {
	return &Set{
		Packs:    map[string]*Pack{},
		Actions:  map[string]*Action{},
		Triggers: map[string]*Trigger{},
		Sensors:  map[string]*Sensor{},
		Rules:    map[string]*Rule{},
	}
}

// Add puts a component into the set, replacing one of the same ref.
func (s *Set) Add(c Component) {
	switch c := c.(type) {
	case *Action:
		s.Actions[c.Ref] = c
	case *Trigger:
		s.Triggers[c.Ref] = c
	case *Sensor:
		s.Sensors[c.Ref] = c
	case *Rule:
		s.Rules[c.Ref] = c
	default:
		panic("manifest: unknown component kind " + string(c.Kind()))
	}
}

// Encode gives the normal form of a pack or a component: the JSON that is stored, compared and
// digested. Two files that mean the same encode to the same bytes.
func Encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, errorf("cannot encode %T: %v", v, err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// Decode reads a component back from its normal form. It has no Places and no File: those belong to
// the files, not to what they mean.
func Decode(kind Kind, data json.RawMessage) (Component, error) {
	var c Component
	switch kind {
	case KindAction:
		c = new(Action)
	case KindTrigger:
		c = new(Trigger)
	case KindSensor:
		c = new(Sensor)
	case KindRule:
		c = new(Rule)
	default:
		return nil, errorf("cannot decode a component of kind %q", kind)
	}
	if err := unmarshal(data, c); err != nil {
		return nil, errorf("cannot decode %s: %v", kind, err)
	}
	c.normalizeNumbers()
	return c, nil
}

// DecodePack reads a pack back from its normal form.
func DecodePack(data json.RawMessage) (*Pack, error) {
	p := new(Pack)
	if err := unmarshal(data, p); err != nil {
		return nil, errorf("cannot decode pack: %v", err)
	}
	normalizeTrees(p.Config, p.Meta, p.Extra)
	return p, nil
}

func unmarshal(data json.RawMessage, v any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	return decoder.Decode(v)
}

func (a *Action) normalizeNumbers()  { normalizeTrees(a.Extra) }
func (t *Trigger) normalizeNumbers() { normalizeTrees(t.Extra) }
func (s *Sensor) normalizeNumbers()  { normalizeTrees(s.Extra, s.Config) }

func (r *Rule) normalizeNumbers() {
	normalizeTrees(r.Extra, r.Trigger.Parameters)
	for _, use := range r.Actions {
		normalizeTrees(use.Parameters)
	}
}

// normalizeTrees gives the numbers of kept trees the types that parsing gives them, so that a model
// from the database and one from the files are alike to everyone behind them.
func normalizeTrees(trees ...map[string]any) {
	for _, tree := range trees {
		for key, v := range tree {
			tree[key] = normalTree(v)
		}
	}
}

func normalTree(v any) any {
	switch v := v.(type) {
	case map[string]any:
		normalizeTrees(v)
	case []any:
		for i := range v {
			v[i] = normalTree(v[i])
		}
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		if f, err := v.Float64(); err == nil {
			return normalNumber(f)
		}
	}
	return v
}
