package faults

import (
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// labelled is a rule with a label that editors change.
const labelled = `name: reply
label: one
trigger: REF.called
action: REF.greet
`

// labelledPack makes a pack whose rule is labelled "one".
func (n *node) labelledPack(ref string) (file, rule string) {
	n.Helper()
	n.newPack(ref)
	file, rule = ref+"/rules/reply.yaml", ref+".reply"
	n.write(file, strings.ReplaceAll(labelled, "REF", ref))
	n.until("the rule has its label", func() bool { return n.label(rule) == "one" })
	n.reload()
	return file, rule
}

// F1: vim, Emacs, nano, sed -i and a save as VS Code does it; each is one reconcile. How soon it is live is measured by
// benchmarks.
func TestF01EditorsSave(t *testing.T) {
	t.Parallel()
	// A node of its own, without a regular scan: a reload that somebody else asks for takes what is half saved as it is.
	n := newYard(t).node(`reconcile.resync = "1h"`).start()
	vim := func(options string) func(file string) {
		return func(file string) {
			n.tool("vim", "-Nu", "NONE", "-i", "NONE", "-es", "-c", "set backupskip= "+options, "-c", "%s/one/two/", "-c", "wq", file)
		}
	}
	saves := map[string]func(file string){
		"vim_rename": vim("backupcopy=no"),
		"vim_write":  vim("backupcopy=yes"),
		"vim_auto":   vim("backupcopy=auto"),
		"vim_backup": vim("backupcopy=auto backup writebackup"),
		"emacs": func(file string) {
			n.tool("emacs", "-Q", "--batch", file, "--eval", `(progn (search-forward "one") (replace-match "two") (save-buffer))`)
		},
		"nano": func(file string) {
			// ^\ asks what to replace, by what, and which; ^O asks for the name, ^X ends.
			n.converse("stty rows 24 cols 80; nano -I "+file, [][2]string{
				{"Exit", "\034"},
				{"Search (to replace)", "one\r"},
				{"Replace with", "two\r"},
				{"this instance", "A"},
				{"Replaced 1 occurrence", "\017"},
				{"Name to Write", "\r"},
				{"Wrote", "\030"},
			})
		},
		"sed": func(file string) { n.tool("sed", "-i", "s/one/two/", file) },
		"vscode": func(file string) { // it truncates and writes, in two steps
			content := strings.Replace(n.read(file), "one", "two", 1)
			f, err := os.OpenFile(n.path(file), os.O_WRONLY|os.O_TRUNC, 0)
			n.check(err)
			_, err = f.WriteString(content)
			n.check(err)
			n.check(f.Close())
		},
		"jetbrains": func(file string) { // it writes beside, moves away, moves into place
			content := strings.Replace(n.read(file), "one", "two", 1)
			n.write(file+"___jb_tmp___", content)
			n.check(os.Rename(n.path(file), n.path(file+"___jb_old___")))
			n.check(os.Rename(n.path(file+"___jb_tmp___"), n.path(file)))
			n.remove(file + "___jb_old___")
		},
	}
	for _, name := range slices.Sorted(maps.Keys(saves)) {
		t.Run(name, func(t *testing.T) {
			n.yard.TB = t
			ref := "f01-" + strings.ReplaceAll(name, "_", "-")
			file, rule := n.labelledPack(ref)
			before := n.revision(ref)
			saves[name](file)
			n.until("what "+name+" saved is live", func() bool { return n.label(rule) == "two" })
			n.settles(ref, before+1)
			if errs := n.errorsOf(ref); errs != "" {
				t.Errorf("what %s leaves is taken for a mistake: %s", name, errs)
			}
		})
	}
	n.yard.TB = t
}

// converse runs a shell's command line in a terminal, and types each time the second when the first was printed.
func (n *node) converse(line string, steps [][2]string) {
	n.Helper()
	cmd := exec.Command("script", "-qec", line, "/dev/null")
	cmd.Dir = n.packs
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + n.dir, "LANG=C.UTF-8", "TERM=xterm"}
	keys, err := cmd.StdinPipe()
	n.check(err)
	var screen log
	cmd.Stdout, cmd.Stderr = &screen, &screen
	n.check(cmd.Start())
	seen := 0
	for _, step := range steps {
		n.until(fmt.Sprintf("%s prints %q", line, step[0]), func() bool {
			_, rest, found := strings.Cut(screen.String()[seen:], step[0])
			if found {
				seen = len(screen.String()) - len(rest)
			}
			return found
		})
		_, err := io.WriteString(keys, step[1])
		n.check(err)
	}
	if err := cmd.Wait(); err != nil {
		n.Fatalf("%s: %v\n%s", line, err, &screen)
	}
}

