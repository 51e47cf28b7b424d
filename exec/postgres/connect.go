package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/attune-io/attune/exec/child"
)

// Connection is how a program of PostgreSQL's reaches a database: by its environment, which other users of
// the machine cannot read, unlike its arguments.
type Connection struct {
	Env []string
	// Major is the server's version where it is known; 0: it is not.
	Major int
	// URL is the same as a connection string, with the password: it is never shown.
	URL string
}

// Connect says how to reach the private server that runs in dir. It changes nothing, and works for root and
// for the server's user.
func Connect(dir string) (*Connection, error) {
	fail := func(err error) (*Connection, error) {
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("cannot reach the private PostgreSQL in %s: %w; try it as root, or as the daemon's user", dir, err)
		}
		return nil, fmt.Errorf("cannot reach the private PostgreSQL in %s: %w", dir, err)
	}
	l := layout{dir: dir, data: filepath.Join(dir, "data"), secretFile: filepath.Join(dir, "secret")}
	secret, err := os.ReadFile(l.secretFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(errors.New("there is none; a daemon makes it at its first start"))
	}
	if err != nil {
		return fail(err)
	}
	major, err := l.major()
	if err != nil {
		return fail(err)
	}
	running, err := l.runningServer()
	if err != nil {
		return fail(err)
	}
	if running == nil {
		return fail(errors.New("it does not run; it does while the daemon does"))
	}
	password := strings.TrimSpace(string(secret))
	return &Connection{Major: major, URL: address(running.socketDir, password), Env: []string{
		"PGHOST=" + running.socketDir, "PGPORT=" + port, "PGUSER=" + role, "PGDATABASE=" + database,
		"PGPASSWORD=" + password, "PGSSLMODE=disable",
	}}, nil
}

// HasServer tells whether this machine has the programs of a server that a private cluster of a major version
// needs; 0: of any version that is supported.
func HasServer(major int, path string) bool {
	var dirs []string
	for version := newestMajor; version >= oldestMajor; version-- {
		if major == 0 || version == major {
			dirs = append(dirs, packageDirs(version)...)
		}
	}
	if slices.ContainsFunc(dirs, func(dir string) bool { return isProgram(filepath.Join(dir, "initdb")) }) {
		return true
	}
	// Elsewhere a version is known to whoever asks it, which the start does.
	for _, dir := range append(filepath.SplitList(path), filepath.SplitList(child.ChildPath)...) {
		if server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil && isProgram(filepath.Join(filepath.Dir(server), "initdb")) {
			return true
		}
	}
	return false
}

// Program finds one of PostgreSQL's programs (psql, pg_dump): of the version, or for 0 the newest, and else in
// the folders of path.
func Program(name string, major int, path string) (string, error) {
	var dirs []string
	if major != 0 {
		dirs = packageDirs(major)
	}
	for other := newestMajor; other >= max(major, oldestMajor); other-- {
		dirs = append(dirs, packageDirs(other)...)
	}
	dirs = slices.Concat(dirs, filepath.SplitList(path), filepath.SplitList(child.ChildPath))
	for _, dir := range dirs {
		if file := filepath.Join(dir, name); filepath.IsAbs(dir) && isProgram(file) {
			return file, nil
		}
	}
	wanted := name
	if major != 0 {
		wanted += " of PostgreSQL " + strconv.Itoa(major) + " or newer"
	}
	return "", fmt.Errorf("cannot find %s on this machine; install it (apt-get install postgresql-client)", wanted)
}
