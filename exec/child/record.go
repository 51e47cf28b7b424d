package child

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// identity names one process: a pid alone is given away again.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start_time"`
}

func identify(pid int) identity {
	start, err := StartTime(pid)
	if err != nil {
		return identity{}
	}
	return identity{PID: pid, Start: start}
}

// record is what a run leaves on disk for the next one. It stands as long as the run did not end cleanly.
type record struct {
	BootID  string   `json:"boot_id"`
	RunID   string   `json:"run_id"`
	Daemon  identity `json:"daemon"`
	Session int      `json:"session"`
	Keeper  identity `json:"keeper"`
	Cgroup  string   `json:"cgroup,omitempty"`
}

func newRecord(runID string) record {
	boot, _ := BootID() // empty never equals, so a later run looks for no leftovers
	return record{BootID: boot, RunID: runID, Daemon: identify(os.Getpid()), Session: mySession()}
}

// stateDir is the folder that one daemon at a time holds.
type stateDir struct {
	dir  string
	lock FileLock
}

// openStateDir takes the folder's lock.
func openStateDir(dir string) (*stateDir, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("cannot create the state directory: %v", err)
	}
	name := filepath.Join(dir, "lock")
	lock, err := LockFile(name)
	switch {
	case errors.Is(err, ErrFileLocked):
		return nil, fmt.Errorf("cannot use the state directory %s: %w (pid %s); stop it first, or give this one a state directory of its own (state.directory)", dir, ErrLocked, holder(name))
	case err != nil:
		return nil, fmt.Errorf("cannot use the state directory: %v; set state.directory to a folder that this user may write", err)
	}
	s := &stateDir{dir: dir, lock: lock}
	if err := s.writePID(); err != nil {
		s.close()
		return nil, fmt.Errorf("cannot write %s: %v", name, err)
	}
	return s, nil
}

// ErrLocked says that another daemon holds the state directory.
var ErrLocked = errors.New("another daemon is using it")

func holder(name string) string {
	text, _ := os.ReadFile(name) // nothing is no number
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return "unknown"
	}
	return strconv.Itoa(pid)
}

func (s *stateDir) writePID() error {
	if err := s.lock.Truncate(0); err != nil {
		return err
	}
	_, err := s.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func (s *stateDir) file() string { return filepath.Join(s.dir, "run.json") }

// read gives nil where the last run ended cleanly, or never was.
func (s *stateDir) read() (*record, error) {
	data, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("%s: %v", s.file(), err)
	}
	return &rec, nil
}

// write replaces the record in one step. It need not survive a loss of power: no child does either.
func (s *stateDir) write(rec record) error {
	if s == nil {
		return nil
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the record of this run: %v", err)
	}
	tmp := s.file() + ".new"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot write the record of this run: %v", err)
	}
	if err := os.Rename(tmp, s.file()); err != nil {
		return fmt.Errorf("cannot write the record of this run: %v", err)
	}
	return nil
}

func (s *stateDir) clear() error {
	if s == nil {
		return nil
	}
	if err := os.Remove(s.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the record of this run: %v", err)
	}
	return nil
}

func (s *stateDir) close() {
	if s != nil {
		s.lock.Release()
	}
}