// F2: a file of which one half is written, and a second later the rest.
func TestF02HalfWrittenFile(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	file, rule := n.labelledPack("f02")
	before := n.revision("f02")
	content := strings.Replace(n.read(file), "label: one", `label: "two"`, 1)
	half, _, _ := strings.Cut(content, `wo"`)
	n.write(file, half)
	n.until("the half is refused", func() bool { return strings.Contains(n.errorsOf("f02"), file) })
	if have := n.label(rule); have != "one" {
		t.Errorf("half a file gave the label %q", have)
	}
	n.write(file, content)
	n.until("the whole is live", func() bool { return n.label(rule) == "two" })
	n.reload()
	// The half is on record as kept back; the rule itself changed once, and was never gone.
	if lines := n.changes("f02", before); !slices.Equal(lines, []string{"! rule f02.reply", "~ pack f02", "~ rule f02.reply"}) {
		t.Errorf("it changed %q", lines)
	}
}

// F3: truncated, and written a while later; the object never disappears.
func TestF03TruncatedThenWritten(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	file, rule := n.labelledPack("f03")
	before := n.revision("f03")
	content := strings.Replace(n.read(file), "one", "two", 1)
	// Longer than the quiet window, and much shorter than an empty file is waited for: two seconds.
	n.shell(`: > "$1"; sleep .5; printf %s "$2" > "$1"`, file, content)
	n.until("the rest is live", func() bool { return n.label(rule) == "two" })
	n.settles("f03", before+1)
	if lines := n.changes("f03", before); !slices.Equal(lines, []string{"~ rule f03.reply"}) {
		t.Errorf("it changed %q", lines)
	}
}

// F4: cut at the end of a line, which is valid YAML with a field missing; only the whole is applied.
func TestF04CutAtTheEndOfALine(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	// The quiet window is so long that no machine is so slow that the pause is longer.
	n := y.node(`reconcile.debounce = "4s"`, `reconcile.max_wait = "20s"`).start()
	before := n.revision("demo")
	n.shell(`printf 'name: reply\nlabel: cut\ntrigger: demo.called\naction: demo.greet\n' > "$1"; sleep .1; printf 'when: event.payload.n > 1\n' >> "$1"`,
		"demo/rules/reply.yaml")
	n.until("the whole is live", func() bool { return n.label("demo.reply") == "cut" })
	n.settles("demo", before+1)
	rule, err := n.client.Rule(t.Context(), "demo.reply")
	n.check(err)
	if rule.When == "" {
		t.Error("the cut file was applied")
	}
}

// F5 and F6: a syntax error costs one file, and says where; mended, nothing restarts.
func TestF05SyntaxErrorF06FixedBack(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	file, rule := n.labelledPack("f05")
	pid := n.sensorPID("f05.beat")
	good := n.read(file)
	n.write(file, strings.Replace(good, "label: one", "label: one\n\tx: 1", 1))
	n.write("f05/actions/greet.sh", "echo two\n")
	n.until("the error has its place", func() bool { return strings.Contains(n.errorsOf("f05"), "error f05/rules/reply.yaml:3:1: ") })
	n.until("it is counted", func() bool { return n.metric("attune_pack_errors", `pack="f05"`) == 1 })
	if have := n.label(rule); have != "one" {
		t.Errorf("the last good rule has label %q", have)
	}
	if out := n.must("run", "f05.greet"); out != "two\n" {
		t.Errorf("the neighbour was not applied: it prints %q", out)
	}
	n.write(file, good)
	n.until("the error is gone", func() bool { return n.errorsOf("f05") == "" })
	n.until("nothing is counted", func() bool { return n.metric("attune_pack_errors", `pack="f05"`) == 0 })
	if now := n.sensorPID("f05.beat"); now != pid {
		t.Errorf("the sensor was restarted: %d, then %d", pid, now)
	}
}

