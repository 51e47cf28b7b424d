package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var ignorePrivate = cmpopts.IgnoreUnexported(Config{})

func TestReferenceFileIsTheDefaults(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../attune.toml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig("attune.toml", text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(DefaultConfig(), got, ignorePrivate); diff != "" {
		t.Errorf("attune.toml differs from DefaultConfig (-default +file):\n%s", diff)
	}
	for _, s := range got.Settings() {
		if !strings.HasPrefix(s.Origin, "attune.toml:") {
			t.Errorf("%s is not in attune.toml: its origin is %s", s.Key, s.Origin)
		}
	}
}

func TestReferenceFileExplainsEveryKey(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../attune.toml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		name, _, isKey := strings.Cut(line, " = ")
		if isKey && !strings.HasPrefix(line, "#") && name != "tls_key" && name != "executions" && !strings.HasPrefix(lines[i-1], "# ") {
			t.Errorf("attune.toml:%d: %s has no sentence before it", i+1, name)
		}
	}
}

// Every field of Config is a key of the table, and every key is named like its field's tag.
func TestEveryFieldIsAKey(t *testing.T) {
	t.Parallel()
	c := DefaultConfig()
	byAddress := map[uintptr]string{}
	for _, k := range c.keys() {
		byAddress[reflect.ValueOf(k.value).Pointer()] = k.key
	}
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		section := v.Type().Field(i)
		if !section.IsExported() {
			continue
		}
		for j := range section.Type.NumField() {
			field := section.Type.Field(j)
			want := section.Tag.Get("toml") + "." + field.Tag.Get("toml")
			if want == "packs.config" {
				continue
			}
			if got := byAddress[v.Field(i).Field(j).Addr().Pointer()]; got != want {
				t.Errorf("field %s.%s: found key %q, want %q", section.Name, field.Name, got, want)
			}
		}
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "[reconcile]\ndebonce = \"1s\"\n", []string{
			`attune.toml:2:1: cannot use reconcile.debonce: found an unknown key, expected one of debounce, max_wait, resync, mode; did you mean "debounce"?`,
		}},
		{"unknown table, told once", "[exce]\nworkers = 1\ndrain = \"1s\"\n", []string{
			`attune.toml:1:2: cannot use table [exce]: found an unknown table, expected one of packs, database, state, http, reconcile, exec, runtimes, retention, secrets, trace, log, packs.config.<pack>; did you mean "exec"?`,
		}},
		{"key of another table", "[log]\nlisten = \"x\"\n", []string{
			`attune.toml:2:1: cannot use log.listen: found an unknown key, expected one of level, format; did you mean listen in [http]?`,
		}},
		{"key without a table", "workers = 3\n", []string{
			`attune.toml:1:1: cannot use workers: found an unknown key, expected a key of a table; did you mean workers in [exec]?`,
		}},
		{"bare number for a duration", "[reconcile]\ndebounce = 250\n", []string{
			`attune.toml:2:12: cannot use reconcile.debounce: found 250, expected a duration like "250ms", "5m" or "30d"`,
		}},
		{"bad unit", "[reconcile]\ndebounce = \"250 msec\"\n[exec]\noutput_limit = \"1MB\"\n", []string{
			`attune.toml:2:12: cannot use reconcile.debounce: found "250 msec", expected a duration like "250ms", "5m" or "30d"`,
			`attune.toml:4:16: cannot use exec.output_limit: found "1MB", expected a size like "64KiB" or "1MiB"`,
		}},
		{"wrong types, all at once", "[exec]\nwarm = \"yes\"\nworkers = 1.5\n[packs]\nauto_load = [1]\n[log]\nlevel = true\n", []string{
			`attune.toml:2:8: cannot use exec.warm: found "yes", expected true or false`,
			`attune.toml:3:11: cannot use exec.workers: found 1.5, expected a whole number`,
			`attune.toml:5:1: cannot use packs.auto_load: found 1, expected a string or an array of strings`,
			`attune.toml:7:9: cannot use log.level: found true, expected a string`,
		}},
		{"table for a value", "[reconcile.debounce]\nx = 1\n", []string{
			`attune.toml:1:2: cannot use reconcile.debounce: found a table, expected a duration like "250ms", "5m" or "30d"`,
		}},
		{"value for a table", "log = 1\n", []string{
			`attune.toml:1:7: cannot use log: found 1, expected a table`,
		}},
		{"array of tables", "[[log]]\nlevel = \"info\"\n", []string{
			`attune.toml:1:3: cannot use log: found an array, expected a table`,
		}},
		{"syntax", "[log]\nlevel = info\n", []string{
			`attune.toml:2:12: cannot read TOML: `,
		}},
		{"duplicate", "[log]\nlevel = \"info\"\nlevel = \"warn\"\n", []string{
			`attune.toml:3:1: cannot read TOML: `,
		}},
		{"choices", "[log]\nlevel = \"warning\"\nformat = \"txt\"\n[reconcile]\nmode = \"observe\"\n", []string{
			`attune.toml:2:1: cannot use log.level: found "warning", expected debug, info, warn, error`,
			`attune.toml:3:1: cannot use log.format: found "txt", expected auto, text, json, journal; did you mean "text"?`,
			`attune.toml:5:1: cannot use reconcile.mode: found "observe", expected apply, plan`,
		}},
		{"ranges", "[exec]\nworkers = -1\noutput_limit = \"1B\"\ntimeout = \"0s\"\n[retention]\nrevisions = -2\n", []string{
			`attune.toml:2:1: cannot use exec.workers: found -1, expected 0 (twice the cores) to 4096`,
			`attune.toml:3:1: cannot use exec.output_limit: found 1B, expected 4KiB to 64MiB`,
			`attune.toml:4:1: cannot use exec.timeout: found 0s, expected more than 0s`,
			`attune.toml:6:1: cannot use retention.revisions: found -2, expected 0 (all) or more`,
		}},
		{"debounce over the default of max_wait", "[reconcile]\ndebounce = \"5s\"\n", []string{
			`attune.toml:2:1: cannot use reconcile.debounce: found 5s, expected at most reconcile.max_wait (2s)`,
		}},
		{"every address", "[http]\nlisten = \"0.0.0.0:9753\"\n", []string{
			`attune.toml:2:1: cannot use http.listen: found "0.0.0.0:9753" without TLS, expected http.tls_cert and http.tls_key`,
		}},
		{"not an address", "[http]\nlisten = \"9753\"\ntls_key = \"k\"\n", []string{
			`attune.toml:2:1: cannot use http.listen: found "9753", expected host:port, or "" to turn TCP off`,
			`attune.toml:3:1: cannot use http.tls_key: found it alone, expected http.tls_cert beside it`,
		}},
		{"configuration of a pack that is no table", "[packs.config]\ncore = 3\n", []string{
			`attune.toml:2:8: cannot use packs.config.core: found 3, expected a table`,
		}},
		{"pattern", "[packs]\nauto_load = [\"[\"]\ndirectory = []\n", []string{
			`attune.toml:2:1: cannot use packs.auto_load: found "[", expected a pattern like "*" or "net_*"`,
			`attune.toml:3:1: cannot use packs.directory: found no folder, expected one or more`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := LoadConfig("attune.toml", []byte(test.text))
			if err == nil {
				t.Fatal("it was accepted")
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(test.want) {
				t.Fatalf("found %d problems, want %d:\n%s", len(got), len(test.want), err)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], test.want[i]) {
					t.Errorf("found %s\nwant  %s", got[i], test.want[i])
				}
			}
		})
	}
}

