package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-io/attune/exec/child"
)

const (
	// newestMajor and oldestMajor are the versions that Attune is tested with.
	newestMajor = 18
	oldestMajor = 14
	// askTimeout is for one `postgres --version`.
	askTimeout = 5 * time.Second
)

// binaries are the programs of one server version.
type binaries struct {
	dir     string
	version string // "15.18"
	major   int
}

// installedServers finds what the machine has, the newest first: where Debian puts each version, where
// Red Hat's packages from postgresql.org do, what pg_config names, and the PATH. Where one major version
// is wanted (not 0) it is looked for first, and the search ends with it: each question costs a start.
func installedServers(ctx context.Context, r *child.Runner, want int) []binaries {
	var dirs []string
	if want != 0 {
		dirs = packageDirs(want)
	}
	for major := newestMajor; major >= oldestMajor; major-- {
		dirs = append(dirs, packageDirs(major)...)
	}
	var found []binaries
	var seen []string
	add := func(dir string) (enough bool) {
		server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
		// A link in the PATH has no initdb beside it, its target has.
		if err != nil || !isProgram(server) || !isProgram(filepath.Join(filepath.Dir(server), "initdb")) || slices.Contains(seen, server) {
			return false
		}
		seen = append(seen, server)
		b, err := inspect(ctx, r, filepath.Dir(server))
		if err != nil {
			return false
		}
		found = append(found, b)
		return b.major == want
	}
	if slices.ContainsFunc(dirs, add) {
		return found
	}
	path := filepath.SplitList(child.ChildPath + ":" + os.Getenv("PATH"))
	for _, dir := range path {
		if config := filepath.Join(dir, "pg_config"); isProgram(config) {
			if out, err := ask(ctx, r, config, "--bindir"); err == nil {
				add(strings.TrimSpace(out))
			}
			break
		}
	}
	for _, dir := range path {
		add(dir)
	}
	return found
}

func packageDirs(major int) []string {
	n := strconv.Itoa(major)
	return []string{"/usr/lib/postgresql/" + n + "/bin", "/usr/pgsql-" + n + "/bin"}
}

func isProgram(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o111 != 0
}

func inspect(ctx context.Context, r *child.Runner, dir string) (binaries, error) {
	out, err := ask(ctx, r, filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return binaries{}, err
	}
	b := binaries{dir: dir, version: parseVersion(out)}
	major, _, _ := strings.Cut(b.version, ".")
	b.major, err = strconv.Atoi(major)
	return b, err
}

// parseVersion takes "15.18" out of "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"; a "17beta1"
// stays as far as it is a number.
func parseVersion(s string) string {
	_, rest, _ := strings.Cut(s, ") ")
	end := strings.IndexFunc(rest, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// choose takes the server for a cluster of a major version; 0 is a new cluster, which gets the newest.
func choose(found []binaries, major int, dataDir string) (binaries, error) {
	usable := slices.DeleteFunc(slices.Clone(found), func(b binaries) bool {
		return b.major < oldestMajor || b.major > newestMajor
	})
	slices.SortStableFunc(usable, func(a, b binaries) int { return b.major - a.major })
	for _, b := range usable {
		if major == 0 || b.major == major {
			return b, nil
		}
	}
	switch {
	case major != 0:
		return binaries{}, fmt.Errorf("the cluster in %s was made by PostgreSQL %d, and this machine has %s; either install that version (apt-get install postgresql-%d), or dump the database with a PostgreSQL %d elsewhere, move the folder away and restore the dump with pg_restore", dataDir, major, describe(found), major, major)
	case len(found) > 0:
		return binaries{}, fmt.Errorf("this machine has %s, and versions %d to %d are supported; install one (apt-get install postgresql), or set database.url to a server elsewhere", describe(found), oldestMajor, newestMajor)
	}
	return binaries{}, fmt.Errorf("there are no PostgreSQL server binaries on this machine (versions %d to %d); install them (apt-get install postgresql, or contrib/setup.sh, which does it without a main cluster), or set database.url to a server elsewhere", oldestMajor, newestMajor)
}

func describe(found []binaries) string {
	if len(found) == 0 {
		return "no server binaries at all"
	}
	var texts []string
	for _, b := range found {
		texts = append(texts, "PostgreSQL "+b.version+" in "+b.dir)
	}
	return strings.Join(texts, ", ")
}

// ask runs a program that prints a line.
func ask(ctx context.Context, r *child.Runner, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out := child.NewCapture(logTail, nil)
	p, err := r.Start(ctx, child.Spec{Name: path, Path: path, Args: args, Env: child.NewEnv("", "").List(), Dir: "/", Stdout: out})
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		_ = p.Stop(0)
		return "", ctx.Err()
	}
	if exit := p.Wait(); exit.Code != 0 {
		return "", fmt.Errorf("%s: %v", path, exit)
	}
	text, _, _ := out.Text()
	return text, nil
}
