package faults

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// vandal does to a folder whatever a file system lets it, and to nothing else: it makes links that lead
// anywhere, and a test may run as root, so it never follows one out of the folder.
type vandal struct {
	random *rand.Rand
	root   *os.Root
}

// names are such as people, editors and attackers give; some are manifests'.
var names = []string{
	"pack.yaml", "actions", "rules", "sensors", "triggers", "lib", "a.yaml", "b.yaml", "a.sh", "b.sh", "x", ".git", "4913", "sedAbC123", "a.yaml~",
	"#a#", "A.yaml", "caf\u00e9.yaml", "cafe\u0301.yaml", "with space", "new\nline", "\xff\xfe", "...", "..data", "-rf", strings.Repeat("n", 200), "node_modules", "p1", "p2", "p3",
}

var contents = []string{
	"", "\n", "ref: p1\nversion: 1.0.0\n", "ref: p2\nversion: 2.0.0\n", "name: a\nentry_point: a.sh\n", "name: b\nentry_point: ../../x\n",
	"name: a\ntrigger: p1.a\naction: p2.a\n", "name: a\n", "echo a\n", "{{{{", "\x00", "\xff", "a: &a [*a]\n", "---\n---\n", "? [a]\n: b\n", "- [\n", strings.Repeat("[", 5000),
	strings.Repeat("k: 1\n", 1000), "name: a\nparameters: {x: {type: strnig}}\n",
}

// place is a path in the folder, at most three deep.
func (v *vandal) place() string {
	parts := []string{fmt.Sprintf("p%d", 1+v.random.IntN(3))}
	for range v.random.IntN(3) {
		parts = append(parts, names[v.random.IntN(len(names))])
	}
	return filepath.Join(parts...)
}

// act does one thing. Whether it can be done does not matter.
func (v *vandal) act() {
	at := v.place()
	switch v.random.IntN(14) {
	case 0, 1, 2, 3:
		_ = v.root.MkdirAll(filepath.Dir(at), 0o755)
		_ = v.root.WriteFile(at, []byte(contents[v.random.IntN(len(contents))]), 0o644)
	case 4:
		_ = v.root.MkdirAll(at, 0o755)
	case 5:
		_ = v.root.Rename(at, v.place())
	case 6:
		_ = v.root.RemoveAll(at)
	case 7:
		targets := []string{"a.sh", "..", "/etc/passwd", "/dev/zero", "../../../outside", "x/y", filepath.Base(at), "../" + v.place(), "."}
		_ = v.root.Symlink(targets[v.random.IntN(len(targets))], at)
	case 8:
		_ = v.root.Chmod(at, fs.FileMode(v.random.IntN(0o1000))&^0o002)
	case 9:
		_ = v.root.Link(at, v.place())
	case 10:
		v.open(at, func(f *os.File) { _ = f.Truncate(int64(v.random.IntN(3_000_000))) })
	case 11:
		_ = v.root.Chtimes(at, time.Unix(int64(v.random.IntN(1<<31)), 0), time.Unix(int64(v.random.IntN(1<<31)), 0))
	case 12:
		_ = v.root.Mkdir(at, 0o755)
		_ = v.root.WriteFile(filepath.Join(at, ".git"), nil, 0o644)
	case 13:
		v.open(at, func(f *os.File) { _, _ = f.WriteString(contents[v.random.IntN(len(contents))]) })
	}
}

// open opens a file to change it in place, if it is one.
func (v *vandal) open(at string, change func(*os.File)) {
	if f, err := v.root.OpenFile(at, os.O_APPEND|os.O_WRONLY, 0); err == nil {
		change(f)
		f.Close()
	}
}

// TestFuzzedTree lets vandals loose on the packs of a daemon. It lives, its memory stays bounded, and
// once they have gone it has exactly what a new daemon with an empty database makes of what they left,
// but for what an earlier, better version still stands for.
func TestFuzzedTree(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	for _, ref := range []string{"p1", "p2", "p3"} {
		y.unpack(strings.ReplaceAll(demo, "demo", ref))
	}
	n := y.node().start()
	before := n.rss(n.pid())
	duration := 3 * time.Second
	if long {
		duration = time.Minute
	}
	const seed = 4711
	root, err := os.OpenRoot(y.packs)
	y.check(err)
	defer root.Close()
	var all sync.WaitGroup
	for i := range 3 {
		v := &vandal{random: rand.New(rand.NewPCG(seed, uint64(i))), root: root}
		all.Go(func() {
			for end := time.Now().Add(duration); time.Now().Before(end); pause(time.Millisecond) {
				v.act()
			}
		})
	}
	all.Wait()
	if n.hasEnded() {
		t.Fatalf("the daemon has ended\n%s", n.logs())
	}
	if grown := n.rss(n.pid()) - before; !raceDetector && grown > 150<<20 {
		t.Errorf("the daemon has grown by %d MiB", grown>>20)
	}
	if !n.prints("demo.greet", "one\n") {
		t.Error("the pack that nobody touched does not run")
	}
	// What is left must be something to look at: all may be read, and nothing is half written.
	y.shell(`chmod -R u+rwX,o-w . && find . -name index.lock -delete && find . -size 0 -delete`)
	n.quiet()

	fresh := newYard(t)
	fresh.packs = y.packs
	other := fresh.node().start()
	other.quiet()
	want := fresh.inForce()
	// Eventually: where over half of the packs have gone, that is believed when it lasts.
	var differences []string
	if !y.comes(patience, func() bool {
		differences = n.unlike(want)
		return len(differences) == 0
	}) {
		t.Errorf("it is not as a new daemon is:\n%s\n%s\n%s", strings.Join(differences, "\n"), y.shell(`ls -laR .`), n.logs())
	}
}

// unlike says what of these components, as a new daemon has them, is otherwise here, and what is here beside
// them, but for what an earlier version of a refused pack still stands for.
func (n *node) unlike(want map[string]string) (differences []string) {
	n.Helper()
	have := n.inForce()
	for ref, state := range want {
		if have[ref] != state {
			differences = append(differences, fmt.Sprintf("%s: the daemon that was there has %q, a new one %q", ref, have[ref], state))
		}
	}
	for ref := range have {
		pack, _, _ := strings.Cut(ref, ".")
		if want[ref] == "" && n.errorsOf(pack) == "" {
			differences = append(differences, fmt.Sprintf("%s is in force without files that say so, or an error that it stands for", ref))
		}
	}
	return differences
}

// quiet waits until reloads find nothing more that changes.
func (n *node) quiet() {
	n.Helper()
	last := int64(-1)
	same := 0
	n.until("nothing changes any more", func() bool {
		pause(500 * time.Millisecond) // what is being waited for as unfinished is looked at again
		report, err := n.client.Reload(n.Context(), "")
		if err != nil {
			return false
		}
		if report.Generation != last {
			last, same = report.Generation, 0
			return false
		}
		same++
		return same > 3
	})
}

// inForce is what a database has in force and accepted, with the digests that tell it from others.
func (y *yard) inForce() map[string]string {
	y.Helper()
	state := map[string]string{}
	for _, kind := range []string{"action", "trigger", "sensor", "rule"} {
		// What is kept at an older revision is there by its history, not by the files.
		for _, line := range y.query(fmt.Sprintf(`SELECT c.ref, c.digest, c.files_digest FROM attune.%s c JOIN attune.pack p ON p.id = c.pack_id
			WHERE c.present AND p.present`, kind)) {
			ref, rest, _ := strings.Cut(line, " ")
			state[ref+" "+kind] = rest
		}
	}
	return state
}
