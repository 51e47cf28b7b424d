package faults

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// refused waits until a pack's errors have every one of the texts.
func (n *node) refused(ref string, wants ...string) {
	n.Helper()
	missing := ""
	if !n.comes(patience, func() bool {
		errs := n.errorsOf(ref)
		missing = ""
		for _, want := range wants {
			if !strings.Contains(errs, want) {
				missing += "\n  " + want
			}
		}
		return missing == ""
	}) {
		n.Fatalf("pack %s: not told:%s\nbut:\n%s\n%s", ref, missing, n.errorsOf(ref), n.logs())
	}
}

// F7: an unknown field, a wrong type, a required one missing; each has its place, and the last good stays.
func TestF07WrongFields(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f07")
	n.write("f07/rules/reply.yaml", "name: reply\nenbled: true\ntrigger: f07.called\naction: f07.greet\nlabel: [a]\n")
	n.write("f07/actions/greet.yaml", "name: greet\nentry_point: greet.sh\ntimeout: soon\n")
	n.write("f07/sensors/beat.yaml", "name: beat\nentry_point: beat.sh\n")
	n.refused("f07",
		"f07/rules/reply.yaml:2:1: ", "enabled", "f07/rules/reply.yaml:5:", "f07/actions/greet.yaml:3:", "f07/sensors/beat.yaml:")
	if out := n.must("run", "f07.greet"); out != "one\n" {
		t.Errorf("the last good action prints %q", out)
	}
	p := n.pack("f07")
	if !p.Rules[0].Enabled || !p.Sensors[0].Enabled {
		t.Errorf("the last good ones are not in force: %+v %+v", p.Rules, p.Sensors)
	}
}

// F8: a second document in one file.
func TestF08SecondDocument(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f08")
	n.write("f08/rules/reply.yaml", n.read("f08/rules/reply.yaml")+"---\nname: second\n")
	n.refused("f08", "error f08/rules/reply.yaml:4:1: ")
	if !n.pack("f08").Rules[0].Enabled {
		t.Error("the last good rule is not in force")
	}
}

// F9: manifests that were made to use up memory and time are refused, and cost neither.
func TestF09Bombs(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node().start()
	for range 200 {
		n.errorsOf("demo") // as often as below, so that only what the bombs cost is left
	}
	before := n.rss(n.pid())
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9))
	}
	var keys strings.Builder
	for i := range 1_000_000 {
		fmt.Fprintf(&keys, "k%d: 1\n", i)
	}
	y.write("demo/rules/bomb.yaml", bomb)
	y.write("demo/rules/deep.yaml", strings.Repeat("[", 20_000)+"\n")
	y.write("demo/rules/large.yaml", strings.Repeat("a", 50<<20))
	y.write("demo/rules/keys.yaml", keys.String())
	n.refused("demo", "demo/rules/bomb.yaml", "demo/rules/deep.yaml", "demo/rules/large.yaml", "demo/rules/keys.yaml")
	y.remove("demo/rules/large.yaml")
	if grown := n.rss(n.pid()) - before; !raceDetector && grown > 50<<20 {
		t.Errorf("the daemon has grown by %d MiB", grown>>20)
	}
	if out := n.must("run", "demo.greet"); out != "one\n" {
		t.Errorf("the neighbour prints %q", out)
	}
}

// F10: a pipe, a socket, a link to /dev/zero and a folder where manifests should be.
func TestF10NoFiles(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f10")
	n.check(syscall.Mkfifo(n.path("f10/rules/pipe.yaml"), 0o644))
	n.check(syscall.Mkfifo(n.path("f10/lib-pipe"), 0o644))
	socket, err := net.Listen("unix", n.path("f10/rules/s.yaml"))
	n.check(err)
	defer socket.Close()
	n.check(os.Symlink("/dev/zero", n.path("f10/rules/zero.yaml")))
	n.mkdir("f10/rules/folder.yaml")
	n.refused("f10", "f10/rules/pipe.yaml", "f10/rules/s.yaml", "f10/rules/zero.yaml", "f10/lib-pipe")
	n.write("f10/actions/greet.sh", "echo two\n")
	n.until("the neighbour is applied", func() bool { return n.prints("f10.greet", "two\n") })
}

