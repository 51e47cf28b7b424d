package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/exec/rule"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
)

// Config is attune.toml. Every key is optional, can be given as ATTUNE_<SECTION>_<KEY> too, and, for
// some, as a flag; the file attune.toml in the root of the repository says what each is for.
type Config struct {
	Packs     PacksConfig     `toml:"packs"`
	Database  DatabaseConfig  `toml:"database"`
	State     StateConfig     `toml:"state"`
	HTTP      HTTPConfig      `toml:"http"`
	Reconcile ReconcileConfig `toml:"reconcile"`
	Exec      ExecConfig      `toml:"exec"`
	Retention RetentionConfig `toml:"retention"`
	Secrets   SecretsConfig   `toml:"secrets"`
	Runtimes  RuntimesConfig  `toml:"runtimes"`
	Trace     TraceConfig     `toml:"trace"`
	Log       LogConfig       `toml:"log"`

	// file is where it was read from; empty: there was none.
	file string
	// places are where keys were given, and origins what `config show` says of that; a key in neither
	// has its default.
	places  map[string]manifest.Place
	origins map[string]string
	// machine is what the defaults of paths depend on.
	machine machine
}

// PacksConfig is [packs].
type PacksConfig struct {
	// Directories hold the packs; of two packs with one ref the later folder's wins. Defaults to
	// ./packs, beside attune.toml.
	Directories []string `toml:"directory"`
	// AutoLoad are patterns (path.Match) of the packs to load. Defaults to all.
	AutoLoad []string `toml:"auto_load"`
	// WorldWritable is what becomes of packs that everybody on the machine may write: refuse or warn. Defaults to
	// refuse.
	WorldWritable string `toml:"world_writable"`
	// Signatures is what is asked of packs' signatures: off, warn or enforce. Defaults to off.
	Signatures string `toml:"signatures"`
	// Keys are public keys whose signatures count, each perhaps with a name behind it. Defaults to none.
	Keys []string `toml:"keys"`
	// Config is the configuration of packs, by ref. Defaults to what core wants.
	Config map[string]map[string]any `toml:"config"`
}

// DatabaseConfig is [database].
type DatabaseConfig struct {
	// URL of a PostgreSQL database. Defaults to a private server in the state directory.
	URL string `toml:"url"`
	// Pooler between the daemon and the server: none or transaction. Defaults to none.
	Pooler string `toml:"pooler"`
}

// StateConfig is [state].
type StateConfig struct {
	// Directory for what outlives a restart. Defaults to $STATE_DIRECTORY, else /var/lib/attune as
	// root, else ~/.local/state/attune.
	Directory string `toml:"directory"`
}

// HTTPConfig is [http].
type HTTPConfig struct {
	// Listen is host:port; empty turns TCP off. Other addresses than loopback want TLS, and a token to be there.
	// Defaults to 127.0.0.1:9753.
	Listen string `toml:"listen"`
	// Socket is the path of the unix socket. Defaults to attune.sock in the runtime directory.
	Socket string `toml:"socket"`
	// TLSCert and TLSKey are PEM files; with both, TCP speaks TLS. Defaults to plain HTTP.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`
	// Hosts are further names under which TCP is served, beside addresses, localhost and the certificate's.
	// Defaults to none.
	Hosts []string `toml:"hosts"`
}

// ReconcileConfig is [reconcile].
type ReconcileConfig struct {
	// Debounce is how long a pack must have been quiet before it is read. Defaults to 250ms.
	Debounce time.Duration `toml:"debounce"`
	// MaxWait bounds the waiting under constant writes. Defaults to 2s.
	MaxWait time.Duration `toml:"max_wait"`
	// Resync is how often everything is read whatever was noticed. Defaults to 30s.
	Resync time.Duration `toml:"resync"`
	// Mode is apply or plan (look, but change nothing). Defaults to apply.
	Mode string `toml:"mode"`
}

