package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// instance is a daemon that a test runs as a process of its own.
type instance struct {
	t    *testing.T
	dir  string
	env  []string
	cmd  *exec.Cmd
	log  *syncBuffer
	done chan struct{}
}

// syncBuffer collects the log of a process while a test reads it.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newInstance prepares a daemon on copies of the given packs of the repository.
func newInstance(t *testing.T, url string, packs ...string) *instance {
	t.Helper()
	dir := openFolder(t)
	for _, pack := range packs {
		if err := os.CopyFS(filepath.Join(dir, "packs", pack), os.DirFS(filepath.Join("../../packs", pack))); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("[http]\nlisten = \"127.0.0.1:0\"\nsocket = %q\n[state]\ndirectory = %q\n[exec]\nstop_grace = \"2s\"\ndrain = \"5s\"\n",
		filepath.Join(dir, "s"), filepath.Join(dir, "state"))
	if err := os.WriteFile(filepath.Join(dir, "attune.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return &instance{t: t, dir: dir, env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "NO_COLOR=1", "ATTUNE_DATABASE_URL=" + url, "TMPDIR=" + os.TempDir(),
		storetest.RaceVariable + "=" + storetest.RaceOptions,
	}}
}

// start runs the daemon and waits until it is ready.
func (i *instance) start(args ...string) {
	i.t.Helper()
	i.log = new(syncBuffer)
	i.cmd = exec.Command("attune", append([]string{"daemon"}, args...)...)
	i.cmd.Dir, i.cmd.Env, i.cmd.Stdout, i.cmd.Stderr = i.dir, i.env, i.log, i.log
	if err := i.cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	i.done = make(chan struct{})
	go func() { _ = i.cmd.Wait(); close(i.done) }()
	i.t.Cleanup(i.stop)
	i.until("the daemon is ready", func() bool { s := i.status(); return s != nil && s.Ready })
}

// stop ends the daemon in order.
func (i *instance) stop() {
	_ = i.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-i.done:
	case <-time.After(patience):
		_ = i.cmd.Process.Kill()
		<-i.done
		i.t.Errorf("the daemon did not stop; its log:\n%s", i.log)
	}
}

// run runs a command of the daemon's and gives what it printed.
func (i *instance) run(args ...string) (stdout string, code int) {
	i.t.Helper()
	cmd := exec.Command("attune", args...)
	cmd.Dir, cmd.Env = i.dir, i.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		i.t.Fatalf("cannot run attune %s: %v", strings.Join(args, " "), err)
	}
	return out.String() + errs.String(), cmd.ProcessState.ExitCode()
}

// status asks for the status; nil while nobody answers.
func (i *instance) status() *api.Status {
	text, code := i.run("status", "-o", "json")
	if code != 0 {
		return nil
	}
	s := new(api.Status)
	if err := json.Unmarshal([]byte(text), s); err != nil {
		i.t.Fatalf("cannot read the status: %v\n%s", err, text)
	}
	return s
}

// until waits for a condition.
func (i *instance) until(what string, condition func() bool) {
	i.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); wait(30 * time.Millisecond) {
		if condition() {
			return
		}
		select {
		case <-i.done:
			i.t.Fatalf("the daemon has ended; its log:\n%s", i.log)
		default:
		}
	}
	i.t.Fatalf("waited in vain until %s; the daemon's log:\n%s", what, i.log)
}

