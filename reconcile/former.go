package reconcile

import (
	"context"
	"fmt"
	"path"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// FormerAction gives an action as an older revision of its pack has it. The error tells why that cannot
// be run any more.
func FormerAction(ctx context.Context, s *store.Store, revisionID int64, ref string) (*manifest.Action, error) {
	pack, tree, err := s.RevisionTree(ctx, revisionID)
	if err != nil {
		return nil, fmt.Errorf("cannot read the revision that action %s ran from: %w", ref, err)
	}
	entries := make(map[string]store.TreeEntry, len(tree))
	for _, entry := range tree {
		entries[entry.Path] = entry
	}
	files := make(map[string]manifest.File, len(tree))
	for at, entry := range entries {
		if entry.Link != "" {
			entry = entries[path.Join(path.Dir(at), entry.Link)]
		}
		file := manifest.File{Executable: entry.Executable}
		if manifest.IsManifest(at) && entry.Digest != "" && entry.Size <= manifest.MaxFileSize {
			if file.Content, err = s.FileContent(ctx, entry.Digest); err != nil {
				return nil, fmt.Errorf("cannot read %s of the revision that action %s ran from: %w", at, ref, err)
			}
		}
		files[at] = file
	}
	for _, action := range manifest.Parse(pack, files).Actions {
		if action.Ref == ref {
			return action, nil
		}
	}
	return nil, fmt.Errorf("cannot find action %s in the revision that it ran from: its manifest there is not valid for this version of Attune", ref)
}