// ExecConfig is [exec].
type ExecConfig struct {
	// Workers is how many actions run at once. Defaults to 0: twice the cores.
	Workers int `toml:"workers"`
	// Timeout of actions that name none. Defaults to 300s.
	Timeout time.Duration `toml:"timeout"`
	// OutputLimit is how many bytes of an action's stdout, and of its stderr, are kept. Defaults to
	// 1MiB.
	OutputLimit int64 `toml:"output_limit"`
	// StopGrace is the time between SIGTERM and SIGKILL. Defaults to 10s.
	StopGrace time.Duration `toml:"stop_grace"`
	// Drain is how long running actions may go on when the daemon stops. Defaults to 60s.
	Drain time.Duration `toml:"drain"`
	// RunAs is the user that children run as whose manifest names none. Defaults to the daemon's own.
	RunAs string `toml:"run_as"`
	// LimitMemory, LimitPids, LimitCPU, LimitOpenFiles and LimitFileSize bound every child whose
	// manifest does not; 0: not at all. Default to nothing but 1024 processes.
	LimitMemory    int64   `toml:"limit_memory"`
	LimitPids      int     `toml:"limit_pids"`
	LimitCPU       float64 `toml:"limit_cpu"`
	LimitOpenFiles int     `toml:"limit_nofile"`
	LimitFileSize  int64   `toml:"limit_fsize"`
	// ChainLimit is how many executions may follow from one another by events about their ends. Defaults
	// to 10.
	ChainLimit int `toml:"chain_limit"`
	// Warm starts all actions from warm interpreters, not only those that say so. Defaults to false.
	Warm bool `toml:"warm"`
}

// RetentionConfig is [retention].
type RetentionConfig struct {
	// Events and Executions are how long history is kept; 0: for ever. Default to 30d and 90d.
	Events     time.Duration `toml:"events"`
	Executions time.Duration `toml:"executions"`
	// EventsCount and ExecutionsCount bound how many are kept, to the day: days go, oldest first, as long as
	// so many are left; 0: age alone ends them. Default to 0.
	EventsCount     int `toml:"events_count"`
	ExecutionsCount int `toml:"executions_count"`
	// Revisions is how many of a pack are kept beside those in force; 0: all. Defaults to 50.
	Revisions int `toml:"revisions"`
	// RevisionsAge ends revisions that are older, also among the newest; 0: none. Defaults to 0.
	RevisionsAge time.Duration `toml:"revisions_age"`
	// Audit is how long it is known who changed what; 0: for ever. Defaults to 365d.
	Audit time.Duration `toml:"audit"`
}

// RuntimesConfig is [runtimes].
type RuntimesConfig struct {
	// PythonIndex is the address of the index that pip installs from. Defaults to pip's own.
	PythonIndex string `toml:"python_index"`
	// PythonWheels is a folder of wheels that pip installs from, and from nowhere else. Defaults to none.
	PythonWheels string `toml:"python_wheels"`
	// NodeRegistry is the address of the registry that npm installs from. Defaults to npm's own.
	NodeRegistry string `toml:"node_registry"`
	// BuildTimeout bounds the making of one environment. Defaults to 15m.
	BuildTimeout time.Duration `toml:"build_timeout"`
}

// SecretsConfig is [secrets].
type SecretsConfig struct {
	// Directory has a file for each secret. Defaults to $CREDENTIALS_DIRECTORY, where set.
	Directory string `toml:"directory"`
	// KeyFile holds the keys that secret parameters are encrypted with. Defaults to attune.key in
	// $CREDENTIALS_DIRECTORY, where there is one, else in the state directory, where it is made.
	KeyFile string `toml:"key_file"`
}

// LogConfig is [log].
type LogConfig struct {
	// Level is debug, info, warn or error. Defaults to info.
	Level string `toml:"level"`
	// Format is auto, text, json or journal. Defaults to auto: journal under systemd, else text.
	Format string `toml:"format"`
}

// TraceConfig is [trace].
type TraceConfig struct {
	// Endpoint is the URL of a collector that takes OTLP over HTTP. Empty, the default: nothing is traced.
	Endpoint string `toml:"endpoint"`
}

// DefaultConfig is what an empty attune.toml means.
func DefaultConfig() *Config {
	const day = 24 * time.Hour
	return &Config{
		Packs: PacksConfig{
			Directories:   []string{"./packs"},
			AutoLoad:      []string{"*"},
			WorldWritable: "refuse", Signatures: reconcile.SignaturesOff, Keys: []string{},
			Config: map[string]map[string]any{
				"core": {"max_action_timeout": int64(300), "enable_debug_logging": false},
			},
		},
		Database:  DatabaseConfig{Pooler: "none"},
		HTTP:      HTTPConfig{Listen: "127.0.0.1:9753", Hosts: []string{}},
		Reconcile: ReconcileConfig{Debounce: 250 * time.Millisecond, MaxWait: 2 * time.Second, Resync: 30 * time.Second, Mode: "apply"},
		Exec: ExecConfig{
			Timeout: 300 * time.Second, OutputLimit: 1 << 20, StopGrace: 10 * time.Second, Drain: 60 * time.Second,
			LimitPids: 1024, ChainLimit: rule.DefaultChain,
		},
		Runtimes:  RuntimesConfig{BuildTimeout: 15 * time.Minute},
		Retention: RetentionConfig{Events: 30 * day, Executions: 90 * day, Revisions: 50, Audit: 365 * day},
		Log:       LogConfig{Level: "info", Format: "auto"},
		places:    map[string]manifest.Place{},
		origins:   map[string]string{},
		machine:   machine{env: map[string]string{}},
	}
}

