package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/store/storetest"
)

// guideStep is a command of the guide for operators, and how a test types it.
type guideStep struct {
	line string
	// with are what the guide's names stand for here, pair by pair.
	with []string
	// want has to be printed; it is waited for.
	want string
	// mayFail says that the command tells by its code what it finds on this machine.
	mayFail bool
	// follows says that the command goes on for ever: it is ended when what it should print has come.
	follows bool
	// do is done in the command's place, where that is the machine's and not Attune's.
	do func(*operator)
	// before is done before the command is typed.
	before func(*operator)
	// elsewhere says why it is not tried here, and where it is.
	elsewhere string
}

const (
	ofPackages = "contrib/package/test.sh does, in a container with packages and systemd"
	ofRoles    = "roles are the whole server's, that tests share: TestF106RuntimeRole and TestDaemonOfARestrictedRole do"
)

// operatorsGuide are the commands of contrib/README.md in their order, as an operator types them who reads it from its
// beginning to its end.
func operatorsGuide() []guideStep {
	start := (*operator).systemctlStart
	return []guideStep{
		{line: "make package", elsewhere: ofPackages},
		{line: "apt install ./dist/attune_*.deb", elsewhere: ofPackages},
		{line: "systemctl enable --now attune", do: start},
		{line: "attune run core.echo message=hello", want: "^hello\n$"},
		{line: "install -d -m 0700 /etc/credstore"},
		{
			line: "install -m 0600 /dev/stdin /etc/credstore/attune.database-url <<<'postgres:///attune?host=/var/run/postgresql'",
		},
		{line: "systemctl restart attune", do: (*operator).takeCredentials},
		{line: "export CREDENTIALS_DIRECTORY=/etc/credstore"},

		{line: "attune database backup /var/backups/attune-before.dump"},
		{line: "apt install ./dist/attune_*.deb", elsewhere: ofPackages},
		{line: "attune status", want: ", ready"},

		{line: "attune database backup /var/backups/attune-$(date +%F).dump"},
		{line: "install -m 0600 /var/lib/attune/attune.key /var/backups/", before: (*operator).makeKey},
		{line: "systemctl stop attune", do: func(o *operator) { o.stop() }},
		{
			line: "attune database restore /var/backups/attune-2026-01-31.dump --force",
			want: "^restored from .*: \\d+ objects, schema \\d+\n$",
		},
		{line: "systemctl start attune", do: start},

		{line: "attune pack rollback REF", before: (*operator).editTour, with: []string{"REF", "tour"}},
		{line: "attune pack rollback REF --unpin", with: []string{"REF", "tour"}},
		{line: "attune rule disable REF", with: []string{"REF", "tour.greet_often"}},
		{line: "attune execution cancel --rule REF --yes", with: []string{"REF", "tour.greet_often"}},
		{line: "attune pause"},
		{line: "attune resume"},
		{line: "attune pack history REF", with: []string{"REF", "tour"}, want: "rollback"},
		{line: "attune database restore FILE", elsewhere: "Backing up, above"},
		{line: "attune database restore FILE --force", elsewhere: "Backing up, above"},
		{line: "attune trigger rotate-token", with: []string{"rotate-token", "rotate-token tour.called"}},
		{line: "attune doctor", mayFail: true, want: "database"},
		{line: "attune token revoke NAME", before: func(o *operator) { o.must("attune token create leaked --scope read") }, with: []string{"NAME", "leaked"}},
		{line: "attune audit list", want: "revoke token"},
		{line: "attune trigger next REF", with: []string{"REF", "tour.greet_often"}},

		{
			line:    "curl -sN --unix-socket /run/attune/attune.sock 'http://attune/api/v1/executions/stream?status=failed'",
			follows: true, want: "event: ready",
		},

		{line: "createuser attune_owner; createuser attune; createdb -O attune_owner attune", elsewhere: ofRoles},
		{line: "ATTUNE_DATABASE_URL=postgres://attune_owner@/attune attune migrate --grant attune", elsewhere: ofRoles},

		{line: "attune doctor", mayFail: true, want: "database"},
		{line: "attune status", want: ", ready"},
		{line: "attune why 17", with: []string{"17", "1"}, want: "attempt 1 on"},

		{line: "attune token create ci --scope run --pack tour --expires 90d", want: "att_"},
		{line: "attune token list", want: "ci +run"},
		{line: "attune token revoke ci"},
		{line: "[http] …", before: (*operator).makeCertificate},
		{line: "export ATTUNE_URL=https://attune.example.com:9753 ATTUNE_TOKEN_FILE=~/.config/attune/token", before: (*operator).makeTokenFile},
		{line: "attune status", want: ", ready"},

		{line: "crontab -l | attune import cron - --pack mine", before: (*operator).hadCron},
		{line: "attune import cron /etc/cron.d/sync"},
		{line: "attune import systemd-timer backup.timer"},
		{line: "attune pack lint packs/mine && attune trigger next mine.backup -n 10", before: (*operator).awaitImport, want: "Europe/Berlin|UTC"},

		{line: "attune pack lint --strict --no-runtimes -o github packs/"},

		{line: "{ openssl rand -base64 32; cat attune.key; } >attune.key.new && chmod 600 attune.key.new && mv attune.key.new attune.key"},
		{line: "attune pack sign --new-key ~/attune-signing.key packs/tour"},
		{line: "[packs] …"},
		{line: "cp -R /usr/share/attune/packs/core /etc/attune/packs/"},
		{line: "attune pack sign --key ~/attune-signing.key /etc/attune/packs/core", want: "core"},
	}
}