// F14: folders in folders, made faster than they can be watched; all are found without the regular scan.
func TestF14NestedFoldersAtOnce(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f14")
	const folders = 100
	n.shell(`for i in $(seq 100); do mkdir -p f14/lib/d$i/a/b && echo $i > f14/lib/d$i/a/b/file; done`)
	n.until("all are in the revision", func() bool {
		found := 0
		for _, path := range n.tree("f14") {
			if strings.HasSuffix(path, "/a/b/file") {
				found++
			}
		}
		return found == folders
	})
	if have := n.metric("attune_resync_found_changes_total"); have != 0 {
		t.Errorf("the regular scan had to find %v changes", have)
	}
	n.write("f14/lib/d77/a/b/file", "again\n")
	before := n.revision("f14")
	n.until("an edit in the deepest folder is seen", func() bool { return n.revision("f14") > before })
}

// F19: a pack's folder gets another name.
func TestF19PackRenamed(t *testing.T) {
	t.Parallel()
	// A node of its own: what somebody's reload finds first is not told by a watch.
	n := newYard(t).node(`reconcile.resync = "1h"`).start()
	n.newPack("f19-old")
	n.shell(`sed -i s/f19-old/f19-new/ f19-old/*.yaml f19-old/*/*.yaml && mv f19-old f19-new`)
	n.whole("f19-new")
	n.until("the old one is gone", func() bool { p := n.pack("f19-old"); return p == nil || !p.Present && !p.Enabled })
	old := n.revision("f19-old")
	n.write("f19-new/actions/greet.sh", "echo moved\n")
	n.until("an edit under the new name is seen", func() bool { return n.prints("f19-new.greet", "moved\n") })
	if out := n.must("pack", "history", "f19-new", "--limit", "1", "-o", "json"); !strings.Contains(out, `"cause": "edit"`) {
		t.Errorf("the edit was not told by its watch: %s", out)
	}
	n.reload()
	if have := n.revision("f19-old"); have != old {
		t.Errorf("the old name got revision %d", have)
	}
	// So is one in a folder deeper inside that got another name, whose watches go on telling the old one.
	n.edits("f19-new", `mkdir -p "$1/lib/a/deep" && echo one > "$1/lib/a/deep/x"`)
	n.edits("f19-new", `mv "$1/lib/a" "$1/lib/b"`)
	n.edits("f19-new", `echo two > "$1/lib/b/deep/x"`)
	// A folder that stands where the other one did is watched as itself.
	n.newPack("f19-old")
	n.write("f19-old/actions/greet.sh", "echo back\n")
	n.until("an edit under the old name is seen", func() bool { return n.prints("f19-old.greet", "back\n") })
}

// edits changes a pack by a script, and waits until its watch has told that.
func (n *node) edits(ref, script string) {
	n.Helper()
	before := n.revision(ref)
	n.shell(script, ref)
	n.until("seen: "+script, func() bool { return n.revision(ref) > before })
	if out := n.must("pack", "history", ref, "--limit", "1", "-o", "json"); !strings.Contains(out, `"cause": "edit"`) {
		n.Errorf("%s was not told by its watch: %s", script, out)
	}
}

// F20: a pack that is a link, led elsewhere; only what it leads to now counts.
func TestF20LinkSwapped(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.shell(`mkdir -p ../f20 && cp -r other ../f20/v1 && sed -i s/other/f20/ ../f20/v1/*.yaml ../f20/v1/*/*.yaml && cp -r ../f20/v1 ../f20/v2
		echo 'echo v1' > ../f20/v1/actions/greet.sh; echo 'echo v2' > ../f20/v2/actions/greet.sh; ln -s ../f20/v1 f20`)
	n.whole("f20")
	if out := n.must("run", "f20.greet"); out != "v1\n" {
		t.Errorf("first target: %q", out)
	}
	n.shell(`ln -s ../f20/v2 .f20-new && mv -T .f20-new f20`)
	n.until("the second target is in force", func() bool { return n.prints("f20.greet", "v2\n") })
	before := n.revision("f20")
	n.shell(`echo 'echo old' > ../f20/v1/actions/greet.sh; echo 'echo new' > ../f20/v2/actions/greet.sh`)
	n.until("an edit of the second target is in force", func() bool { return n.prints("f20.greet", "new\n") })
	n.settles("f20", before+1)
}