// get fetches a page of the daemon's over TCP.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// TestPrometheus lets a real Prometheus, with the shipped configuration, scrape a daemon.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	i := newInstance(t, storetest.NewURL(t), "core", "tour")
	i.start()
	url := i.status().URL

	if code, body := get(t, url+"/-/healthy"); code != http.StatusOK {
		t.Errorf("healthy: %d %s", code, body)
	}
	if code, body := get(t, url+"/-/ready"); code != http.StatusOK {
		t.Errorf("ready: %d %s", code, body)
	}
	if code, _ := get(t, url+"/api/v1/packs"); code != http.StatusForbidden && code != http.StatusUnauthorized {
		t.Errorf("without a token, /api/v1 over TCP gives %d", code)
	}
	_, metrics := get(t, url+"/metrics")
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(metrics)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}

	shipped, err := os.ReadFile("../../contrib/prometheus/prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(shipped), "127.0.0.1:9753", strings.TrimPrefix(url, "http://"))
	text = strings.ReplaceAll(text, "scrape_interval: 15s", "scrape_interval: 1s")
	rules, err := os.ReadFile("../../contrib/prometheus/attune.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(i.dir, "attune.rules.yml"), rules, 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(i.dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	prometheus := exec.Command("prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(i.dir, "tsdb"),
		"--web.listen-address", "127.0.0.1:0")
	prometheus.Stdout, prometheus.Stderr = &log, &log
	if err := prometheus.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = prometheus.Process.Signal(syscall.SIGTERM)
		_ = prometheus.Wait()
	}()
	// It says which port it was given: one that was free a moment ago may be another's by now.
	var listening []string
	i.until("Prometheus says where it listens", func() bool {
		listening = regexp.MustCompile(`msg="Listening on" address=(127\.0\.0\.1:\d+)`).FindStringSubmatch(log.String())
		return listening != nil
	})
	query := "http://" + listening[1] + "/api/v1/query?query="
	for _, want := range []string{"up==1", "attune_build_info==1", `attune_packs{state="loaded"}==2`} {
		i.until("Prometheus knows "+want, func() bool {
			response, err := http.Get(query + strings.NewReplacer("{", "%7B", "}", "%7D", "\"", "%22").Replace(want))
			if err != nil {
				return false
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			return strings.Contains(string(body), `"metric":`)
		})
	}
}

// TestUnitFile lets systemd judge the shipped unit: no warning, and an exposure of at most 2.0, or of 3.0
// with what a drop-in opens.
func TestUnitFile(t *testing.T) {
	t.Parallel()
	t.Run("as shipped", func(t *testing.T) {
		t.Parallel()
		unit := judgeUnit(t, nil, "20")
		// The bound has room for any one setting to be lost: what is open is named.
		out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--json=short", unit).Output()
		if err != nil {
			t.Fatal(err)
		}
		var checks []struct {
			Field       string `json:"json_field"`
			Description string
			Exposure    string
			Set         bool
		}
		if err := json.Unmarshal(out, &checks); err != nil || len(checks) < len(openInUnit()) {
			t.Fatalf("%v: %s", err, out)
		}
		for _, check := range checks {
			if !check.Set && check.Exposure != "" && openInUnit()[check.Field] == "" {
				t.Errorf("%s: %s", check.Field, check.Description)
			}
		}
	})
	dropIns, err := filepath.Glob("../../contrib/systemd/*.conf")
	if err != nil || len(dropIns) == 0 {
		t.Fatalf("no drop-ins: %v", err)
	}
	for _, dropIn := range dropIns {
		t.Run("with "+filepath.Base(dropIn), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(dropIn)
			if err != nil {
				t.Fatal(err)
			}
			judgeUnit(t, text, "30")
		})
	}
}

// openInUnit are the checks of `systemd-analyze security` that the unit does not meet, and why. What later versions
// of systemd check beyond these is to be set, or to be named here.
func openInUnit() map[string]string {
	const network, tree, interpreters = "actions and sensors use the network", "the daemon sees, bounds and kills what its children start", "interpreters compile what they run"
	return map[string]string{
		"PrivateNetwork": network, "IPAddressDeny": network, "RestrictAddressFamilies_AF_INET_INET6": network,
		"RestrictAddressFamilies_AF_UNIX": "PostgreSQL and the API have sockets of files",
		"ProtectControlGroups":            tree, "Delegate": tree, "ProtectProc": tree, "ProcSubset": tree,
		"SystemCallFilter_resources": "limits of children are set by the daemon", "MemoryDenyWriteExecute": interpreters,
		"RootDirectoryOrRootImage": "children are programs of the machine", "PrivateUsers": "run_as names users of the machine",
		"DeviceAllow": "ProtectClock lets the clock be read",
	}
}

// judgeUnit gives the unit's file as it was judged.
func judgeUnit(t *testing.T, more []byte, threshold string) string {
	t.Helper()
	binary, err := exec.LookPath("attune")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../contrib/systemd/attune.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "attune.service")
	text = append(bytes.ReplaceAll(text, []byte("/usr/bin/attune"), []byte(binary)), more...)
	if err := os.WriteFile(unit, text, 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := os.ReadFile("../../contrib/systemd/attune.socket")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(unit), "attune.socket"), socket, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit, filepath.Join(filepath.Dir(unit), "attune.socket")).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--threshold="+threshold, unit).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
	return unit
}
