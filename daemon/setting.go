package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

// Setting is one key as `config show` prints it.
type Setting struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
	// Origin is "default", "attune.toml:12", "$ATTUNE_LOG_LEVEL" or "--listen".
	Origin string `json:"origin"`
}

// Settings gives every key with its value and where that comes from. Passwords are masked, and of
// [packs.config] what the pack calls secret; where its conf_schema cannot be read, all that is no default.
func (c *Config) Settings() []Setting {
	var settings []Setting
	for _, s := range c.keys() {
		settings = append(settings, Setting{Key: s.key, Value: s.value.show(), Origin: c.origin(s.key)})
	}
	for _, pack := range slices.Sorted(maps.Keys(c.Packs.Config)) {
		hide := c.hideSecrets(pack)
		for _, key := range slices.Sorted(maps.Keys(c.Packs.Config[pack])) {
			full := "packs.config." + pack + "." + key
			settings = append(settings, Setting{Key: full, Value: hide(key), Origin: c.origin(full)})
		}
	}
	return settings
}

// hideSecrets gives the values of a pack's configuration for people to see.
func (c *Config) hideSecrets(pack string) func(key string) any {
	const hidden = "***"
	values := c.Packs.Config[pack]
	schema, err := c.confSchema(pack)
	shown, replaceErr := schema.ReplaceSecrets(values, func(string, any) (any, error) { return hidden, nil })
	return func(key string) any {
		if _, given := c.origins["packs.config."+pack+"."+key]; given && (err != nil || replaceErr != nil) {
			return hidden
		}
		return shown[key]
	}
}