// F21: a ConfigMap as Kubernetes mounts it; all files change by the swap of one link.
func TestF21ConfigMap(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.shell(`mkdir -p f21/..1/actions && cd f21 && ln -s ..1 ..data && ln -s ..data/pack.yaml . && ln -s ..data/actions .
		printf 'name: greet\nlabel: one\nentry_point: greet.sh\n' > ..1/actions/greet.yaml; echo 'echo one' > ..1/actions/greet.sh
		printf 'ref: f21\nversion: 1.0.0\n' > ..1/pack.yaml`)
	n.until("the pack is in force", func() bool { p := n.pack("f21"); return p != nil && len(p.Actions) == 1 })
	n.reload()
	before := n.revision("f21")
	n.shell(`cd f21 && cp -r ..1 ..2 && sed -i s/one/two/ ..2/*/* && sed -i s/1.0.0/2.0.0/ ..2/pack.yaml && ln -s ..2 ..data_tmp && mv -T ..data_tmp ..data`)
	// The swap of the link alone tells of it; that the old files go, later, changes nothing.
	n.until("the new files are in force", func() bool { return n.pack("f21").Version == "2.0.0" })
	n.shell(`rm -r f21/..1`)
	n.settles("f21", before+1)
	if out := n.must("run", "f21.greet"); out != "two\n" {
		t.Errorf("it prints %q", out)
	}
	if errs := n.errorsOf("f21"); errs != "" {
		t.Errorf("errors: %s", errs)
	}
}

// F24: git checkout between two branches again and again, stash, rebase; each ends in exactly what the
// branch has, and the sensor, which all have alike, goes on.
func TestF24Git(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo)
	y.write("demo/rules/stay.yaml", "name: stay\ntrigger: demo.called\naction: demo.greet\nwhen: \"false\"\n")
	y.shell(`git init -qb main && git add . && git commit -qm one && git checkout -qb two && echo 'echo two' > demo/actions/greet.sh &&
		mkdir demo/data && echo x > demo/data/x && printf 'name: late\nentry_point: greet.sh\n' > demo/actions/late.yaml && git rm -q demo/rules/reply.yaml &&
		git add . && git commit -qm two && git checkout -q main`)
	n := y.node(`reconcile.resync = "1h"`).start()
	pid := n.sensorPID("demo.beat")
	expect := func(what string, components ...string) {
		t.Helper()
		n.until(what, func() bool {
			p := n.pack("demo")
			var have []string
			for _, c := range append(slices.Clone(p.Actions), p.Rules...) {
				if c.Enabled {
					have = append(have, c.Ref)
				}
			}
			return slices.Equal(have, components)
		})
	}
	rounds := 4
	if long {
		rounds = 50
	}
	for range rounds {
		n.shell("git checkout -q two")
		expect("branch two is in force", "demo.greet", "demo.late", "demo.stay")
		n.shell("git checkout -q main")
		expect("branch main is in force", "demo.greet", "demo.reply", "demo.stay")
	}
	// There and back before anybody looks comes to nothing.
	n.reload()
	before := n.revision("demo")
	for range 5 {
		n.shell("git checkout -q two && git checkout -q main")
	}
	n.reload()
	expect("branch main is in force after the storm", "demo.greet", "demo.reply", "demo.stay")
	n.reload()
	if out := n.must("run", "demo.greet"); out != "one\n" {
		t.Errorf("main prints %q", out)
	}
	if after := n.revision("demo"); after > before+10 {
		t.Errorf("five quick checkouts made %d revisions", after-before)
	}
	n.write("demo/actions/greet.sh", "echo stashed\n")
	n.until("the edit is in force", func() bool { return n.prints("demo.greet", "stashed\n") })
	n.shell("git stash -q")
	n.until("the stash has taken it away", func() bool { return n.prints("demo.greet", "one\n") })
	n.shell("git stash pop -q")
	n.until("the stash has given it back", func() bool { return n.prints("demo.greet", "stashed\n") })
	n.shell(`git commit -qam three && git rebase -q -X theirs two`)
	n.until("the rebased branch is in force", func() bool { return n.prints("demo.greet", "stashed\n") })
	expect("the rebased branch has the other's components", "demo.greet", "demo.late", "demo.stay")
	n.shell("git diff --exit-code && git status --porcelain | { ! grep . ; }")
	if now := n.sensorPID("demo.beat"); now != pid {
		t.Errorf("the sensor, which no branch changes, was restarted: %d, then %d", pid, now)
	}
}

