package filechange

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/attune-io/attune/reconcile"
)

// Instance is one trigger instance, as the daemon tells it.
type Instance struct {
	Trigger    string          `json:"trigger"`
	ID         string          `json:"instance"`
	Parameters json.RawMessage `json:"parameters"`
}

// What becomes of a file.
const (
	created  = "created"
	modified = "modified"
	deleted  = "deleted"
)

const (
	// defaultSettle is long enough for a copy that pauses, and short enough for who waits.
	defaultSettle = time.Second
	maxSettle     = time.Hour

	// maxFiles bounds what one instance may match: all of it is kept in memory.
	maxFiles = 200_000
)

// pattern is what an instance asks for.
type pattern struct {
	glob   string // absolute, cleaned
	base   string // the folder above all that it may match
	rest   string // what remains of glob below it
	events []string
	settle time.Duration
	hidden bool
}

func parsePattern(text json.RawMessage) (*pattern, error) {
	var given struct {
		Glob   string   `json:"glob"`
		Events []string `json:"events"`
		Settle any      `json:"settle"`
		Hidden bool     `json:"hidden"`
	}
	if err := json.Unmarshal(text, &given); err != nil {
		return nil, fmt.Errorf("cannot read the parameters: %v", err)
	}
	if !strings.HasPrefix(given.Glob, "/") {
		return nil, fmt.Errorf("cannot use glob: found %q, expected an absolute path such as /var/spool/in/*.csv", given.Glob)
	}
	p := &pattern{glob: path.Clean(given.Glob), events: given.Events, hidden: given.Hidden, settle: defaultSettle}
	if !doublestar.ValidatePattern(p.glob) {
		return nil, fmt.Errorf("cannot use glob: %q is no pattern", given.Glob)
	}
	p.base, p.rest = doublestar.SplitPattern(p.glob)
	p.base = filepath.Clean(p.base)
	if len(p.events) == 0 {
		p.events = []string{created, modified, deleted}
	}
	for _, one := range p.events {
		if one != created && one != modified && one != deleted {
			return nil, fmt.Errorf("cannot use events: found %q, expected created, modified or deleted", one)
		}
	}
	switch v := given.Settle.(type) {
	case nil:
	case float64:
		p.settle = time.Duration(min(v, math.MaxInt32) * float64(time.Second))
	case string:
		var err error
		if p.settle, err = time.ParseDuration(v); err != nil {
			return nil, fmt.Errorf("cannot use settle: found %q, expected seconds or a duration such as 5s", v)
		}
	default:
		return nil, errors.New("cannot use settle: expected seconds or a duration such as 5s")
	}
	if p.settle < 0 || p.settle > maxSettle {
		return nil, fmt.Errorf("cannot use settle: expected 0 to %s", maxSettle)
	}
	return p, nil
}

// mark tells one state of a file from the next.
type mark struct {
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // nanoseconds since 1970
	Inode    uint64 `json:"inode"`
}

// found is what a look at the folders has found.
type found struct {
	files map[string]mark
	// unread are folders that could not be listed: what was known to be in them stays.
	unread []string
	// missing says that the pattern's own folder is not there.
	missing bool
	problem error // the first
}

// look lists what the pattern matches. cover is told of each folder before it is listed.
func (p *pattern) look(cover func(dir string)) *found {
	f := &found{files: map[string]mark{}}
	cover(p.base)
	info, err := os.Stat(p.base)
	if err != nil || !info.IsDir() {
		f.missing = true
		f.problem = fmt.Errorf("cannot look for %s: there is no folder %s", p.glob, p.base)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.problem = fmt.Errorf("cannot look for %s: %v", p.glob, err)
		}
		return f
	}
	p.list(f, "", cover)
	return f
}

func (p *pattern) list(f *found, below string, cover func(dir string)) {
	dir := filepath.Join(p.base, below)
	if below != "" {
		cover(dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && (below == "" || !errors.Is(err, fs.ErrNotExist)) {
		f.unread = append(f.unread, dir)
		if f.problem == nil {
			f.problem = fmt.Errorf("cannot look for %s: %v", p.glob, err)
		}
		return
	}
	for _, entry := range entries {
		name := path.Join(below, entry.Name())
		switch {
		case !p.hidden && reconcile.Leaving(entry.Name()):
		case entry.IsDir():
			if p.mayMatchBelow(name) {
				p.list(f, name, cover)
			}
		case entry.Type().IsRegular():
			if ok, err := doublestar.Match(p.rest, name); err != nil || !ok {
				continue
			}
			info, err := entry.Info()
			if err != nil {
				continue // it went meanwhile
			}
			if len(f.files) >= maxFiles {
				f.unread = append(f.unread, dir)
				f.problem = fmt.Errorf("cannot look for all of %s: it matches over %d files; narrow it", p.glob, maxFiles)
				return
			}
			f.files[filepath.Join(dir, entry.Name())] = markOf(info)
		}
	}
}

// mayMatchBelow says whether something in a folder may match: only then is it listed, and watched.
func (p *pattern) mayMatchBelow(dir string) bool {
	if strings.ContainsAny(p.rest, "{}") {
		return true // an alternative may hold a slash, so it is not cut at one
	}
	parts, names := strings.Split(p.rest, "/"), strings.Split(dir, "/")
	for i, name := range names {
		switch {
		case i >= len(parts)-1 && (i >= len(parts) || parts[i] != "**"):
			return false
		case strings.Contains(parts[i], "**"):
			return true
		}
		if ok, err := doublestar.Match(parts[i], name); err != nil || !ok {
			return false
		}
	}
	return true
}

// within says whether a path lies in one of the folders.
func within(folders []string, file string) bool {
	return slices.ContainsFunc(folders, func(dir string) bool {
		return strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/")
	})
}
