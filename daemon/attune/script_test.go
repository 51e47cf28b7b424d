package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/attune-io/attune/daemon/cli"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// patience is how long a story waits for what must come: long, since the machine may be busy, and
// only ever used up by a failure.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(storetest.Wrap(m), map[string]func(){"attune": main})
}

// TestStories runs every story of testdata/script: the real binary, real PostgreSQL, real children.
func TestStories(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		WorkdirRoot:         openFolder(t),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               func(env *testscript.Env) error { return setUp(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"eventually": eventually,
			"serve":      serve,
			"mailserver": mailServer,
			"remember":   remember,
			"same":       same,
			"gone":       gone,
			"killpid":    killPID,
			"orphans":    orphans,
		},
	})
}

// openFolder makes a temporary folder that every user may pass through: started by root, the private
// PostgreSQL runs as another user.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "attune")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// setUp gives each story a configuration and a database of its own. A story that wants the private
// PostgreSQL unsets ATTUNE_DATABASE_URL.
func setUp(t *testing.T, env *testscript.Env) error {
	root, err := filepath.Abs("../..")
	if err != nil {
		return err
	}
	// Whatever umask the machine has: the private PostgreSQL must get through, as with openFolder.
	if err := os.Chmod(env.WorkDir, 0o711); err != nil {
		return err
	}
	config := filepath.Join(env.WorkDir, "attune.toml")
	text := fmt.Sprintf(`
[packs]
directory = %q
[state]
directory = %q
[http]
listen = ""
socket = %q
[exec]
stop_grace = "2s"
drain = "5s"
`, filepath.Join(env.WorkDir, "packs"), filepath.Join(env.WorkDir, "state"), filepath.Join(env.WorkDir, "s"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	env.Setenv("REPO", root)
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("ATTUNE_CONFIG", config)
	env.Setenv("ATTUNE_DATABASE_URL", storetest.NewURL(t))
	env.Setenv("NO_COLOR", "1")
	env.Setenv(storetest.RaceVariable, storetest.RaceOptions)
	return os.MkdirAll(filepath.Join(env.WorkDir, "packs"), 0o755)
}

// eventually runs a command again and again until its stdout (or stderr, or both for `out`) matches:
//
//	eventually stdout 'succeeded' attune execution list
//	! eventually …   until it no longer matches
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: eventually stdout|stderr|out REGEXP COMMAND…")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var stdout, stderr string
	ts.Check(ts.Exec("env"))
	environ := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); wait(50 * time.Millisecond) {
		stdout, stderr = look(ts, environ, args[2], args[3:])
		text := map[string]string{"stdout": stdout, "stderr": stderr, "out": stdout + stderr}[args[0]]
		if pattern.MatchString(text) != neg {
			// What follows may look at it as at the output of any command.
			fmt.Fprint(ts.Stdout(), stdout)
			fmt.Fprint(ts.Stderr(), stderr)
			return
		}
	}
	ts.Fatalf("%q never %s within %v; last stdout:\n%s\nlast stderr:\n%s",
		args[1], map[bool]string{false: "came", true: "went"}[neg], patience, stdout, stderr)
}

// look runs a command, and gives what it prints; a failure is one more reason to look again. Commands of
// attune's run in this process: starting one takes a hundred times longer than asking the daemon.
func look(ts *testscript.TestScript, environ []string, program string, args []string) (stdout, stderr string) {
	if program != "attune" {
		_ = ts.Exec(program, args...)
		return ts.ReadFile("stdout"), ts.ReadFile("stderr")
	}
	var out, errs bytes.Buffer
	cli.Main(context.Background(), cli.System{
		Args: args, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: ts.Getenv, Environ: environ,
	})
	return out.String(), errs.String()
}

// wait lets real time pass between two looks at a process that cannot tell us when it is done.
func wait(d time.Duration) { <-time.After(d) }

// remember puts what a regular expression's group finds in stdout into an environment variable.
func remember(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: remember NAME REGEXP")
	}
	found := regexp.MustCompile("(?m)" + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("stdout does not match %q:\n%s", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], found[1])
}

// same compares two words.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same A B")
	}
	if (args[0] == args[1]) == neg {
		ts.Fatalf("same: %q and %q", args[0], args[1])
	}
}

// gone waits until a process has ended.
func gone(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); wait(20 * time.Millisecond) {
		if syscall.Kill(pid, 0) != nil {
			return
		}
	}
	ts.Fatalf("process %d is still there", pid)
}

// killPID sends SIGKILL to one process.
func killPID(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(args[0])
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
}

// orphans waits until no process is left that a daemon of this story started.
func orphans(ts *testscript.TestScript, neg bool, _ []string) {
	if !neg {
		ts.Fatalf("usage: ! orphans")
	}
	marker := "HOME=" + ts.Getenv("WORK")
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); wait(50 * time.Millisecond) {
		left = left[:0]
		environs, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, name := range environs {
			text, err := os.ReadFile(name)
			if err == nil && strings.Contains(string(text), "ATTUNE_RUN_ID=") && strings.Contains(string(text), marker) {
				left = append(left, name)
			}
		}
		if len(left) == 0 {
			return
		}
	}
	ts.Fatalf("still there: %s", left)
}

// serve starts an HTTP and an HTTPS server for core.http_request, and puts their addresses into HTTP
// and HTTPS. Under /files/ is the story's folder.
func serve(ts *testscript.TestScript, _ bool, _ []string) {
	handler := http.NewServeMux()
	handler.Handle("/files/", http.StripPrefix("/files/", http.FileServer(http.Dir(ts.MkAbs(".")))))
	handler.HandleFunc("/", answer)
	insecure := httptest.NewServer(handler)
	secure := httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of the story
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	ts.Defer(insecure.Close)
	ts.Defer(secure.Close)
	ts.Setenv("HTTP", insecure.URL)
	ts.Setenv("HTTPS", secure.URL)
}

// answer tells what was asked: /status/N answers N, /redirect/N goes N steps, /slow never ends by
// itself, /basic and /bearer want the right credentials.
func answer(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	number := 0
	if len(parts) > 1 {
		number, _ = strconv.Atoi(parts[1])
	}
	switch parts[0] {
	case "redirect":
		if number > 0 {
			http.Redirect(w, r, fmt.Sprintf("/redirect/%d", number-1), http.StatusFound)
			return
		}
	case "basic":
		if user, password, _ := r.BasicAuth(); user != "ada" || password != "hunter2hunter2" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	case "bearer":
		if r.Header.Get("Authorization") != "Bearer letmein-letmein" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	case "slow":
		<-r.Context().Done()
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if parts[0] == "status" {
		w.WriteHeader(number)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"method": r.Method, "path": r.URL.Path, "query": r.URL.RawQuery, "body": string(body),
		"authorization": r.Header.Get("Authorization"), "x_test": r.Header.Get("X-Test"),
	})
}