func TestLoadConfigAccepts(t *testing.T) {
	t.Parallel()
	text := "\xef\xbb\xbflog = { level = \"debug\" }\r\npacks.directory = [\"/a\", \"b\"]\n" +
		"[packs.config.net]\nsince = 2026-01-02\nhosts = [\"a\", \"b\"]\n[packs.config.net.deep.er]\nx = 1\n" +
		"[packs.config.core]\nmax_action_timeout = 60\n[http]\nlisten = \"[::1]:0\"\n[retention]\nevents = \"1d12h\"\nexecutions = \"0s\"\n"
	c, err := LoadConfig("attune.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Log.Level = "debug"
	want.Packs.Directories = []string{"/a", "b"}
	want.Packs.Config = map[string]map[string]any{
		"core": {"max_action_timeout": int64(60), "enable_debug_logging": false},
		"net": {
			"since": "2026-01-02", "hosts": []any{"a", "b"},
			"deep": map[string]any{"er": map[string]any{"x": int64(1)}},
		},
	}
	want.HTTP.Listen = "[::1]:0"
	want.Retention.Events = 36 * time.Hour
	want.Retention.Executions = 0
	if diff := cmp.Diff(want, c, ignorePrivate); diff != "" {
		t.Error(diff)
	}
}

func TestFindConfigLayers(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "attune.toml")
	text := "[http]\nlisten = \"127.0.0.1:1\"\nsocket = \"run/a.sock\"\n[log]\nlevel = \"warn\"\nformat = \"json\"\n[database]\nurl = \"postgres://u:secret@h/d\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"ATTUNE_CONFIG=" + file, "ATTUNE_LOG_LEVEL=error", "ATTUNE_LOG_FORMAT=text", "ATTUNE_PACKS_DIRECTORY=/x, /y",
		"ATTUNE_HTTP_LISTEN=", "ATTUNE_EXEC_WARM=true", "ATTUNE_EXEC_ID=17", "ATTUNE_URL=http://x", "HOME=/home/u",
		"ATTUNE_SECRETS_DIRECTORY=secrets",
	}
	c, err := FindConfig("", environ, Flag{"log.format", "journal", "--log-format"})
	if err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.SecretsDirectory(), filepath.Join(wd, "secrets"); got != want {
		t.Errorf("secrets.directory of the environment: found %s, want %s", got, want)
	}
	if got, want := c.SocketCandidates(), []string{filepath.Join(folder, "run/a.sock")}; !slices.Equal(got, want) {
		t.Errorf("http.socket of the file: found %s, want %s", got, want)
	}
	got := map[string]Setting{}
	for _, s := range c.Settings() {
		got[s.Key] = s
	}
	for _, want := range []Setting{
		{"log.level", "error", "$ATTUNE_LOG_LEVEL"},
		{"log.format", "journal", "--log-format"},
		{"http.listen", "", "$ATTUNE_HTTP_LISTEN"},
		{"exec.warm", true, "$ATTUNE_EXEC_WARM"},
		{"exec.timeout", "5m", "default"},
		{"exec.output_limit", "1MiB", "default"},
		{"packs.directory", []string{"/x", "/y"}, "$ATTUNE_PACKS_DIRECTORY"},
		{"database.url", "postgres://u:xxxxx@h/d", file + ":8"},
		{"packs.config.core.max_action_timeout", int64(300), "default"},
	} {
		if diff := cmp.Diff(want, got[want.Key]); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", want.Key, diff)
		}
	}
}