// Flag is a key given on the command line, above file and environment.
type Flag struct {
	Key   string // "http.listen"
	Value string
	Name  string // "--listen"
}

// machine is what the defaults of paths depend on.
type machine struct {
	env  map[string]string
	root bool
	// directory is the one that relative paths of environment and flags are meant from.
	directory string
}

const (
	// systemFile is the configuration of an installed daemon.
	systemFile = "/etc/attune/attune.toml"

	// maxConfigSize bounds attune.toml, in bytes: what is longer is some other file.
	maxConfigSize = 1 << 20

	// maxSocketPath is the longest path of a unix socket, in bytes. The kernel takes 107; below that
	// there must be room for the name under which a new socket is made.
	maxSocketPath = 100

	// socketName is the socket's file in each of the folders that it may be in.
	socketName = "attune.sock"
)

// FindConfig loads the configuration that a command goes by: the file at path, or else $ATTUNE_CONFIG,
// ./attune.toml or /etc/attune/attune.toml, or none; above it the environment, and above that the
// flags. Relative paths in the file are meant from its folder. The error is a *ConfigError with
// everything that is wrong.
func FindConfig(path string, environ []string, flags ...Flag) (*Config, error) {
	env := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			env[name] = value
		}
	}
	file, text, err := findFile(path, env["ATTUNE_CONFIG"])
	if err != nil {
		return nil, err
	}
	c := DefaultConfig()
	problems := c.read(file, text)
	c.file = file
	c.machine = machine{env: env, root: os.Geteuid() == 0}
	if c.machine.directory, err = os.Getwd(); err != nil {
		return nil, &ConfigError{Problems: []ConfigProblem{{Message: fmt.Sprintf("cannot find the working directory: %v", err)}}}
	}
	problems = append(problems, c.readEnvironment(env)...)
	problems = append(problems, c.readFlags(flags)...)
	problems = append(problems, c.readCredential()...)
	if len(problems) == 0 {
		problems = c.validate()
	}
	if len(problems) > 0 {
		return nil, newConfigError(problems)
	}
	c.resolve()
	return c, nil
}

// LoadConfig reads the text of a configuration file; path is for errors. It touches neither the
// environment nor other files, and leaves relative paths as they are.
func LoadConfig(path string, text []byte) (*Config, error) {
	c := DefaultConfig()
	problems := c.read(path, text)
	if len(problems) == 0 {
		problems = c.validate()
	}
	if len(problems) > 0 {
		return nil, newConfigError(problems)
	}
	c.file = path
	return c, nil
}

// findFile gives the file to read, and its text; no file is no error unless it was asked for.
func findFile(flag, variable string) (string, []byte, error) {
	asked, where := flag, "--config"
	if asked == "" {
		asked, where = variable, "$ATTUNE_CONFIG"
	}
	candidates := []string{asked}
	if asked == "" {
		candidates = []string{"attune.toml", systemFile}
	}
	for _, candidate := range candidates {
		text, err := readFile(candidate)
		switch {
		case err == nil:
			return candidate, text, nil
		case asked != "":
			return "", nil, newConfigError([]ConfigProblem{{
				Place:   manifest.Place{File: candidate},
				Message: fmt.Sprintf("cannot read the configuration named by %s: %v", where, cause(err)),
			}})
		case !os.IsNotExist(err):
			return "", nil, newConfigError([]ConfigProblem{{
				Place: manifest.Place{File: candidate}, Message: fmt.Sprintf("cannot read the configuration: %v", cause(err)),
			}})
		}
	}
	return "", nil, nil
}