// TestOperatorsGuide types the commands of the guide for operators, in one session. A command that the guide gains has to
// be said here, too.
func TestOperatorsGuide(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../contrib/README.md")
	if err != nil {
		t.Fatal(err)
	}
	have, files := commandsOf(string(text))
	var want []string
	steps := operatorsGuide()
	for _, s := range steps {
		want = append(want, s.line)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Fatalf("contrib/README.md has other commands than are tried (-tried +found):\n%s", diff)
	}
	o := newOperator(t, storetest.NewURL(t))
	for _, s := range steps {
		o.take(&s, files)
	}
}

// commandsOf gives the commands of a guide: the lines of its indented blocks, what its workflows run, and of the table of
// disasters what is to be typed. Blocks of TOML are files, named by their first line.
func commandsOf(guide string) (lines []string, files map[string]string) {
	comment, span := regexp.MustCompile(`(^|  +)# .*$`), regexp.MustCompile("`(attune [^`]+)`")
	files = map[string]string{}
	section, fence, file := "", "", ""
	for line := range strings.Lines(guide) {
		line = strings.TrimRight(line, "\n")
		code, isCode := strings.CutPrefix(line, "    ")
		switch {
		case strings.HasPrefix(line, "## "):
			section = line
		case strings.HasPrefix(line, "```"):
			if fence = strings.TrimPrefix(line, "```"); fence == "" {
				file = ""
			}
		case fence == "toml" || fence == "" && isCode && strings.HasPrefix(code, "[") || file != "" && isCode:
			if fence == "toml" {
				code = line
			}
			if file == "" {
				file = code + " …"
				lines = append(lines, file)
			}
			files[file] += code + "\n"
		case fence == "yaml":
			if command, ok := strings.CutPrefix(line, "- run: "); ok {
				lines = append(lines, command)
			}
		case fence == "" && isCode:
			if code = comment.ReplaceAllString(code, ""); code != "" {
				lines = append(lines, code)
			}
		case section == "## Disasters":
			for _, found := range span.FindAllStringSubmatch(line, -1) {
				lines = append(lines, found[1])
			}
		}
		if fence == "" && !isCode {
			file = ""
		}
	}
	return lines, files
}

// operator is at the keyboard of a machine with a daemon.
type operator struct {
	*instance
	url     string
	exports string
}

