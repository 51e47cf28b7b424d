package sensor

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// target is what the catalog wants of one sensor at one moment.
type target struct {
	record *store.Record
	spec   *manifest.Sensor
	// want is hWanted, hUnneeded or hUnwanted, and reason says why it is not the first.
	want   happening
	reason string
	// instances are those of its triggers, by id.
	instances  []store.TriggerInstance
	packConfig map[string]any
	confSchema *manifest.Schema // of packConfig: says what of it is secret
	// hidden are the values among the instances' parameters that a trigger's schema calls secret.
	hidden []string
	// key is the restart key: a process with another one has to be replaced.
	key string
	// lease is the token of the lease that a process runs under; empty: there are no leases.
	lease string
	// list is the digest of what a sensor with updates is told of its instances.
	list string
}

// newTarget tells what is wanted of a sensor. instances are those of its triggers, sorted.
func newTarget(record *store.Record, pack *store.PackRow, instances []store.TriggerInstance, packConfig map[string]any) *target {
	spec, ok := record.Spec.(*manifest.Sensor)
	t := &target{record: record, spec: spec, instances: instances, packConfig: packConfig, want: hWanted}
	if pack != nil && pack.Manifest != nil {
		t.confSchema = pack.Manifest.ConfSchema
	}
	switch {
	case !ok:
		t.spec = &manifest.Sensor{}
		t.want, t.reason = hUnwanted, "its record holds no sensor"
		return t
	case !record.Enabled:
		t.want, t.reason = hUnwanted, store.WhyDisabled(record, pack)
	case spec.OnDemand && len(instances) == 0:
		t.want, t.reason = hUnneeded, "no enabled rule wants its triggers"
	}
	t.key, t.list = t.digests()
	return t
}

// hide finds what of the instances' parameters is secret. Which triggers there are, triggers says.
func (t *target) hide(triggers map[string]*store.Record) {
	for _, instance := range t.instances {
		record := triggers[instance.Trigger]
		if record == nil {
			continue
		}
		trigger, ok := record.Spec.(*manifest.Trigger)
		if !ok || trigger.ParametersSchema == nil {
			continue
		}
		var parameters map[string]any
		if json.Unmarshal(instance.Parameters, &parameters) == nil {
			t.hidden = append(t.hidden, trigger.ParametersSchema.SecretTexts(parameters)...)
		}
	}
}

// hold says whether this node may run the sensor, and under which lease. A process belongs to its lease.
func (t *target) hold(lease string, holds bool) {
	if t.want == hUnwanted {
		return
	}
	if !holds {
		t.want, t.reason = hUnwanted, reasonElsewhere
		return
	}
	t.lease = lease
	t.key += lease
}

// digests makes the restart key, and the digest of the list of instances.
func (t *target) digests() (key, list string) {
	type identity struct {
		ID         string
		Parameters json.RawMessage
	}
	type listed struct {
		identity
		Rules []string
		Since time.Time
	}
	identities := make([]identity, len(t.instances))
	all := make([]listed, len(t.instances))
	for i, instance := range t.instances {
		identities[i] = identity{instance.ID, instance.Parameters}
		all[i] = listed{identities[i], instance.Rules, instance.AnchorAt}
	}
	if t.spec.Updates {
		identities = nil
	}
	key = digest(struct {
		Manifest, Files string
		Config          map[string]any
		Instances       []identity
	}{t.record.Digest, t.record.FilesDigest, t.packConfig, identities})
	return key, digest(all)
}

// secrets gives a digest of the secrets that the sensor is given; empty: none.
func (t *target) secrets(secret func(name string) (string, error)) (string, error) {
	if t.spec == nil {
		return "", nil
	}
	given := map[string]string{}
	note := func(name string) (value string, err error) {
		value, err = secret(name)
		given[name] = value
		return value, err
	}
	resolved := *t
	var err error
	if resolved.packConfig, err = manifest.ResolvedConfig(t.packConfig, note); err != nil {
		return "", err
	}
	if _, err = readConfig(&resolved, note); err != nil || len(given) == 0 {
		return "", err
	}
	return digest(given), nil
}