func readFile(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfigSize+1))
	if err == nil && len(text) > maxConfigSize {
		err = fmt.Errorf("it is longer than %s", formatSize(maxConfigSize))
	}
	return text, err
}

// CredentialDatabase is the credential with the database's URL, which has a password.
const CredentialDatabase = "attune.database-url"

// readCredential takes the database's URL from its credential, where nothing else says one.
func (c *Config) readCredential() []ConfigProblem {
	dir := c.machine.env["CREDENTIALS_DIRECTORY"]
	if dir == "" || c.Database.URL != "" {
		return nil
	}
	path := filepath.Join(dir, CredentialDatabase)
	text, err := readFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return []ConfigProblem{{Place: manifest.Place{File: path}, Message: fmt.Sprintf("cannot read the credential: %v", cause(err))}}
	}
	c.given("database.url", manifest.Place{File: path})
	c.Database.URL = strings.TrimSpace(string(text))
	return nil
}

// cause strips an error of the path that the message has already.
func cause(err error) error {
	if wrapped, ok := errors.AsType[*os.PathError](err); ok {
		return wrapped.Err
	}
	return err
}

// File is the file that the configuration was read from; empty: there was none.
func (c *Config) File() string { return c.file }

// Validate tells what no value alone shows: choices, ranges, and keys that do not go together.
func (c *Config) Validate() error { return newConfigError(c.validate()) }

// StateDirectory is where what outlives a restart is kept; empty: nobody can say.
func (c *Config) StateDirectory() string {
	env := c.machine.env
	switch {
	case c.State.Directory != "":
		return c.State.Directory
	case firstPath(env["STATE_DIRECTORY"]) != "":
		return firstPath(env["STATE_DIRECTORY"])
	case c.machine.root:
		return "/var/lib/attune"
	case env["HOME"] != "":
		return filepath.Join(env["HOME"], ".local", "state", "attune")
	default:
		return ""
	}
}

// SecretsDirectory has a file for each secret; empty: there are none.
func (c *Config) SecretsDirectory() string {
	if c.Secrets.Directory != "" {
		return c.Secrets.Directory
	}
	return c.machine.env["CREDENTIALS_DIRECTORY"]
}

// credentialKey is the credential, and the file in the state directory, with the keys of parameters.
const credentialKey = "attune.key"

// KeyFile is where the keys are that secret parameters are encrypted with.
func (c *Config) KeyFile() seal.Options {
	if c.Secrets.KeyFile != "" {
		return seal.Options{Path: c.Secrets.KeyFile}
	}
	if dir := c.machine.env["CREDENTIALS_DIRECTORY"]; dir != "" {
		path := filepath.Join(dir, credentialKey)
		if _, err := os.Stat(path); err == nil {
			return seal.Options{Path: path, Guarded: true}
		}
	}
	return seal.Options{Path: filepath.Join(c.StateDirectory(), credentialKey), Create: true}
}

// SocketCandidates are the places where a client looks for the daemon's socket, in order.
func (c *Config) SocketCandidates() []string {
	if c.HTTP.Socket != "" {
		return []string{c.HTTP.Socket}
	}
	var folders []string
	if dir := firstPath(c.machine.env["RUNTIME_DIRECTORY"]); dir != "" {
		folders = append(folders, dir)
	}
	folders = append(folders, "/run/attune")
	if dir := c.machine.env["XDG_RUNTIME_DIR"]; dir != "" {
		folders = append(folders, filepath.Join(dir, "attune"))
	}
	if dir := c.StateDirectory(); dir != "" {
		folders = append(folders, dir)
	}
	var candidates []string
	for _, folder := range folders {
		if candidate := filepath.Join(folder, socketName); !slices.Contains(candidates, candidate) {
			candidates = append(candidates, candidate)
		}
	}
	return candidates
}

// SocketPath is where the daemon makes its socket: the first of the candidates that is its to make.
func (c *Config) SocketPath() (string, error) {
	candidates := c.SocketCandidates()
	if c.HTTP.Socket == "" && !c.machine.root {
		system := filepath.Join("/run/attune", socketName)
		runtimeDir := firstPath(c.machine.env["RUNTIME_DIRECTORY"])
		candidates = slices.DeleteFunc(candidates, func(p string) bool { return p == system && runtimeDir != "/run/attune" })
	}
	if len(candidates) == 0 {
		return "", fmt.Errorf("cannot choose a path for the socket: set http.socket or state.directory")
	}
	if chosen := candidates[0]; len(chosen) > maxSocketPath {
		return "", fmt.Errorf("cannot make socket %s: its path has %d bytes, expected at most %d; set http.socket to a shorter one",
			chosen, len(chosen), maxSocketPath)
	}
	return candidates[0], nil
}