func newOperator(t *testing.T, url string) *operator {
	t.Helper()
	o := &operator{instance: newInstance(t, url, "core", "tour"), url: url}
	for _, folder := range []string{"bin", "etc/cron.d", "backups", ".config/attune", "etc/attune/tls", "etc/attune/packs"} {
		if err := os.MkdirAll(filepath.Join(o.dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The day of the backup is that of the guide's restore, whatever day it is by then.
	date := "#!/bin/sh\n[ \"$*\" = +%F ] && exec echo 2026-01-31\nPATH=${PATH#*:} exec date \"$@\"\n"
	if err := os.WriteFile(filepath.Join(o.dir, "bin/date"), []byte(date), 0o755); err != nil {
		t.Fatal(err)
	}
	for at, entry := range o.env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok {
			o.env[at] = "PATH=" + filepath.Join(o.dir, "bin") + ":" + path
		}
	}
	return o
}

// take types a command, and looks at what it prints.
func (o *operator) take(s *guideStep, files map[string]string) {
	o.t.Helper()
	if s.before != nil {
		s.before(o)
	}
	switch {
	case s.elsewhere != "":
		return
	case s.do != nil:
		s.do(o)
		return
	case files[s.line] != "":
		o.configure(files[s.line])
		return
	case strings.HasPrefix(s.line, "export "):
		o.exports += o.here(s.line) + "\n"
		return
	case s.follows:
		o.follow(o.here(s.line), s.want)
		return
	}
	command := o.exports + o.here(strings.NewReplacer(s.with...).Replace(s.line))
	want := regexp.MustCompile(s.want)
	out, err := o.bash(command)
	for deadline := time.Now().Add(patience); err == nil && !want.MatchString(out) && time.Now().Before(deadline); wait(30 * time.Millisecond) {
		out, err = o.bash(command)
	}
	if err != nil && !s.mayFail || !want.MatchString(out) {
		o.t.Errorf("%s: %v, expected %q\n%s", command, err, s.want, out)
	}
}

// here has a command do on this machine's folders what it does on those of a whole system.
func (o *operator) here(command string) string {
	pairs := []string{
		"/usr/share/attune/packs", o.dir + "/packs", "/var/backups", o.dir + "/backups", "/etc/", o.dir + "/etc/", "/var/lib/attune", o.dir + "/state", "/run/attune/attune.sock", o.dir + "/s",
		"postgres:///attune?host=/var/run/postgresql", o.url,
	}
	if strings.Contains(command, "https://") {
		pairs = append(pairs, "https://attune.example.com:9753", o.status().URL)
	}
	if strings.Contains(command, "cat attune.key") {
		command = "cd " + o.dir + "/state && " + command
	}
	return strings.NewReplacer(pairs...).Replace(command)
}

func (o *operator) command(text string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", text)
	cmd.Dir, cmd.Env = o.dir, o.env
	return cmd
}

func (o *operator) bash(text string) (string, error) {
	out, err := o.command(text).CombinedOutput()
	return string(out), err
}

// must types what the guide does not name.
func (o *operator) must(text string) {
	o.t.Helper()
	if out, err := o.bash(text); err != nil {
		o.t.Fatalf("%s: %v\n%s", text, err, out)
	}
}

// follow types a command that goes on for ever.
func (o *operator) follow(text, want string) {
	o.t.Helper()
	cmd := o.command(text)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	o.until(text+" prints "+want, func() bool { return strings.Contains(out.String(), want) })
}

// systemctlStart starts the daemon as the unit does: what is in the credential store is handed to it.
func (o *operator) systemctlStart() {
	ours := o.env
	o.env = append(slices.Clone(ours), "CREDENTIALS_DIRECTORY="+filepath.Join(o.dir, "etc/credstore"))
	o.start()
	o.env = ours
}

// takeCredentials starts the daemon anew, and from here on nothing but the credential says where the database is.
func (o *operator) takeCredentials() {
	o.stop()
	o.env = slices.DeleteFunc(o.env, func(entry string) bool { return strings.HasPrefix(entry, "ATTUNE_DATABASE_URL=") })
	o.systemctlStart()
}

// makeKey has the daemon need its key.
func (o *operator) makeKey() {
	o.must("attune trigger show tour.called --secrets && ls state/attune.key")
}

// editTour puts a second revision of the pack in force.
func (o *operator) editTour() {
	o.must("sed -i 's/Hello/Good day/' packs/tour/actions/greet.sh && attune pack reload tour")
}

// configure looks at settings of the guide as the daemon would.
func (o *operator) configure(text string) {
	o.t.Helper()
	file := filepath.Join(o.dir, "guide.toml")
	if err := os.WriteFile(file, []byte(o.here(text)), 0o600); err != nil {
		o.t.Fatal(err)
	}
	if out, err := o.bash("env -u ATTUNE_DATABASE_URL attune config check --config " + file); err != nil {
		o.t.Errorf("attune config check of\n%s%v\n%s", text, err, out)
	}
}

func (o *operator) makeCertificate() {
	o.must("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=attune.example.com -days 2 " +
		"-keyout etc/attune/tls/key.pem -out etc/attune/tls/cert.pem")
}

func (o *operator) makeTokenFile() {
	o.must("umask 077; attune token create ada --scope admin -o json | sed -n 's/.*\"token\": \"\\(.*\\)\".*/\\1/p' > .config/attune/token; grep -q att_ .config/attune/token")
}

// awaitImport lets the daemon see what was imported.
func (o *operator) awaitImport() {
	o.until("the imported rule is in force", func() bool {
		_, code := o.run("rule", "show", "mine.backup")
		return code == 0
	})
}

// hadCron has a crontab, a file of cron's and a timer on the machine.
func (o *operator) hadCron() {
	for name, text := range map[string]string{
		"bin/crontab":     "#!/bin/sh\necho '30 2 * * * /usr/bin/backup --all'\n",
		"etc/cron.d/sync": "0 3 * * * root /usr/bin/backup --all\n",
		"backup.timer":    "[Timer]\nOnCalendar=daily\n",
		"backup.service":  "[Service]\nExecStart=/usr/bin/backup --all\n",
	} {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), mode); err != nil {
			o.t.Fatal(err)
		}
	}
}