// digest is of the JSON of a value that always has one: strings, and what was JSON or TOML before.
func digest(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		data = fmt.Append(nil, value)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// item is an element of ATTUNE_SENSOR_TRIGGERS. ID, Ref and Config repeat the first three under the
// names that older packs know.
type item struct {
	Trigger    string          `json:"trigger"`
	Instance   string          `json:"instance"`
	Parameters json.RawMessage `json:"parameters"`
	Rules      []string        `json:"rules"`
	Since      time.Time       `json:"since"`
	Last       *time.Time      `json:"last"`

	ID     string          `json:"id"`
	Ref    string          `json:"ref"`
	Config json.RawMessage `json:"config"`
}

// items gives the instances as the sensor sees them.
func items(instances []store.TriggerInstance) []item {
	list := make([]item, len(instances))
	for i, t := range instances {
		parameters := t.Parameters
		if len(parameters) == 0 {
			parameters = json.RawMessage("{}")
		}
		rules := t.Rules
		if rules == nil {
			rules = []string{}
		}
		list[i] = item{
			Trigger: t.Trigger, Instance: t.ID, Parameters: parameters, Rules: rules, Since: t.AnchorAt, Last: t.LastDue,
			ID: t.ID, Ref: t.Trigger, Config: parameters,
		}
	}
	return list
}

// update is the line that tells a running sensor its instances.
func update(instances []store.TriggerInstance) ([]byte, error) {
	return json.Marshal(struct {
		Type      string `json:"type"`
		Instances []item `json:"instances"`
	}{"triggers", items(instances)})
}

// reference is a whole string that stands for a secret or for a key of the pack's configuration.
var reference = regexp.MustCompile(`^\s*\{\{\s*(secret|pack\.config)\.([A-Za-z0-9_][A-Za-z0-9_.-]*)\s*\}\}\s*$`)

// config is a sensor's configuration, ready to be handed over: open by the environment, secret by
// stdin only.
type config struct {
	open   map[string]string
	secret map[string]any
	hidden []string // the secret values, for masking
}

// readConfig fills in defaults and references. secret resolves a secret by its name.
func readConfig(t *target, secret func(name string) (string, error)) (*config, error) {
	c := &config{open: map[string]string{}, secret: map[string]any{}}
	values := t.spec.Config
	if t.spec.Parameters != nil {
		values = t.spec.Parameters.ApplyDefaults(values)
	}
	owners := map[string]string{}
	for key, value := range values {
		if slices.Contains(ownKeys(), child.Key(key)) {
			return nil, fmt.Errorf("cannot use config key %q: ATTUNE_SENSOR_%s is Attune's own; take another name", key, child.Key(key))
		}
		if other, taken := owners[child.Key(key)]; taken {
			return nil, fmt.Errorf("cannot use config keys %q and %q together: both become ATTUNE_SENSOR_%s", min(key, other), max(key, other), child.Key(key))
		}
		owners[child.Key(key)] = key
		r := resolver{secret: secret, target: t}
		resolved, err := r.resolve(value)
		if err != nil {
			return nil, fmt.Errorf("cannot use config key %q: %w", key, err)
		}
		c.hidden = append(c.hidden, r.hidden...)
		c.hidden = append(c.hidden, t.spec.Parameters.SecretTexts(map[string]any{key: resolved})...)
		if r.found || t.spec.Parameters.HoldsSecret(key) {
			c.secret[key] = resolved
			continue
		}
		if text, ok := variable(resolved); ok {
			c.open[key] = text
		}
	}
	return c, nil
}

// ownKeys are those of ATTUNE_SENSOR_<KEY> that are not the manifest's.
func ownKeys() []string { return []string{"REF", "TRIGGERS", "TRIGGERS_FILE", "PACK", "CURSOR"} }

func escapePointer(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// variable gives a value as the environment has it; false: it is absent.
func variable(value any) (string, bool) {
	switch v := value.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	default:
		data, err := json.Marshal(v)
		return string(data), err == nil
	}
}

type resolver struct {
	secret func(name string) (string, error)
	target *target
	// found says that something secret was, and hidden what of it is not to be shown.
	found  bool
	hidden []string
}

// resolve replaces references, at every depth.
func (r *resolver) resolve(value any) (any, error) {
	switch v := value.(type) {
	case string:
		return r.text(v)
	case []any:
		list := make([]any, len(v))
		for i, element := range v {
			var err error
			if list[i], err = r.resolve(element); err != nil {
				return nil, err
			}
		}
		return list, nil
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, element := range v {
			var err error
			if m[key], err = r.resolve(element); err != nil {
				return nil, err
			}
		}
		return m, nil
	default:
		return value, nil
	}
}

func (r *resolver) text(text string) (any, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	match := reference.FindStringSubmatch(text)
	if match == nil {
		return nil, fmt.Errorf("found %q, expected {{ secret.name }} or {{ pack.config.key }} as the whole value", text)
	}
	if match[1] == "secret" {
		value, err := r.secret(match[2])
		if err != nil {
			// The secret may come any moment, without any change to the pack.
			return nil, fmt.Errorf("%w: %v", errAway, err)
		}
		r.hide(value)
		return value, nil
	}
	return r.packConfig(match[2]), nil
}

// packConfig follows a path of keys; nil: there is nothing.
func (r *resolver) packConfig(path string) any {
	var value any = r.target.packConfig
	var pointer strings.Builder
	for name := range strings.SplitSeq(path, ".") {
		m, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = m[name]
		pointer.WriteString("/" + escapePointer(name))
	}
	switch at, schema := pointer.String(), r.target.confSchema; {
	case value == nil:
	case schema.IsSecret(at):
		r.hide(value)
	default:
		// It replaces nothing, so it cannot fail.
		_, _ = schema.ReplaceSecrets(r.target.packConfig, func(pointer string, value any) (any, error) {
			if strings.HasPrefix(pointer, at+"/") {
				r.hide(value)
			}
			return value, nil
		})
	}
	return value
}

func (r *resolver) hide(value any) {
	r.found, r.hidden = true, append(r.hidden, manifest.Texts(value)...)
}