// firstPath is the first of a list of paths, as systemd gives where a unit has several folders.
func firstPath(list string) string {
	first, _, _ := strings.Cut(list, ":")
	return first
}

// resolve makes paths absolute: those of the file from its folder, the others from the working
// directory. A default path counts as one of the file.
func (c *Config) resolve() {
	fileFolder := c.machine.directory
	if c.file != "" {
		fileFolder = filepath.Join(fileFolder, filepath.Dir(c.file))
		if filepath.IsAbs(c.file) {
			fileFolder = filepath.Dir(c.file)
		}
	}
	absolute := func(key string, p *string) {
		if *p == "" || filepath.IsAbs(*p) {
			return
		}
		folder := fileFolder
		if place, ok := c.places[key]; ok && place.Line == 0 {
			folder = c.machine.directory
		}
		*p = filepath.Join(folder, *p)
	}
	c.eachPath(absolute)
}

// eachPath gives each path of the configuration, with its key.
func (c *Config) eachPath(path func(key string, p *string)) {
	for i := range c.Packs.Directories {
		path("packs.directory", &c.Packs.Directories[i])
	}
	path("state.directory", &c.State.Directory)
	path("runtimes.python_wheels", &c.Runtimes.PythonWheels)
	path("secrets.directory", &c.Secrets.Directory)
	path("secrets.key_file", &c.Secrets.KeyFile)
	path("http.socket", &c.HTTP.Socket)
	path("http.tls_cert", &c.HTTP.TLSCert)
	path("http.tls_key", &c.HTTP.TLSKey)
}

// shellPath is a path that only a shell would understand: it would be a folder called ~ beside the file.
var shellPath = regexp.MustCompile(`^(~[^/]*|\$[A-Za-z_{][^/]*)(/|$)`)

// shellProblem says what to write instead of a path that only a shell understands; empty: it is none.
func (c *Config) shellProblem(p string) string {
	word := shellPath.FindString(p)
	if word == "" {
		return ""
	}
	text := fmt.Sprintf("found %q, expected the whole path: %s means something to shells only", p, strings.TrimSuffix(word, "/"))
	switch home := c.machine.env["HOME"]; strings.TrimSuffix(word, "/") {
	case "~", "$HOME", "${HOME}":
		if home != "" {
			text += fmt.Sprintf("; write %q", filepath.Join(home, strings.TrimPrefix(p, word)))
		}
	}
	return text
}

// Trust is what [packs] says of who may write packs. The configuration has to be valid.
func (c *Config) Trust() reconcile.Trust {
	trust := reconcile.Trust{WorldWritable: c.Packs.WorldWritable == "warn", Signatures: c.Packs.Signatures}
	for _, text := range c.Packs.Keys {
		if key, err := reconcile.ParsePublicKey(text); err == nil {
			trust.Keys = append(trust.Keys, key)
		}
	}
	return trust
}