// confSchema reads what a pack in the packs folder says of its configuration. The last folder that has
// the pack wins.
func (c *Config) confSchema(pack string) (*manifest.Schema, error) {
	for _, dir := range slices.Backward(c.Packs.Directories) {
		files := map[string]manifest.File{}
		for _, name := range []string{"pack.yaml", "config.schema.yaml"} {
			content, err := os.ReadFile(filepath.Join(dir, pack, name))
			if err == nil {
				files[name] = manifest.File{Content: content}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		if len(files) == 0 {
			continue
		}
		if bundle := manifest.Parse(pack, files); bundle.Pack != nil {
			return bundle.Pack.ConfSchema, nil
		}
		return nil, fmt.Errorf("pack %s in %s cannot be read", pack, dir)
	}
	return nil, fmt.Errorf("there is no pack %s", pack)
}

func (c *Config) origin(key string) string {
	if origin, ok := c.origins[key]; ok {
		return origin
	}
	return "default"
}

// given records where a key was given.
func (c *Config) given(key string, place manifest.Place) {
	c.places[key] = place
	c.origins[key] = place.File
	if place.Line > 0 {
		c.origins[key] = fmt.Sprintf("%s:%d", place.File, place.Line)
	}
}

// key is one key of the configuration and the field that it sets.
type key struct {
	key   string
	value value
}

// keys is the one table of all keys but those of [packs.config], which belong to the packs.
func (c *Config) keys() []key {
	return []key{
		{"packs.directory", (*listValue)(&c.Packs.Directories)},
		{"packs.auto_load", (*listValue)(&c.Packs.AutoLoad)},
		{"packs.world_writable", (*textValue)(&c.Packs.WorldWritable)},
		{"packs.signatures", (*textValue)(&c.Packs.Signatures)},
		{"packs.keys", (*listValue)(&c.Packs.Keys)},
		{"database.url", (*urlValue)(&c.Database.URL)},
		{"database.pooler", (*textValue)(&c.Database.Pooler)},
		{"state.directory", (*textValue)(&c.State.Directory)},
		{"http.listen", (*textValue)(&c.HTTP.Listen)},
		{"http.socket", (*textValue)(&c.HTTP.Socket)},
		{"http.tls_cert", (*textValue)(&c.HTTP.TLSCert)},
		{"http.tls_key", (*textValue)(&c.HTTP.TLSKey)},
		{"http.hosts", (*listValue)(&c.HTTP.Hosts)},
		{"reconcile.debounce", (*durationValue)(&c.Reconcile.Debounce)},
		{"reconcile.max_wait", (*durationValue)(&c.Reconcile.MaxWait)},
		{"reconcile.resync", (*durationValue)(&c.Reconcile.Resync)},
		{"reconcile.mode", (*textValue)(&c.Reconcile.Mode)},
		{"exec.workers", (*intValue)(&c.Exec.Workers)},
		{"exec.timeout", (*durationValue)(&c.Exec.Timeout)},
		{"exec.output_limit", (*sizeValue)(&c.Exec.OutputLimit)},
		{"exec.stop_grace", (*durationValue)(&c.Exec.StopGrace)},
		{"exec.drain", (*durationValue)(&c.Exec.Drain)},
		{"exec.run_as", (*textValue)(&c.Exec.RunAs)},
		{"exec.limit_memory", (*sizeValue)(&c.Exec.LimitMemory)},
		{"exec.limit_pids", (*intValue)(&c.Exec.LimitPids)},
		{"exec.limit_cpu", (*floatValue)(&c.Exec.LimitCPU)},
		{"exec.limit_nofile", (*intValue)(&c.Exec.LimitOpenFiles)},
		{"exec.limit_fsize", (*sizeValue)(&c.Exec.LimitFileSize)},
		{"exec.chain_limit", (*intValue)(&c.Exec.ChainLimit)},
		{"exec.warm", (*boolValue)(&c.Exec.Warm)},
		{"runtimes.python_index", (*urlValue)(&c.Runtimes.PythonIndex)},
		{"runtimes.python_wheels", (*textValue)(&c.Runtimes.PythonWheels)},
		{"runtimes.node_registry", (*urlValue)(&c.Runtimes.NodeRegistry)},
		{"runtimes.build_timeout", (*durationValue)(&c.Runtimes.BuildTimeout)},
		{"retention.events", (*durationValue)(&c.Retention.Events)},
		{"retention.executions", (*durationValue)(&c.Retention.Executions)},
		{"retention.events_count", (*intValue)(&c.Retention.EventsCount)},
		{"retention.executions_count", (*intValue)(&c.Retention.ExecutionsCount)},
		{"retention.revisions", (*intValue)(&c.Retention.Revisions)},
		{"retention.revisions_age", (*durationValue)(&c.Retention.RevisionsAge)},
		{"retention.audit", (*durationValue)(&c.Retention.Audit)},
		{"secrets.directory", (*textValue)(&c.Secrets.Directory)},
		{"secrets.key_file", (*textValue)(&c.Secrets.KeyFile)},
		{"trace.endpoint", (*textValue)(&c.Trace.Endpoint)},
		{"log.level", (*textValue)(&c.Log.Level)},
		{"log.format", (*textValue)(&c.Log.Format)},
	}
}

// readEnvironment sets every key whose variable is there, and refuses what can only be meant for one.
func (c *Config) readEnvironment(env map[string]string) []ConfigProblem {
	var problems []ConfigProblem
	known := map[string]bool{}
	for _, k := range c.keys() {
		name := variableOf(k.key)
		known[name] = true
		text, ok := env[name]
		if !ok {
			continue
		}
		c.given(k.key, manifest.Place{File: "$" + name})
		if err := k.value.parse(text); err != nil {
			problems = append(problems, c.problem(k.key, "%v", err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !known[name] {
			problems = append(problems, unknownVariable(name, env[name], c.keys())...)
		}
	}
	return problems
}

// variablePrefix is what the variable of each key begins with.
const variablePrefix = "ATTUNE_"

// variableOf names the variable of a key.
func variableOf(key string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// unknownVariable says what is wrong with a variable that is none of a key's: that it begins as those of a table, or
// is a slip away from one. Other variables that begin with ATTUNE_ are somebody else's: those of commands, those
// that children get, and a daemon may run as a child of another.
func unknownVariable(name, value string, keys []key) []ConfigProblem {
	rest, ours := strings.CutPrefix(name, variablePrefix)
	if !ours || foreignVariable.MatchString(rest) || serviceLink(rest, value) {
		return nil
	}
	var all, inTable []string
	for _, k := range keys {
		variable := strings.TrimPrefix(variableOf(k.key), variablePrefix)
		all = append(all, variable)
		section, _, _ := strings.Cut(k.key, ".")
		if strings.HasPrefix(rest, strings.ToUpper(section)+"_") {
			inTable = append(inTable, variable)
		}
	}
	near := manifest.Nearest(rest, all)
	if inTable == nil && near == "" {
		return nil
	}
	p := ConfigProblem{Place: manifest.Place{File: "$" + name}, Message: "cannot use it: found a variable of no key"}
	switch {
	case near != "":
		p.Hint = fmt.Sprintf("did you mean %s%s?", variablePrefix, near)
	default:
		p.Message += ", expected one of " + variablePrefix + strings.Join(inTable, ", "+variablePrefix)
	}
	return []ConfigProblem{p}
}

// foreignVariable are the names behind ATTUNE_ that would pass for a key's, or for a slip in one: ATTUNE_EXEC_ID,
// which every action gets, and those that are made of names that packs choose.
var foreignVariable = regexp.MustCompile(`^(EXEC_ID$|ACTION_|SENSOR_|PACK_CONFIG_)`)

// serviceLink says whether Kubernetes made a variable for a service beside the daemon's, such as one that is called
// attune-database.
func serviceLink(rest, value string) bool {
	return serviceVariable.MatchString(rest) || strings.HasSuffix(rest, "_PORT") && strings.Contains(value, "://")
}

var serviceVariable = regexp.MustCompile(`_SERVICE_(HOST|PORT)|_PORT_[0-9]+_`)

func (c *Config) readFlags(flags []Flag) []ConfigProblem {
	var problems []ConfigProblem
	keys := c.keys()
	for _, flag := range flags {
		i := slices.IndexFunc(keys, func(k key) bool { return k.key == flag.Key })
		if i < 0 {
			problems = append(problems, ConfigProblem{
				Place: manifest.Place{File: flag.Name}, Key: flag.Key,
				Message: fmt.Sprintf("cannot use %s: found an unknown key", flag.Key),
			})
			continue
		}
		c.given(flag.Key, manifest.Place{File: flag.Name})
		if err := keys[i].value.parse(flag.Value); err != nil {
			problems = append(problems, c.problem(flag.Key, "%v", err))
		}
	}
	return problems
}

// value is a field that can be set from TOML and from text. Errors read "found …, expected …".
type value interface {
	// set takes a value as go-toml decodes it.
	set(v any) error
	// parse takes the text of a variable or a flag.
	parse(text string) error
	// show gives the value as people write it.
	show() any
}

// mismatch says what was found instead of what was expected.
func mismatch(found any, expected string) error {
	return fmt.Errorf("found %s, expected %s", describe(found), expected)
}

// describe shows a TOML value in a message.
func describe(v any) string {
	const longest = 60 // bytes, so that the end of the message is still seen
	switch v := v.(type) {
	case string:
		if len(v) > longest {
			v = strings.ToValidUTF8(v[:longest], "") + "…"
		}
		return strconv.Quote(v)
	case map[string]any:
		return "a table"
	case []any:
		return "an array"
	case bool, int64, float64:
		return fmt.Sprint(v)
	default:
		return "a date or time"
	}
}

type textValue string

func (t *textValue) set(v any) error {
	text, ok := v.(string)
	if !ok {
		return mismatch(v, "a string")
	}
	return t.parse(text)
}

func (t *textValue) parse(text string) error {
	if strings.ContainsRune(text, 0) {
		return errors.New("found a NUL byte, expected a string")
	}
	*t = textValue(text)
	return nil
}

func (t *textValue) show() any { return string(*t) }

// urlValue is a text that may hold a password.
type urlValue string

func (u *urlValue) set(v any) error         { return (*textValue)(u).set(v) }
func (u *urlValue) parse(text string) error { return (*textValue)(u).parse(text) }
func (u *urlValue) show() any               { return redactURL(string(*u)) }

// listValue is one text or an array of them.
type listValue []string

func (l *listValue) set(v any) error {
	const expected = "a string or an array of strings"
	switch v := v.(type) {
	case string:
		*l = listValue{v}
	case []any:
		items := make(listValue, len(v))
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				return mismatch(item, expected)
			}
			items[i] = text
		}
		*l = items
	default:
		return mismatch(v, expected)
	}
	return nil
}

func (l *listValue) parse(text string) error {
	items := listValue{}
	for item := range strings.SplitSeq(text, ",") {
		items = append(items, strings.TrimSpace(item))
	}
	*l = items
	return nil
}

func (l *listValue) show() any { return []string(*l) }

type intValue int

func (i *intValue) set(v any) error {
	n, ok := v.(int64)
	if !ok || n > math.MaxInt32 || n < math.MinInt32 {
		return mismatch(v, "a whole number")
	}
	*i = intValue(n)
	return nil
}

func (i *intValue) parse(text string) error {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return mismatch(text, "a whole number")
	}
	return i.set(n)
}

func (i *intValue) show() any { return int(*i) }

type floatValue float64

func (f *floatValue) set(v any) error {
	switch n := v.(type) {
	case int64:
		*f = floatValue(n)
	case float64:
		*f = floatValue(n)
	default:
		return mismatch(v, "a number")
	}
	if math.IsNaN(float64(*f)) || math.IsInf(float64(*f), 0) {
		return mismatch(v, "a number")
	}
	return nil
}

func (f *floatValue) parse(text string) error {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return mismatch(text, "a number")
	}
	return f.set(n)
}

func (f *floatValue) show() any { return float64(*f) }

type boolValue bool

func (b *boolValue) set(v any) error {
	truth, ok := v.(bool)
	if !ok {
		return mismatch(v, "true or false")
	}
	*b = boolValue(truth)
	return nil
}

func (b *boolValue) parse(text string) error {
	switch text {
	case "true", "1":
		*b = true
	case "false", "0":
		*b = false
	default:
		return mismatch(text, "true or false")
	}
	return nil
}

func (b *boolValue) show() any { return bool(*b) }

type durationValue time.Duration

func (d *durationValue) set(v any) error {
	text, ok := v.(string)
	if !ok {
		return mismatch(v, durationForm)
	}
	return d.parse(text)
}

func (d *durationValue) parse(text string) error {
	parsed, ok := parseDuration(text)
	if !ok {
		return mismatch(text, durationForm)
	}
	*d = durationValue(parsed)
	return nil
}

func (d *durationValue) show() any { return formatDuration(time.Duration(*d)) }

const durationForm = `a duration like "250ms", "5m" or "30d"`

var durationText = regexp.MustCompile(`^(?:(\d{1,5})d)?((?:\d+(?:\.\d+)?(?:ms|us|µs|ns|h|m|s))*)$`)

// parseDuration reads "250ms", "1h30m" or "30d"; "0" too.
func parseDuration(text string) (time.Duration, bool) {
	if text == "0" {
		return 0, true
	}
	match := durationText.FindStringSubmatch(text)
	if text == "" || match == nil {
		return 0, false
	}
	var total time.Duration
	if match[1] != "" {
		days, err := strconv.Atoi(match[1])
		if err != nil {
			return 0, false
		}
		total = time.Duration(days) * 24 * time.Hour
	}
	if match[2] != "" {
		rest, err := time.ParseDuration(match[2])
		if err != nil || rest > math.MaxInt64-total {
			return 0, false
		}
		total += rest
	}
	return total, true
}

// formatDuration gives the form that people write: "250ms", "5m", "30d".
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

type sizeValue int64

func (s *sizeValue) set(v any) error {
	text, ok := v.(string)
	if !ok {
		return mismatch(v, sizeForm)
	}
	return s.parse(text)
}

func (s *sizeValue) parse(text string) error {
	match := sizeText.FindStringSubmatch(text)
	if match == nil {
		return mismatch(text, sizeForm)
	}
	n, err := strconv.ParseInt(match[1], 10, 64)
	factor := sizeUnits[match[2]]
	if err != nil || n > math.MaxInt64/factor {
		return mismatch(text, sizeForm)
	}
	*s = sizeValue(n * factor)
	return nil
}

func (s *sizeValue) show() any { return formatSize(int64(*s)) }

const sizeForm = `a size like "64KiB" or "1MiB"`

var sizeText = regexp.MustCompile(`^(\d+) ?(B|KiB|MiB|GiB)$`)

var sizeUnits = map[string]int64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

// formatSize gives the largest unit that leaves a whole number.
func formatSize(n int64) string {
	for _, unit := range []string{"GiB", "MiB", "KiB"} {
		if factor := sizeUnits[unit]; n != 0 && n%factor == 0 {
			return fmt.Sprintf("%d%s", n/factor, unit)
		}
	}
	return fmt.Sprintf("%dB", n)
}

var passwordWord = regexp.MustCompile(`(?i)(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)`)

// redactURL masks the password of a connection string in either of its forms.
func redactURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err == nil && u.Scheme != "":
		query := u.Query()
		if query.Has("password") {
			query.Set("password", "xxxxx")
			u.RawQuery = query.Encode()
		}
		return u.Redacted()
	case strings.Contains(text, "://"):
		return "(not a URL; it is not shown, since it may hold a password)"
	default:
		return passwordWord.ReplaceAllString(text, "${1}xxxxx")
	}
}

// HasPassword tells whether a database's address holds a password.
func HasPassword(address string) bool { return redactURL(address) != address }
