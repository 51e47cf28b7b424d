package reconcile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
)

// contents are files by digest, as a revision's source.
type contents struct {
	tree  []store.TreeEntry
	data  map[string][]byte
	asked atomic.Int64
}

func newContents(f files) *contents {
	c := &contents{data: map[string][]byte{}}
	for _, at := range sortedKeys(f) {
		if target, ok := strings.CutPrefix(f[at], "-> "); ok {
			c.tree = append(c.tree, store.TreeEntry{Path: at, Link: target})
			continue
		}
		digest := digestOf([]byte(f[at]))
		c.data[digest] = []byte(f[at])
		c.tree = append(c.tree, store.TreeEntry{Path: at, Digest: digest, Executable: strings.HasSuffix(at, ".sh"), Size: int64(len(f[at]))})
	}
	return c
}

func (c *contents) digest() string { return treeDigest(c.tree) }

func (c *contents) content(digest string) ([]byte, error) {
	c.asked.Add(1)
	if data, ok := c.data[digest]; ok {
		return data, nil
	}
	return nil, errors.New("no such content")
}

func newRevisions(t *testing.T, log *bytes.Buffer) *Revisions {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "revisions")
	r, err := NewRevisions(dir, nil, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if err := removeTree(dir); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestRevisionIsReadOnlyAndWhole(t *testing.T) {
	t.Parallel()
	r := newRevisions(t, &bytes.Buffer{})
	c := newContents(onePack().with("lib/link.py", "-> x.py", "a-b/c", "x", "!odd/name", "y"))
	dir, err := r.Put(t.Context(), c.digest(), c.tree, c.content)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		".": 0o555, "actions": 0o555, "!odd": 0o555, "actions/act.sh": 0o555, "actions/act.yaml": 0o444, "lib/x.py": 0o444,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode(), want, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "lib/link.py")); err != nil || string(text) != "x\n" {
		t.Errorf("through the link: %q, %v", text, err)
	}
	tree, err := readTree(dir)
	if err != nil || treeDigest(tree) != c.digest() {
		t.Errorf("read back: %v", err)
	}
	asked := c.asked.Load()
	if again, err := r.Put(t.Context(), c.digest(), c.tree, c.content); err != nil || again != dir || c.asked.Load() != asked {
		t.Errorf("a second Put: %v", err)
	}
}