// validate tells what no value alone shows.
func (c *Config) validate() []ConfigProblem {
	var problems []ConfigProblem
	refuse := func(key, format string, args ...any) {
		problems = append(problems, c.problem(key, format, args...))
	}
	choice := func(key, value string, choices ...string) {
		if !slices.Contains(choices, value) {
			p := c.problem(key, "found %q, expected %s", value, strings.Join(choices, ", "))
			p.Hint = didYouMean(value, choices)
			problems = append(problems, p)
		}
	}
	positive := func(key string, d time.Duration) {
		if d <= 0 {
			refuse(key, "found %s, expected more than 0s", formatDuration(d))
		}
	}

	if len(c.Packs.Directories) == 0 || slices.Contains(c.Packs.Directories, "") {
		refuse("packs.directory", "found no folder, expected one or more")
	}
	for _, pattern := range c.Packs.AutoLoad {
		if _, err := path.Match(pattern, "core"); err != nil || pattern == "" {
			refuse("packs.auto_load", "found %q, expected a pattern like \"*\" or \"net_*\"", pattern)
		}
	}
	c.eachPath(func(key string, p *string) {
		if problem := c.shellProblem(*p); problem != "" {
			refuse(key, "%s", problem)
		}
	})
	choice("packs.world_writable", c.Packs.WorldWritable, "refuse", "warn")
	choice("packs.signatures", c.Packs.Signatures, reconcile.SignaturesOff, reconcile.SignaturesWarn, reconcile.SignaturesEnforce)
	for _, key := range c.Packs.Keys {
		if _, err := reconcile.ParsePublicKey(key); err != nil {
			refuse("packs.keys", "found %s, %v", describe(key), err)
		}
	}
	if c.Packs.Signatures == reconcile.SignaturesEnforce && len(c.Packs.Keys) == 0 {
		refuse("packs.signatures", "found %q without packs.keys, expected one key or more, as `attune pack sign --new-key FILE packs/*` prints it: no pack would be loaded", c.Packs.Signatures)
	}
	if problem := databaseProblem(c.Database.URL); problem != "" {
		refuse("database.url", "%s", problem)
	}
	choice("database.pooler", c.Database.Pooler, "none", "transaction")
	if problem := listenProblem(c.HTTP); problem != "" {
		refuse("http.listen", "%s", problem)
	}
	if n := len(c.HTTP.Socket); n > maxSocketPath {
		refuse("http.socket", "found a path of %d bytes, expected at most %d", n, maxSocketPath)
	}
	switch {
	case c.HTTP.TLSCert != "" && c.HTTP.TLSKey == "":
		refuse("http.tls_cert", "found it alone, expected http.tls_key beside it")
	case c.HTTP.TLSCert == "" && c.HTTP.TLSKey != "":
		refuse("http.tls_key", "found it alone, expected http.tls_cert beside it")
	}
	positive("reconcile.debounce", c.Reconcile.Debounce)
	positive("reconcile.resync", c.Reconcile.Resync)
	if wait, quiet := c.Reconcile.MaxWait, c.Reconcile.Debounce; wait < quiet {
		if _, ok := c.places["reconcile.max_wait"]; ok {
			refuse("reconcile.max_wait", "found %s, expected at least reconcile.debounce (%s)", formatDuration(wait), formatDuration(quiet))
		} else {
			refuse("reconcile.debounce", "found %s, expected at most reconcile.max_wait (%s)", formatDuration(quiet), formatDuration(wait))
		}
	}
	choice("reconcile.mode", c.Reconcile.Mode, "apply", "plan")
	for key, n := range map[string]float64{
		"exec.limit_pids": float64(c.Exec.LimitPids), "exec.limit_cpu": c.Exec.LimitCPU, "exec.limit_nofile": float64(c.Exec.LimitOpenFiles),
	} {
		if n < 0 {
			refuse(key, "found %v, expected 0 (no limit) or more", n)
		}
	}
	if c.Exec.Workers < 0 || c.Exec.Workers > maxWorkers {
		refuse("exec.workers", "found %d, expected 0 (twice the cores) to %d", c.Exec.Workers, maxWorkers)
	}
	if n := c.Exec.ChainLimit; n < 1 || n > maxChain {
		refuse("exec.chain_limit", "found %d, expected 1 to %d", n, maxChain)
	}
	positive("exec.timeout", c.Exec.Timeout)
	if c.Exec.OutputLimit < minOutputLimit || c.Exec.OutputLimit > maxOutputLimit {
		refuse("exec.output_limit", "found %s, expected %s to %s", formatSize(c.Exec.OutputLimit),
			formatSize(minOutputLimit), formatSize(maxOutputLimit))
	}
	positive("exec.stop_grace", c.Exec.StopGrace)
	positive("runtimes.build_timeout", c.Runtimes.BuildTimeout)
	if c.Runtimes.PythonIndex != "" && c.Runtimes.PythonWheels != "" {
		refuse("runtimes.python_wheels", "found it beside runtimes.python_index, expected one of the two")
	}
	for key, address := range map[string]string{"runtimes.python_index": c.Runtimes.PythonIndex, "runtimes.node_registry": c.Runtimes.NodeRegistry} {
		if address != "" && !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") && !strings.HasPrefix(address, "file://") {
			refuse(key, "found no address, expected one that begins with https://, http:// or file://")
		}
	}
	if c.Retention.Revisions < 0 {
		refuse("retention.revisions", "found %d, expected 0 (all) or more", c.Retention.Revisions)
	}
	if c.Retention.EventsCount < 0 {
		refuse("retention.events_count", "found %d, expected 0 (any number) or more", c.Retention.EventsCount)
	}
	if c.Retention.ExecutionsCount < 0 {
		refuse("retention.executions_count", "found %d, expected 0 (any number) or more", c.Retention.ExecutionsCount)
	}
	if c.Retention.Audit != 0 && c.Retention.Audit < minAudit {
		refuse("retention.audit", "found %s, expected at least %s, or 0 for ever", formatDuration(c.Retention.Audit), formatDuration(minAudit))
	}
	if problem := traceProblem(c.Trace.Endpoint); problem != "" {
		refuse("trace.endpoint", "%s", problem)
	}
	choice("log.level", c.Log.Level, "debug", "info", "warn", "error")
	choice("log.format", c.Log.Format, "auto", "text", "json", "journal")
	return problems
}

