package filechange

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// memory is what is known of the files, and what was told and is not acknowledged yet. It outlives the
// process.
type memory struct {
	// Last numbers the events.
	Last      int64                  `json:"last"`
	Instances map[string]*remembered `json:"instances"`
	// Run is random, for the ids of events to be new when the file was lost.
	Run string `json:"run"`
}

// remembered is what is known of one instance.
type remembered struct {
	Glob  string          `json:"glob"`
	Files map[string]mark `json:"files"`
	// Told are events by their id.
	Told map[string]event `json:"told,omitempty"`
}

// event is one change that is told.
type event struct {
	What string `json:"event"`
	Path string `json:"path"`
	Mark mark   `json:"mark"`
	// At is when it was seen, in RFC 3339.
	At string `json:"at"`
	// Number is its place among all.
	Number int64 `json:"number"`
}

func markOf(info fs.FileInfo) mark {
	m := mark{Size: info.Size(), Modified: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		m.Inode = sys.Ino
	}
	return m
}

// load reads the memory; one that is not there, or cannot be read, is new.
func load(file string) (*memory, error) {
	fresh := &memory{Instances: map[string]*remembered{}}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return fresh, fmt.Errorf("cannot read what was known of the files: %v", err)
	}
	var m memory
	if err := json.Unmarshal(data, &m); err != nil || m.Instances == nil {
		return fresh, fmt.Errorf("cannot read what was known of the files, and begin anew: %s is damaged", file)
	}
	for _, r := range m.Instances {
		if r.Files == nil {
			r.Files = map[string]mark{}
		}
		if r.Told == nil {
			r.Told = map[string]event{}
		}
	}
	return &m, nil
}

// save replaces the file. After a power failure it may be an older one: then changes are told again.
func (m *memory) save(file string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot encode what is known of the files: %v", err)
	}
	temporary := filepath.Join(filepath.Dir(file), ".new-"+filepath.Base(file))
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return fmt.Errorf("cannot keep what is known of the files: %v", err)
	}
	if err := os.Rename(temporary, file); err != nil {
		return fmt.Errorf("cannot keep what is known of the files: %v", err)
	}
	return nil
}
