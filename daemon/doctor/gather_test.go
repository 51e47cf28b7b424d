package doctor_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/daemon/doctor"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// look examines a configuration with no daemon, and gives what is found as lines.
func look(t *testing.T, text string) (*doctor.Snapshot, string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "attune.toml")
	write(t, file, text)
	opts := doctor.Options{Version: "0.1.0", Getenv: os.Getenv, Progress: func(string) {}}
	opts.Config, opts.ConfigError = daemon.FindConfig(file, []string{"HOME=" + dir})
	var err error
	if opts.Client, err = api.NewSocketClient([]string{filepath.Join(dir, "s")}); err != nil {
		t.Fatal(err)
	}
	s := doctor.Gather(t.Context(), opts)
	var lines []string
	for _, f := range doctor.Examine(s).Findings {
		lines = append(lines, string(f.Severity)+" "+f.Check+": "+f.Message+" | "+f.Remedy)
	}
	return s, strings.Join(lines, "\n")
}

func wants(t *testing.T, report string, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if !strings.Contains(report, want) {
			t.Errorf("not found: %s\n%s", want, report)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	const mode = 0o644 // whatever the umask says
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func TestGatherWithoutDaemon(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root+"/packs/good/pack.yaml", "ref: good\nversion: 1.0.0\n")
	write(t, root+"/packs/bad/pack.yaml", "ref: bad\nversion: 1.0.0\n")
	write(t, root+"/packs/bad/actions/x.yaml", "name: x\nrunner_type: python\nruntime_version: '>= 99'\nentry_point: x.py\n")
	write(t, root+"/packs/bad/actions/x.py", "print()\n")
	write(t, root+"/packs/left/pack.yaml", "[")
	write(t, root+"/secrets/token", "x")
	write(t, root+"/state/attune.key", "x")
	for folder, mode := range map[string]os.FileMode{"/state": 0o777, "/packs": 0o777, "/secrets": 0o755} {
		if err := os.Chmod(root+folder, mode); err != nil { // whatever the umask says
			t.Fatal(err)
		}
	}
	s, report := look(t, `
[packs]
directory = "`+root+`/packs"
auto_load = ["good", "bad"]
[state]
directory = "`+root+`/state"
[secrets]
directory = "`+root+`/secrets"
[database]
url = "`+storetest.NewURL(t)+`"
`)
	wants(t, report,
		"warning configuration: everybody may read", "the password of the database stands in it",
		"warning daemon: no daemon answers",
		"error state: others may write "+root+"/state (mode 0777)",
		"error keys: others may read the keys",
		"warning secrets: everybody may read the secret "+root+"/secrets/token",
		"error packs: everybody may write "+root+"/packs",
		"error packs: pack bad has 1 error: bad/actions/x.yaml:3:18: cannot run this action: cannot find a python3 of the wanted version",
		"ok database: PostgreSQL ", "ok rights: role ", "error server: fsync is off",
		"ok disk: ",
	)
	if strings.Contains(report, "left") {
		t.Errorf("a pack that is not loaded is checked\n%s", report)
	}
	if s.Folders != 5 || len(s.Packs) != 2 {
		t.Errorf("counted %d folders and %d packs", s.Folders, len(s.Packs))
	}
	if !slices.ContainsFunc(s.Disks, func(d doctor.Disk) bool { return d.Path == root+"/state" && d.NeedsWriting && d.Size > 0 }) {
		t.Errorf("found disks %+v", s.Disks)
	}
}

func TestGatherUnsignedPacks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root+"/packs/bare/pack.yaml", "ref: bare\nversion: 1.0.0\n")
	_, report := look(t, `
[packs]
directory = "`+root+`/packs"
signatures = "enforce"
keys = ["MCowBQYDK2VwAyEAqIy1tQSbikXiocktkiL3j1Inti4aVwmBzjhELuTKngA="]
[state]
directory = "`+root+`/state"
`)
	wants(t, report, "error packs: pack bare has 1 error: bare/pack.sig: cannot trust the pack: it has no signature", "attune pack sign --key FILE "+root+"/packs/bare")
}

func TestGatherOnAFreshMachine(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s, report := look(t, "[state]\ndirectory = \""+root+"/state\"\n[packs]\ndirectory = \""+root+"/packs\"\n")
	wants(t, report,
		"ok state: "+root+"/state is made at the first start",
		"error packs: there is no packs folder "+root+"/packs | mkdir -p "+root+"/packs",
		"ok database: private, and asleep until a daemon runs",
	)
	if !s.Private || !s.IsAsleep || s.MaxWatches == 0 {
		t.Errorf("%+v", s)
	}
}

func TestGatherWithABrokenConfiguration(t *testing.T) {
	t.Parallel()
	_, report := look(t, "[packs]\ndirektory = 1\n")
	wants(t, report, "error configuration: ", "attune.toml:2:1: ", "attune config check")
}

func TestGatherWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	_, report := look(t, "[packs]\ndirectory = \""+t.TempDir()+"\"\n[packs.config.nobody]\nx = 1\n"+
		"[database]\nurl = \"postgres://u:verysecret@/x?host=/nowhere\"\n")
	wants(t, report, "error database: cannot reach the database", "nobody uses packs.config.nobody.x")
	if strings.Contains(report, "verysecret") {
		t.Errorf("it tells the password:\n%s", report)
	}
}