// databaseProblem says what is wrong with a database.url, without repeating a password; a text without
// a scheme is a list of keywords, which PostgreSQL's own parser judges.
func databaseProblem(text string) string {
	scheme, _, ok := strings.Cut(text, "://")
	if ok && scheme != "postgres" && scheme != "postgresql" {
		return fmt.Sprintf("found a URL of scheme %q, expected postgres://user@host/database", scheme)
	}
	return ""
}

func traceProblem(endpoint string) string {
	if endpoint == "" {
		return ""
	}
	if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Sprintf("found %q, expected a URL like \"http://localhost:4318\"", endpoint)
	}
	return ""
}

const (
	// maxChain bounds exec.chain_limit: who needs more has a loop.
	maxChain = 1000

	// maxWorkers bounds exec.workers: each is a process with two pipes.
	maxWorkers = 4096

	// minAudit is how long the audit is kept at least: what goes sooner is no evidence.
	minAudit = 24 * time.Hour

	// minOutputLimit leaves room for the line that says what was left out; maxOutputLimit is what one
	// row of the database should hold, and every running action may keep in memory.
	minOutputLimit = 4 << 10
	maxOutputLimit = 64 << 20
)

// listenProblem says why TCP must not be served at the address; empty: it may. A missing host means
// the loopback address.
func listenProblem(c HTTPConfig) string {
	if c.Listen == "" {
		return ""
	}
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Sprintf("found %q, expected host:port, or \"\" to turn TCP off", c.Listen)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Sprintf("found port %q, expected 0 to 65535", port)
	}
	if isLoopback(c.Listen) || c.TLSCert != "" && c.TLSKey != "" {
		return ""
	}
	return fmt.Sprintf("found %q without TLS, expected http.tls_cert and http.tls_key beside it, or a loopback address (127.0.0.1, ::1 or localhost): "+
		"other machines could reach the daemon, and tokens would cross the network in the clear", c.Listen)
}

// isLoopback says whether only this machine reaches an address. A missing host means the loopback address.
func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if listen == "" || err == nil && (host == "" || host == "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// ConfigProblem is one thing that is wrong with the configuration.
type ConfigProblem struct {
	// Place is in the file; of a variable or a flag it has the name alone.
	manifest.Place
	Key     string // "http.listen"; empty: the file as a whole
	Message string
	Hint    string
}

// String gives "attune.toml:3:1: cannot …: found …, expected …; did you mean …?".
func (p ConfigProblem) String() string {
	text := p.Message
	if p.File != "" {
		text = p.Place.String() + ": " + text
	}
	if p.Hint != "" {
		text += "; " + p.Hint
	}
	return text
}

// ConfigError is everything that is wrong with a configuration, in the order of the file.
type ConfigError struct {
	Problems []ConfigProblem
}

// Error gives the problems one a line.
func (e *ConfigError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// newConfigError sorts the problems; no problem is no error.
func newConfigError(problems []ConfigProblem) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b ConfigProblem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	return &ConfigError{Problems: problems}
}

// problem makes a problem of a key, at the place where it was given.
func (c *Config) problem(key, format string, args ...any) ConfigProblem {
	return ConfigProblem{
		Place: c.places[key], Key: key,
		Message: fmt.Sprintf("cannot use %s: ", key) + fmt.Sprintf(format, args...),
	}
}

func didYouMean(word string, candidates []string) string {
	if near := manifest.Nearest(word, candidates); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return ""
}

// PackConfigPlace gives where a key of [packs.config.<pack>] stands; zero: it is a default.
func (c *Config) PackConfigPlace(pack, key string) manifest.Place {
	return c.places["packs.config."+pack+"."+key]
}
