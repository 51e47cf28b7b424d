package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

// LintOptions are for Lint.
type LintOptions struct {
	Strict       bool
	Interpreters Interpreters // nil: not checked
	PackConfig   map[string]map[string]any
	// ConfigPlace gives where a key of PackConfig stands; nil: nobody knows.
	ConfigPlace func(pack, key string) manifest.Place
	Version     string
	// Trust is as Options has it.
	Trust Trust
	// Context are further packs folders or packs (core, say) whose components may be referred to but
	// which are not linted.
	Context []string
}

// LintReport is what Lint found.
type LintReport struct {
	Packs      int             `json:"packs"`
	Components int             `json:"components"`
	Errors     manifest.Errors `json:"errors"`

	folders map[string]string // where each pack lies, by its folder's name
}

// Path gives where the file of a finding lies on this machine.
func (r *LintReport) Path(e *manifest.Error) string {
	pack, rest, _ := strings.Cut(e.File, "/")
	if folder, ok := r.folders[pack]; ok {
		return filepath.Join(folder, rest)
	}
	return e.File
}

// Lint checks packs, and folders of packs, with no daemon and no database, all of them together: what one
// names may be in another. What is wrong with the packs is in the report; the error is of the paths.
func Lint(paths []string, opts LintOptions) (*LintReport, error) {
	now := time.Now()
	report := &LintReport{Errors: manifest.Errors{}, folders: map[string]string{}}
	var places []place
	for _, path := range paths {
		more, err := packsAt(path)
		if err != nil {
			return nil, fmt.Errorf("cannot lint %s: %w", path, err)
		}
		before := len(places)
		for _, p := range more {
			switch known, twice := report.folders[p.ref]; {
			case !twice:
				report.folders[p.ref] = p.key
				places = append(places, p)
			case known != p.key:
				return nil, fmt.Errorf("cannot lint %s beside %s: both would be pack %q", p.key, known, p.ref)
			}
		}
		if _, found, notices := bundlesAt(places[before:], now); len(more) == 0 || len(places) > before && len(found)+len(notices) == 0 {
			return nil, fmt.Errorf("cannot lint %s: it is no pack (it has no pack.yaml), and there is no pack in it", path)
		}
	}
	folders, bundles, notices := bundlesTrusting(opts.Trust, places, now)
	known, err := lintContext(opts.Context, bundles, now)
	if err != nil {
		return nil, fmt.Errorf("cannot lint %s: %w", strings.Join(paths, ", "), err)
	}
	manifest.Check(bundles, manifest.CheckOptions{
		InForce:     known,
		Config:      opts.PackConfig,
		ConfigPlace: opts.ConfigPlace,
		Environment: newPreflight(opts.Interpreters, folders, now),
		Version:     opts.Version,
		Now:         now,
		Strict:      opts.Strict,
	})
	report.Errors = append(report.Errors, notices...)
	for _, b := range bundles {
		report.Packs++
		report.Components += len(b.Components())
		for _, broken := range b.Broken {
			if broken.Kind != manifest.KindPack {
				report.Components++
			}
		}
		report.Errors = append(report.Errors, b.Errors...)
	}
	if opts.Strict {
		for _, e := range report.Errors {
			e.Severity = manifest.SeverityError
		}
	}
	report.Errors.Sort()
	return report, nil
}

// packsAt gives the pack at a path, or the packs in the folder at it.
func packsAt(path string) ([]place, error) {
	whole, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(whole)
	if err != nil {
		return nil, fmt.Errorf("%s", plain(err))
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("it is a file; name the pack's folder")
	}
	if p := placeOf(filepath.Dir(whole), "", filepath.Base(whole)); hasPackFile(p) {
		if p.root, _, err = follow("/", p.directory); err != nil {
			return nil, err
		}
		return []place{p}, nil
	}
	real, _, err := follow("/", whole)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return nil, fmt.Errorf("%s", plain(err))
	}
	var places []place
	for _, entry := range entries {
		if entry.IsDir() && isComponentFolder(entry.Name()) {
			return nil, fmt.Errorf("it is a pack, by its folder %s/, and has no pack.yaml: add one with ref, label and version", entry.Name())
		}
		if isPackFolder(real, entry) {
			places = append(places, placeOf(whole, real, entry.Name()))
		}
	}
	return places, nil
}

// isComponentFolder says whether manifests of components stand in folders of that name.
func isComponentFolder(name string) bool {
	return slices.ContainsFunc(manifest.ComponentKinds(), func(kind manifest.Kind) bool { return kind.Folder() == name })
}

// bundlesAt parses packs, whoever could have written them. notices are of folders that are none.
func bundlesAt(places []place, now time.Time) (folders []*folder, bundles []*manifest.Bundle, notices manifest.Errors) {
	return bundlesTrusting(Trust{WorldWritable: true}, places, now)
}

// bundlesTrusting parses packs, and says of each whether the daemon would trust it.
func bundlesTrusting(trust Trust, places []place, now time.Time) (folders []*folder, bundles []*manifest.Bundle, notices manifest.Errors) {
	for _, p := range places {
		v := scanTrusting(trust, p, now)
		if v.outcome == gone {
			if v.folder != nil {
				notices = append(notices, noPack(v.folder)...)
			}
			continue
		}
		b, err := v.folder.bundle(v.content)
		if err == nil {
			err = trust.lintSignature(v.folder, b)
		}
		if err != nil {
			notices = append(notices, &manifest.Error{
				Place: manifest.Place{File: p.ref}, Severity: manifest.SeverityError, Kind: manifest.KindPack, Ref: p.ref,
				Message: "cannot read the pack: " + errUnstable.Error(), Hint: "lint it again",
			})
			continue
		}
		folders, bundles = append(folders, v.folder), append(bundles, b)
	}
	return folders, bundles, notices
}

// scanAt looks at one pack once. Nobody repeats it: what is being written is told as it is.
func scanAt(p place, now time.Time) visit { return scanTrusting(Trust{}, p, now) }

func scanTrusting(trust Trust, p place, now time.Time) visit {
	s := newScanner(uncovered{}, 0)
	s.lenient = trust.WorldWritable
	v := s.scan(p, now, false)
	for v.outcome == unsure {
		v = s.scan(p, now.Add(lockPatience), false)
	}
	return v
}

// revisionPlace is a revision's folder, as if it were one of a packs folder.
func revisionPlace(dir, ref, directory string) place {
	return place{key: dir, ref: ref, directory: directory, root: filepath.Dir(dir), at: filepath.Base(dir)}
}

// lintContext gives the components of other packs than the linted ones.
func lintContext(paths []string, linted []*manifest.Bundle, now time.Time) (*manifest.Set, error) {
	known := manifest.NewSet()
	for _, path := range paths {
		places, err := packsAt(path)
		if err != nil {
			return nil, fmt.Errorf("cannot use %s as context: %w", path, err)
		}
		_, bundles, _ := bundlesAt(places, now)
		for _, b := range bundles {
			isLinted := slices.ContainsFunc(linted, func(other *manifest.Bundle) bool { return other.Folder == b.Folder })
			if isLinted || b.Pack == nil {
				continue
			}
			known.Packs[b.Folder] = b.Pack
			for _, c := range b.Components() {
				known.Add(c)
			}
		}
	}
	return known, nil
}