// F25: rsync -a --delete, tar x and cp -p bring old times with them; every change is seen.
func TestF25OldTimes(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f25")
	n.shell(`mkdir -p ../f25 && cp -a f25 ../f25/`)
	prepare := func(word string) {
		n.shell(`echo "echo $1" > ../f25/f25/actions/greet.sh; touch -d 2001-01-01 ../f25/f25/actions/greet.sh`, word)
	}
	steps := map[string]string{
		"rsync": `rsync -a --delete ../f25/f25/ f25/`,
		"tar":   `tar -C ../f25 -cf ../f25/tar f25 && tar xf ../f25/tar`,
		"cp":    `cp -p ../f25/f25/actions/greet.sh f25/actions/greet.sh`,
		"mv":    `cp -p ../f25/f25/actions/greet.sh f25/.new && mv f25/.new f25/actions/greet.sh`,
	}
	for _, word := range slices.Sorted(maps.Keys(steps)) {
		prepare(word)
		n.shell(steps[word])
		n.until("what "+word+" brought is in force", func() bool { return n.prints("f25.greet", word+"\n") })
	}
	n.shell(`rm ../f25/f25/rules/reply.yaml && rsync -a --delete ../f25/f25/ f25/`)
	n.until("what rsync removed is disabled", func() bool {
		return n.label("f25.reply") == "" && len(n.pack("f25").Rules) == 1 && !n.pack("f25").Rules[0].Enabled
	})
}

// F26: an edit that leaves size and modification time as they were.
func TestF26SameSizeSameTime(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("f26")
	n.shell(`cp -p f26/actions/greet.sh ../f26-before && echo 'echo two' > f26/actions/greet.sh && touch -r ../f26-before f26/actions/greet.sh`)
	n.until("the edit is in force", func() bool { return n.prints("f26.greet", "two\n") })
	// And one that a start has to find.
	y := newYard(t, demo)
	down := y.node().start()
	down.stop()
	y.shell(`cp -p demo/actions/greet.sh ../before && echo 'echo two' > demo/actions/greet.sh && touch -r ../before demo/actions/greet.sh`)
	down.start()
	if out := down.must("run", "demo.greet"); out != "two\n" {
		t.Errorf("a start missed it: %q", out)
	}
}

// F30: files that are edited, added and removed while no daemon runs.
func TestF30EditedWhileDown(t *testing.T) {
	t.Parallel()
	y := newYard(t, demo, strings.ReplaceAll(demo, "demo", "going"))
	n := y.node().start()
	n.kill()
	y.write("demo/actions/greet.sh", "echo edited\n")
	y.unpack(strings.ReplaceAll(demo, "demo", "coming"))
	y.remove("going")
	n.start()
	if out := n.must("run", "demo.greet"); out != "edited\n" {
		t.Errorf("the edit: %q", out)
	}
	if p := n.pack("coming"); p == nil || !p.Enabled {
		t.Errorf("the new pack: %+v", p)
	}
	n.until("the removed pack is disabled", func() bool { p := n.pack("going"); return p != nil && !p.Present && !p.Enabled })
	if out, _, code := n.run("run", "going.greet"); code != 125 {
		t.Errorf("an action of the removed pack: exit %d %s", code, out)
	}
}

// A scan that finds a script changed by its mode alone acts on it.
func TestModeAloneIsAChange(t *testing.T) {
	t.Parallel()
	n := common.take(t)
	n.newPack("mode")
	n.write("mode/actions/own.yaml", "name: own\nrunner_type: native\nentry_point: own\n")
	n.write("mode/actions/own", "#!/bin/sh\necho own\n")
	n.until("it is refused without the x bit", func() bool { return strings.Contains(n.errorsOf("mode"), "mode/actions/own.yaml:") })
	n.tool("chmod", "+x", "mode/actions/own")
	n.until("the x bit mends it", func() bool { return n.errorsOf("mode") == "" && fmt.Sprint(n.revision("mode")) != "0" })
	if out := n.must("run", "mode.own"); out != "own\n" {
		t.Errorf("it prints %q", out)
	}
}