func TestRevisionRefuses(t *testing.T) {
	t.Parallel()
	good := newContents(files{"a": "x"})
	tests := map[string]struct {
		digest string
		tree   []store.TreeEntry
		want   string
	}{
		"a name that is no digest": {"../../etc", good.tree, "is no digest"},
		"another tree":             {strings.Repeat("0", 64), good.tree, "its list of files has digest"},
		"no content":               {"", []store.TreeEntry{{Path: "a", Digest: strings.Repeat("1", 64)}}, "no such content"},
		"path out":                 {"", []store.TreeEntry{{Path: "../a", Digest: good.tree[0].Digest}}, "is no path in a pack"},
		"absolute path":            {"", []store.TreeEntry{{Path: "/tmp/a", Digest: good.tree[0].Digest}}, "is no path in a pack"},
		"link out":                 {"", []store.TreeEntry{{Path: "a", Link: "../../etc/passwd"}}, "leads out of the pack"},
		"absolute link":            {"", []store.TreeEntry{{Path: "a", Link: "/etc/passwd"}}, "leads out of the pack"},
		"file below a link":        {"", []store.TreeEntry{{Path: "a", Link: "b"}, {Path: "a/c", Digest: good.tree[0].Digest}}, "a"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRevisions(t, &bytes.Buffer{})
			digest := test.digest
			if digest == "" {
				digest = treeDigest(test.tree)
			}
			_, err := r.Put(t.Context(), digest, test.tree, good.content)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			left, err := os.ReadDir(r.dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestRevisionWrongContent(t *testing.T) {
	t.Parallel()
	r := newRevisions(t, &bytes.Buffer{})
	c := newContents(files{"a": "x"})
	_, err := r.Put(t.Context(), c.digest(), c.tree, func(string) ([]byte, error) { return []byte("y"), nil })
	if err == nil || !strings.Contains(err.Error(), "its content has digest") {
		t.Errorf("error %v", err)
	}
}

// TestRevisionTamperedWith: what was changed behind our back is made anew by the next process.
func TestRevisionTamperedWith(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r := newRevisions(t, &log)
	c := newContents(onePack())
	dir, err := r.Put(t.Context(), c.digest(), c.tree, c.content)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(dir, "actions/act.sh")
	for _, err := range []error{os.Chmod(script, 0o755), os.WriteFile(script, []byte("evil\n"), 0o755), os.Mkdir(filepath.Join(r.dir, unfinished+"1"), 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	next, err := NewRevisions(r.dir, nil, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if _, err := next.Put(t.Context(), c.digest(), c.tree, c.content); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(script); err != nil || string(text) != "echo\n" {
		t.Errorf("the script is %q, %v", text, err)
	}
	if !strings.Contains(log.String(), "made anew") {
		t.Errorf("nobody was told:\n%s", log.String())
	}
	if left, err := filepath.Glob(filepath.Join(r.dir, unfinished+"*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRevisionMadeOnceForMany(t *testing.T) {
	t.Parallel()
	r := newRevisions(t, &bytes.Buffer{})
	c := newContents(onePack())
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if _, err := r.Put(t.Context(), c.digest(), c.tree, c.content); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if have := c.asked.Load(); have != int64(len(c.tree)) {
		t.Errorf("read %d contents, want %d", have, len(c.tree))
	}
}

// TestRevisionCancelledMaker: who waits for one that gives up makes it itself.
func TestRevisionCancelledMaker(t *testing.T) {
	t.Parallel()
	r := newRevisions(t, &bytes.Buffer{})
	c := newContents(onePack())
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan struct{})
	first := make(chan error, 1)
	go func() {
		var once sync.Once
		_, err := r.Put(ctx, c.digest(), c.tree, func(digest string) ([]byte, error) {
			once.Do(func() { close(began) })
			<-ctx.Done()
			return nil, ctx.Err()
		})
		first <- err
	}()
	<-began
	second := make(chan error, 1)
	go func() {
		_, err := r.Put(t.Context(), c.digest(), c.tree, c.content)
		second <- err
	}()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	r := newRevisions(t, &bytes.Buffer{})
	var digests []string
	for _, text := range []string{"a", "b", "c"} {
		c := newContents(files{"sub/x": text})
		if _, err := r.Put(t.Context(), c.digest(), c.tree, c.content); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, c.digest())
	}
	if n, err := r.Prune(map[string]bool{}); n != 0 || err != nil {
		t.Errorf("removed %d that were just asked for, %v", n, err)
	}
	r.mu.Lock()
	for digest := range r.made {
		r.made[digest] = time.Now().Add(-2 * pruneGrace)
	}
	r.mu.Unlock()
	if n, err := r.Prune(map[string]bool{digests[0]: true}); n != 2 || err != nil {
		t.Errorf("removed %d, want 2, %v", n, err)
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != digests[0] {
		t.Errorf("left: %v, %v", entries, err)
	}
	c := newContents(files{"sub/x": "b"})
	if _, err := r.Put(t.Context(), c.digest(), c.tree, c.content); err != nil {
		t.Errorf("a removed one cannot be made again: %v", err)
	}
}

func TestRevisionFromDatabase(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.do(os.Symlink("act.sh", b.path("one/actions/again")))
	b.start()
	row := b.catalog().Packs["one"]
	fresh, err := NewRevisions(filepath.Join(t.TempDir(), "other"), b.store, quietLogger())
	b.do(err)
	t.Cleanup(func() { fresh.Close(); b.do(removeTree(fresh.dir)) })
	dir, err := fresh.Dir(t.Context(), row.RevisionID, row.TreeDigest)
	b.do(err)
	tree, err := readTree(dir)
	if err != nil || treeDigest(tree) != row.TreeDigest {
		t.Errorf("made from the database: %v", err)
	}
	if _, err := fresh.Dir(t.Context(), 4711, strings.Repeat("0", 64)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an unknown revision: %v", err)
	}
}