// The credential with the database's URL counts where nothing else names one, and is never shown.
func TestDatabaseCredential(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "attune.database-url")
	credentials := "CREDENTIALS_DIRECTORY=" + dir
	c, err := FindConfig(os.DevNull, []string{credentials})
	if err != nil || c.Database.URL != "" {
		t.Errorf("without the credential: found %q, %v", c.Database.URL, err)
	}
	if err := os.WriteFile(path, []byte("postgres://u:hunter2@h/d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err = FindConfig(os.DevNull, []string{credentials})
	if err != nil || c.Database.URL != "postgres://u:hunter2@h/d" {
		t.Fatalf("with the credential: found %q, %v", c.Database.URL, err)
	}
	for _, s := range c.Settings() {
		if s.Key == "database.url" && (s.Value != "postgres://u:xxxxx@h/d" || s.Origin != path) {
			t.Errorf("shown as %v", s)
		}
	}
	c, err = FindConfig(os.DevNull, []string{credentials, "ATTUNE_DATABASE_URL=postgres://other/d"})
	if err != nil || c.Database.URL != "postgres://other/d" {
		t.Errorf("beside the variable: found %q, %v", c.Database.URL, err)
	}
	if err := os.WriteFile(path, []byte("mysql://u:hunter2@h/d"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = FindConfig(os.DevNull, []string{credentials})
	if err == nil || !strings.HasPrefix(err.Error(), path+": cannot use database.url: found a URL of scheme") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a wrong one: %v", err)
	}
}

func TestFindConfigRefuses(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none.toml")
	tests := []struct {
		name    string
		path    string
		environ []string
		flags   []Flag
		want    string
	}{
		{"missing file", missing, nil, nil, missing + ": cannot read the configuration named by --config: no such file or directory"},
		{"missing file of the variable", "", []string{"ATTUNE_CONFIG=" + missing}, nil, missing + ": cannot read the configuration named by $ATTUNE_CONFIG: no such file or directory"},
		{"bad variable", os.DevNull, []string{"ATTUNE_EXEC_DRAIN=soon"}, nil, `$ATTUNE_EXEC_DRAIN: cannot use exec.drain: found "soon", expected a duration like "250ms", "5m" or "30d"`},
		{"empty variable", os.DevNull, []string{"ATTUNE_EXEC_DRAIN="}, nil, `$ATTUNE_EXEC_DRAIN: cannot use exec.drain: found "", expected a duration like "250ms", "5m" or "30d"`},
		{"bad choice of a variable", os.DevNull, []string{"ATTUNE_LOG_LEVEL=inf"}, nil, `$ATTUNE_LOG_LEVEL: cannot use log.level: found "inf", expected debug, info, warn, error; did you mean "info"?`},
		{"variable of no key", os.DevNull, []string{"ATTUNE_EXEC_WORKRES=4"}, nil, `$ATTUNE_EXEC_WORKRES: cannot use it: found a variable of no key; did you mean ATTUNE_EXEC_WORKERS?`},
		{"variable of a misspelled table", os.DevNull, []string{"ATTUNE_EXCE_DRAIN=4s"}, nil, `$ATTUNE_EXCE_DRAIN: cannot use it: found a variable of no key; did you mean ATTUNE_EXEC_DRAIN?`},
		{"variable that is like no other", os.DevNull, []string{"ATTUNE_STATE_DIR=/x"}, nil, `$ATTUNE_STATE_DIR: cannot use it: found a variable of no key, expected one of ATTUNE_STATE_DIRECTORY`},
		{"port of the operator", os.DevNull, []string{"ATTUNE_DATABASE_PORT=5432"}, nil, `$ATTUNE_DATABASE_PORT: cannot use it: found a variable of no key; did you mean ATTUNE_DATABASE_URL?`},
		{"path of a shell", os.DevNull, []string{"HOME=/home/u", "ATTUNE_PACKS_DIRECTORY=/x,~/packs"}, nil, `$ATTUNE_PACKS_DIRECTORY: cannot use packs.directory: found "~/packs", expected the whole path: ~ means something to shells only; write "/home/u/packs"`},
		{"variable in a path", os.DevNull, []string{"HOME=/home/u", "ATTUNE_STATE_DIRECTORY=${HOME}"}, nil, `$ATTUNE_STATE_DIRECTORY: cannot use state.directory: found "${HOME}", expected the whole path: ${HOME} means something to shells only; write "/home/u"`},
		{"another's home", os.DevNull, []string{"HOME=/home/u", "ATTUNE_HTTP_SOCKET=~ada/s"}, nil, `$ATTUNE_HTTP_SOCKET: cannot use http.socket: found "~ada/s", expected the whole path: ~ada means something to shells only`},
		{"bad flag", os.DevNull, nil, []Flag{{"exec.workers", "many", "--workers"}}, `--workers: cannot use exec.workers: found "many", expected a whole number`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := FindConfig(test.path, test.environ, test.flags...)
			if err == nil || err.Error() != test.want {
				t.Errorf("found %v\nwant  %s", err, test.want)
			}
		})
	}
}

// A daemon may run as a child of another, beside services of Kubernetes, and in the environment of commands.
func TestOtherVariables(t *testing.T) {
	t.Parallel()
	environ := []string{
		// of commands
		"ATTUNE_CONFIG=" + os.DevNull, "ATTUNE_URL=http://x", "ATTUNE_TOKEN=t", "ATTUNE_TOKEN_FILE=/t", "ATTUNE_CA_FILE=/c",
		// of children
		"ATTUNE_ACTION=a.b", "ATTUNE_ACTION_EXEC_DRAIN=x", "ATTUNE_ATTEMPT=1", "ATTUNE_BINARY=/a", "ATTUNE_CHILD_ID=1", "ATTUNE_DATA_DIR=/d",
		"ATTUNE_EVENT_ID=1", "ATTUNE_EXEC_ID=1", "ATTUNE_EXECUTION_ID=1", "ATTUNE_LOG_LEVEL=info", "ATTUNE_PACK_CONFIG_FILE=/f",
		"ATTUNE_PACK_CONFIG_DIRECTORY=/f", "ATTUNE_PACK_DIR=/p", "ATTUNE_PACK_REF=p", "ATTUNE_PARAMETER_DELIVERY=stdin",
		"ATTUNE_PARAMETER_FILE=/f", "ATTUNE_PARAMETER_FORMAT=json", "ATTUNE_RESULT_FILE=/r", "ATTUNE_RULE=r", "ATTUNE_RUN_ID=1",
		"ATTUNE_SENSOR_CURSOR=1", "ATTUNE_SENSOR_MAX_RATE=1", "ATTUNE_SENSOR_REF=s", "ATTUNE_SENSOR_TRIGGERS=[]",
		"ATTUNE_SENSOR_TRIGGERS_FILE=/t", "ATTUNE_TRIGGER=t",
		// of services that are called attune, attune-database and attune-http
		"ATTUNE_PORT=tcp://10.0.0.1:9753", "ATTUNE_SERVICE_HOST=10.0.0.1", "ATTUNE_DATABASE_SERVICE_HOST=10.0.0.2",
		"ATTUNE_DATABASE_SERVICE_PORT=5432", "ATTUNE_DATABASE_PORT=tcp://10.0.0.2:5432", "ATTUNE_DATABASE_PORT_5432_TCP_ADDR=10.0.0.2",
		"ATTUNE_HTTP_SERVICE_PORT_API=9753",
		// of nobody known
		"ATTUNE_SITE=oslo", "ATTUNE_=x",
	}
	for _, pair := range environ {
		if _, err := FindConfig(os.DevNull, []string{pair}); err != nil {
			t.Errorf("%s: %v", pair, err)
		}
	}
}

func TestPathsOfTheMachine(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("x", 95)
	tests := []struct {
		name       string
		root       bool
		env        map[string]string
		socket     string
		state      string
		candidates []string
		path       string
		err        string
	}{
		{
			name: "systemd", env: map[string]string{"RUNTIME_DIRECTORY": "/run/attune:/run/other", "STATE_DIRECTORY": "/var/lib/private/attune", "XDG_RUNTIME_DIR": "/run/user/1"},
			state:      "/var/lib/private/attune",
			candidates: []string{"/run/attune/attune.sock", "/run/user/1/attune/attune.sock", "/var/lib/private/attune/attune.sock"},
			path:       "/run/attune/attune.sock",
		},
		{
			name: "root", root: true, env: map[string]string{"HOME": "/root"}, state: "/var/lib/attune",
			candidates: []string{"/run/attune/attune.sock", "/var/lib/attune/attune.sock"}, path: "/run/attune/attune.sock",
		},
		{
			name: "user with a session", env: map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/1"}, state: "/home/u/.local/state/attune",
			candidates: []string{"/run/attune/attune.sock", "/run/user/1/attune/attune.sock", "/home/u/.local/state/attune/attune.sock"},
			path:       "/run/user/1/attune/attune.sock",
		},
		{
			name: "user without one", env: map[string]string{"HOME": "/home/u"}, state: "/home/u/.local/state/attune",
			candidates: []string{"/run/attune/attune.sock", "/home/u/.local/state/attune/attune.sock"}, path: "/home/u/.local/state/attune/attune.sock",
		},
		{name: "nobody", candidates: []string{"/run/attune/attune.sock"}, err: "cannot choose a path for the socket"},
		{name: "long", socket: long + "/a.sock", candidates: []string{long + "/a.sock"}, err: "cannot make socket " + long + "/a.sock: its path has 103 bytes, expected at most 100"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := DefaultConfig()
			c.machine = machine{env: test.env, root: test.root}
			c.HTTP.Socket = test.socket
			if got := c.StateDirectory(); got != test.state {
				t.Errorf("state: found %q, want %q", got, test.state)
			}
			if diff := cmp.Diff(test.candidates, c.SocketCandidates()); diff != "" {
				t.Errorf("candidates: %s", diff)
			}
			path, err := c.SocketPath()
			if path != test.path || (err == nil) != (test.err == "") || err != nil && !strings.HasPrefix(err.Error(), test.err) {
				t.Errorf("path: found %q, %v; want %q, %s", path, err, test.path, test.err)
			}
		})
	}
}

