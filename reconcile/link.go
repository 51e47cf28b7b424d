package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks is how many symbolic links one path may lead over; the kernel's own limit.
const maxLinks = 40

var (
	errEscapes  = errors.New("it leads out of the pack")
	errLinkLoop = errors.New("it leads over too many links")
)

// follow goes from a folder without links along a path and gives the real path, with every link that
// it met: the places where somebody can make the path mean another folder.
func follow(from, p string) (real string, links []string, err error) {
	rest := strings.Split(strings.Trim(filepath.Clean(p), "/"), "/")
	real = from
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			real = filepath.Dir(real)
			continue
		}
		next := filepath.Join(real, name)
		info, err := os.Lstat(next)
		if err != nil {
			return "", links, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			real = next
			continue
		}
		if links = append(links, next); len(links) > maxLinks {
			return "", links, fmt.Errorf("cannot follow %s: %w", p, errLinkLoop)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", links, err
		}
		if filepath.IsAbs(target) {
			real = "/"
		}
		rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
	}
	return real, links, nil
}

// inside is where a link of a pack leads to, within the pack.
type inside struct {
	path string // slash path in the pack, without links
	info fs.FileInfo
	// hidden says that the way leads through an ignored name, as Kubernetes' ..data: what is there is
	// no part of a revision by itself.
	hidden bool
	// links are the links on the way, slash paths in the pack.
	links []string
}

// resolveInside follows a path of a pack, link by link, and never leaves the pack: not by an absolute
// target, nor by "..". errEscapes and errLinkLoop tell those; fs.ErrNotExist a link to nothing.
func resolveInside(root *os.Root, p string) (*inside, error) {
	var to inside
	rest := strings.Split(p, "/")
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if to.path == "" {
				return nil, errEscapes
			}
			to.path = strings.TrimPrefix(path.Dir("/"+to.path), "/")
			continue
		}
		next := path.Join(to.path, name)
		info, err := root.Lstat(next)
		if err != nil {
			return &to, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			to.path, to.info = next, info
			to.hidden = to.hidden || ignored(name)
			continue
		}
		if to.links = append(to.links, next); len(to.links) > maxLinks {
			return nil, errLinkLoop
		}
		to.hidden = to.hidden || ignored(name)
		target, err := root.Readlink(next)
		if err != nil {
			return &to, err
		}
		if path.IsAbs(target) {
			return nil, errEscapes
		}
		rest = slices.Concat(strings.Split(target, "/"), rest)
	}
	if to.path == "" {
		return nil, errEscapes // the pack itself: a folder that holds itself has no end
	}
	if to.info == nil || path.Base(to.path) != to.info.Name() {
		info, err := root.Lstat(to.path) // after a ".." the last name looked at is another
		if err != nil {
			return &to, err
		}
		to.info = info
	}
	return &to, nil
}

// staysInside says that a link's target, read from where the link is, names something in the pack. It
// looks at no file.
func staysInside(link, target string) bool {
	return !path.IsAbs(target) && filepath.IsLocal(path.Join(path.Dir(link), target))
}

// isEscape says whether a link was refused for where it leads, not for what is there.
func isEscape(err error) bool { return errors.Is(err, errEscapes) || errors.Is(err, errLinkLoop) }