// F11: a file that the daemon may not read; the message names its mode and the user.
func TestF11Unreadable(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node()
	if os.Geteuid() == 0 { // nobody refuses root anything
		n.uid = 65534
		_, through := newProxy(t, y.url) // the socket is root's
		n.env = append(n.env, "ATTUNE_DATABASE_URL="+through)
	}
	n.start()
	y.check(os.Chmod(y.path("demo/rules/reply.yaml"), 0))
	n.refused("demo", "demo/rules/reply.yaml", "mode 0000", fmt.Sprintf("uid %d", max(n.uid, 0)))
	if !n.pack("demo").Rules[0].Enabled {
		t.Error("the last good rule is not in force")
	}
	y.check(os.Chmod(y.path("demo/rules/reply.yaml"), 0o644))
	n.until("it is read again", func() bool { return n.errorsOf("demo") == "" })
}

// F12: other encodings. A BOM and CRLF are read, the rest is refused with its place.
func TestF12Encodings(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f12")
	good := n.read("f12/actions/greet.yaml")
	action := func(name, content string) {
		n.write("f12/actions/"+name+".yaml", strings.Replace(content, "greet", name, 1))
	}
	action("bom", "\ufeff"+good)
	action("crlf", strings.ReplaceAll(good, "\n", "\r\n"))
	action("invalid", good+"label: \xff\xfe\n")
	action("nul", good+"label: \"a\x00b\"\n")
	utf16 := "\xff\xfe"
	for _, c := range good {
		utf16 += string([]byte{byte(c), 0})
	}
	n.write("f12/actions/wide.yaml", utf16)
	n.refused("f12", "f12/actions/invalid.yaml:3:8: cannot read the manifest: byte 0xff is not UTF-8",
		"f12/actions/nul.yaml:3:10: cannot read the manifest: found a NUL byte", "f12/actions/wide.yaml:1:1: cannot read the manifest: ")
	p := n.pack("f12")
	for _, ref := range []string{"f12.bom", "f12.crlf"} {
		if !slices.ContainsFunc(p.Actions, func(c component) bool { return c.Ref == ref && c.Enabled }) {
			t.Errorf("%s is not in force: %+v", ref, p.Actions)
		}
	}
}

// F27: one ref in two packs, and names that differ by case or Unicode form alone. What is in force stays,
// whoever else wants its name, over every restart.
func TestF27OneRefTwice(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	n := y.node().start()
	y.shell(`cp -r demo copy`)
	n.refused("copy", "copy/pack.yaml:", "demo")
	y.write("demo/actions/again.yaml", "name: greet\nentry_point: other.sh\n")
	y.write("demo/actions/other.sh", "echo other\n")
	y.write("demo/actions/cafe.yaml", "name: Greet\nentry_point: other.sh\n")
	n.refused("demo", "demo/actions/again.yaml:", "demo/actions/greet.yaml:", "demo/actions/cafe.yaml:", "differs only in case")
	restarts := 2
	if long {
		restarts = 20
	}
	for i := range restarts {
		if out := n.must("run", "demo.greet"); out != "one\n" {
			t.Fatalf("after %d restarts another one is in force: %q", i, out)
		}
		n.stop()
		n.start()
	}
	if errs := n.errorsOf("demo"); !strings.Contains(errs, "demo/actions/again.yaml:") || !strings.Contains(errs, "demo/actions/greet.yaml:") {
		t.Errorf("after the restarts: %s", errs)
	}
}

// F28: an entry point outside of the pack, by link or by dots, is refused, and nothing of it runs.
func TestF28Escapes(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f28")
	marker := filepath.Join(n.dir, "f28-ran")
	n.check(os.WriteFile(filepath.Join(n.dir, "f28-outside.sh"), []byte("touch "+marker+"\n"), 0o755))
	n.check(os.Symlink(filepath.Join(n.dir, "f28-outside.sh"), n.path("f28/actions/absolute.sh")))
	n.check(os.Symlink("../../../f28-outside.sh", n.path("f28/actions/relative.sh")))
	n.check(os.Symlink("/etc/passwd", n.path("f28/actions/passwd.yaml")))
	for name, entry := range map[string]string{"absolute": "absolute.sh", "relative": "relative.sh", "dots": "../../../f28-outside.sh"} {
		n.write("f28/actions/"+name+".yaml", "name: "+name+"\nentry_point: "+entry+"\n")
	}
	n.refused("f28", "f28/actions/absolute.yaml:2:", "f28/actions/relative.yaml:2:", "f28/actions/dots.yaml:2:", "f28/actions/passwd.yaml")
	if errs := n.errorsOf("f28"); strings.Contains(errs, "root:x") {
		t.Errorf("what is outside is shown: %s", errs)
	}
	for _, name := range []string{"absolute", "relative", "dots"} {
		if out, _, code := n.run("run", "f28."+name); code != 125 {
			t.Errorf("f28.%s: exit %d %s", name, code, out)
		}
	}
	if exists(marker) {
		t.Error("a script outside of the pack ran")
	}
}