func TestRedactURL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                 "",
		"postgres://u:pa%20ss@h/d":         "postgres://u:xxxxx@h/d",
		"postgres://u@h/d?password=p&x=1":  "postgres://u@h/d?password=xxxxx&x=1",
		"host=h password='a b' user=u":     "host=h password=xxxxx user=u",
		"host=h PASSWORD = secret user=u":  "host=h PASSWORD = xxxxx user=u",
		"postgres://u:p%zz@h/d":            "(not a URL; it is not shown, since it may hold a password)",
		"postgres:///attune?host=/run/x/y": "postgres:///attune?host=/run/x/y",
	} {
		if got := redactURL(text); got != want {
			t.Errorf("%s: found %s, want %s", text, got, want)
		}
	}
}

func TestDurationsAsWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"250ms": "250ms", "300s": "5m", "90m": "1h30m", "30d": "30d", "36h": "36h", "1d12h": "36h", "0": "0s", "1.5s": "1.5s", "24h": "1d",
	} {
		d, ok := parseDuration(text)
		if got := formatDuration(d); !ok || got != want {
			t.Errorf("%s: found %s, %t; want %s", text, got, ok, want)
		}
		if again, ok := parseDuration(formatDuration(d)); !ok || again != d {
			t.Errorf("%s: reads back as %s", text, again)
		}
	}
	for _, text := range []string{"", "-1s", "1", "5 m", "1w", "99999d99999999h", "s", "1e3s"} {
		if d, ok := parseDuration(text); ok {
			t.Errorf("%q: accepted as %s", text, d)
		}
	}
}

func FuzzLoadConfig(f *testing.F) {
	text, err := os.ReadFile("../attune.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("[packs.config.a]\nx = [{y = 1}]\n[[log]]\n"))
	f.Add([]byte("a.b.c = 1\n[a]\n\"\" = 2"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := LoadConfig("f", text)
		if (c == nil) == (err == nil) {
			t.Fatalf("found both or neither of configuration and error: %v", err)
		}
		if err == nil && c.Validate() != nil {
			t.Fatalf("accepted, but not valid: %v", c.Validate())
		}
	})
}
