package faults

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// yard is what the nodes of one test share: a database and a packs folder.
type yard struct {
	testing.TB
	dir   string // everything is in it; any user may pass through
	packs string
	// url is the database's. A node may be given another one, of a proxy for instance.
	url   string
	nodes []*node
}

// newYard makes a yard whose packs folder holds the files of a txtar archive.
func newYard(t testing.TB, archives ...string) *yard {
	t.Helper()
	y := emptyYard(t)
	y.url = storetest.NewURL(t)
	for _, archive := range archives {
		y.unpack(archive)
	}
	return y
}

// emptyYard has no database yet.
func emptyYard(t testing.TB) *yard {
	t.Helper()
	dir, err := os.MkdirTemp("", "attune-yard-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	y := &yard{TB: t, dir: dir, packs: filepath.Join(dir, "packs")}
	y.mkdir("")
	return y
}

func (y *yard) check(err error) {
	y.Helper()
	if err != nil {
		y.Fatal(err)
	}
}

// path gives the path of a name in the packs folder.
func (y *yard) path(name string) string { return filepath.Join(y.packs, filepath.FromSlash(name)) }

// unpack writes the files of a txtar archive into the packs folder.
func (y *yard) unpack(archive string) {
	y.Helper()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		y.write(f.Name, string(f.Data))
	}
}

// mkdir makes a folder and those above it. Modes are set, because the process that runs the database has
// a umask for its own children.
func (y *yard) mkdir(name string) {
	y.Helper()
	y.check(os.MkdirAll(y.path(name), 0o755))
	for dir := y.path(name); strings.HasPrefix(dir, y.packs); dir = filepath.Dir(dir) {
		y.check(os.Chmod(dir, 0o755))
	}
}

// write writes a file in place, as cat and some editors do; its folders are made.
func (y *yard) write(name, content string) {
	y.Helper()
	isNew := !exists(y.path(name))
	if isNew && !exists(filepath.Dir(y.path(name))) {
		y.mkdir(filepath.Dir(name))
	}
	y.check(os.WriteFile(y.path(name), []byte(content), 0o644))
	if isNew {
		y.check(os.Chmod(y.path(name), 0o644))
	}
}

// replace renames a new file into place, as most editors do.
func (y *yard) replace(name, content string) {
	y.Helper()
	temporary := y.path(filepath.Dir(name)) + "/.new-" + filepath.Base(name)
	y.check(os.WriteFile(temporary, []byte(content), 0o644))
	y.check(os.Chmod(temporary, 0o644))
	y.check(os.Rename(temporary, y.path(name)))
}

func (y *yard) read(name string) string {
	y.Helper()
	content, err := os.ReadFile(y.path(name))
	y.check(err)
	return string(content)
}

func (y *yard) remove(name string) {
	y.Helper()
	y.check(os.RemoveAll(y.path(name)))
}

// shell runs a bash script in the packs folder; the rest are its arguments.
func (y *yard) shell(script string, args ...string) string {
	y.Helper()
	return y.tool("bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
}

// tool runs a program in the packs folder, with nothing of this machine's settings.
func (y *yard) tool(program string, args ...string) string {
	y.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = y.packs
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + y.dir, "TMPDIR=" + os.TempDir(), "LANG=C.UTF-8", "TERM=xterm",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		y.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// query asks the database, and gives the rows as text: NULL is empty, and a row's columns are joined by
// a space.
func (y *yard) query(sql string, args ...any) []string {
	y.Helper()
	conn := storetest.Connect(y, y.url)
	defer conn.Close(y.Context()) // not at the end of the test: who waits asks often
	rows, err := conn.Query(y.Context(), sql, args...)
	y.check(err)
	defer rows.Close()
	var lines []string
	for rows.Next() {
		values, err := rows.Values()
		y.check(err)
		var words []string
		for _, v := range values {
			if v == nil {
				v = ""
			}
			words = append(words, fmt.Sprint(v))
		}
		lines = append(lines, strings.Join(words, " "))
	}
	y.check(rows.Err())
	return lines
}

// exec changes the database behind the daemons' back.
func (y *yard) exec(sql string) {
	y.Helper()
	storetest.Exec(y, y.url, sql)
}

// until waits for a condition. It fails at once if a node that was started has ended by itself.
func (y *yard) until(what string, condition func() bool) {
	y.Helper()
	if !y.comes(patience, condition) {
		y.Fatalf("waited in vain until %s\n%s", what, y.logs())
	}
}

// within waits like until, for what has to come in a certain time. It is for promises in seconds; what
// must be fast is measured by benchmarks.
func (y *yard) within(limit time.Duration, what string, condition func() bool) {
	y.Helper()
	began := time.Now()
	y.until(what, condition)
	if took := time.Since(began); took > limit {
		y.Errorf("it took %v until %s, at most %v was promised", took.Round(time.Millisecond), what, limit)
	}
}

// goesOn is until for what takes as long as there is much of it: patience begins anew with each step, which is
// told by another state.
func (y *yard) goesOn(what string, look func() (state string, done bool)) {
	y.Helper()
	last, state, done := "", "", false
	for !done {
		if !y.comes(patience, func() bool { state, done = look(); return done || state != last }) {
			y.Fatalf("waited in vain until %s, it stays at %s\n%s", what, last, y.logs())
		}
		last = state
	}
}

// empties waits until nothing is left in the queue.
func (y *yard) empties() {
	y.Helper()
	y.goesOn("the queue is empty", func() (string, bool) {
		left := y.query("SELECT count(*) FROM attune.queue")[0]
		return left, left == "0"
	})
}

// comes waits for a condition and says whether it came.
func (y *yard) comes(limit time.Duration, condition func() bool) bool {
	y.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); pause(20 * time.Millisecond) {
		if condition() {
			return true
		}
		for _, n := range y.nodes {
			if n.hasEnded() && !n.mayEnd {
				y.Fatalf("node %s has ended\n%s", n.name, y.logs())
			}
		}
	}
	return false
}

// pause lets real time pass between two looks at a process that cannot tell when it is done.
func pause(d time.Duration) { <-time.After(d) }

func (y *yard) logs() string {
	var text strings.Builder
	for _, n := range y.nodes {
		fmt.Fprintf(&text, "--- log of %s\n%s\n", n.name, n.log)
	}
	return text.String()
}

// node is one daemon, that may be started again after it ended.
type node struct {
	*yard
	name   string
	home   string // its working directory, with its configuration
	state  string
	config string
	// env and wrap may be changed before a start: wrap are the words before the program's.
	env  []string
	wrap []string
	// uid, where not 0, is the user that the daemon runs as. Only root may ask for that.
	uid    int
	client *api.Client

	cmd    *exec.Cmd
	log    *log
	done   chan struct{}
	mayEnd bool
	// address is where it serves TCP, once it was asked.
	address string
}

// node prepares a daemon. config are lines of attune.toml, each with its section: "reconcile.resync = \"1h\"".
func (y *yard) node(config ...string) *node {
	y.Helper()
	name := fmt.Sprintf("node%d", len(y.nodes)+1)
	home := filepath.Join(y.dir, name)
	n := &node{
		yard: y, name: name, home: home, state: filepath.Join(home, "state"), config: filepath.Join(home, "attune.toml"),
		log: new(log),
	}
	y.check(os.MkdirAll(home, 0o755))
	y.check(os.Chmod(home, 0o755))
	lines := slices.Concat([]string{
		fmt.Sprintf("packs.directory = %q", y.packs),
		fmt.Sprintf("state.directory = %q", n.state),
		`http.listen = "127.0.0.1:0"`,
		fmt.Sprintf("http.socket = %q", filepath.Join(home, "s")),
		`exec.stop_grace = "2s"`, `exec.drain = "5s"`,
		`log.format = "json"`,
	}, config)
	n.configure(lines...)
	n.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "NO_COLOR=1", "TMPDIR=" + os.TempDir(),
		"ATTUNE_DATABASE_URL=" + y.url, storetest.RaceVariable + "=" + storetest.RaceOptions,
	}
	client, err := api.NewSocketClient([]string{filepath.Join(home, "s")})
	y.check(err)
	n.client = client
	y.nodes = append(y.nodes, n)
	y.Cleanup(func() { n.end(); client.Close() })
	return n
}

// configure writes attune.toml; of two lines for one key the later one counts.
func (n *node) configure(lines ...string) {
	n.Helper()
	keys := map[string]string{}
	for _, line := range lines {
		key, value, ok := strings.Cut(line, " = ")
		if !ok {
			n.Fatalf("no line of a configuration: %q", line)
		}
		keys[key] = value
	}
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		fmt.Fprintf(&text, "%s = %s\n", key, keys[key])
	}
	n.check(os.WriteFile(n.config, []byte(text.String()), 0o644))
}

// start runs the daemon and waits until it is ready.
func (n *node) start() *node {
	n.Helper()
	n.launch()
	n.until("it is ready", n.ready)
	return n
}

func (n *node) ready() bool {
	s := n.status()
	return s != nil && s.Ready
}

// launch runs the daemon. The log goes on where it was.
func (n *node) launch() {
	n.Helper()
	words := slices.Concat(n.wrap, []string{binary, "daemon"})
	n.cmd = exec.Command(words[0], words[1:]...)
	writing, read := n.log.pipe(n)
	n.cmd.Dir, n.cmd.Env, n.cmd.Stdout, n.cmd.Stderr = n.home, n.env, writing, writing
	if n.uid != 0 {
		n.shell(`chown -R "$1" "$2"`, strconv.Itoa(n.uid), n.home)
		n.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(n.uid), Gid: uint32(n.uid)}}
	}
	n.address, n.mayEnd = "", false
	n.check(n.cmd.Start())
	n.check(writing.Close())
	cmd, done := n.cmd, make(chan struct{})
	n.done = done
	// The keeper writes to the pipe, too: it has ended its daemon's children when it is gone.
	go func() { _ = cmd.Wait(); <-read; close(done) }()
}

// hasEnded says that a node that was started is no longer there.
func (n *node) hasEnded() bool {
	if n.done == nil {
		return false
	}
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// stop ends the daemon in order and gives its exit code.
func (n *node) stop() int {
	n.Helper()
	n.mayEnd = true
	n.signal(syscall.SIGTERM)
	return n.ended()
}

// ended waits for the end of the daemon and gives its exit code, -1 after a signal.
func (n *node) ended() int {
	n.Helper()
	n.mayEnd = true
	select {
	case <-n.done:
		return n.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		n.Fatalf("%s does not end\n%s", n.name, n.logs())
		return -1
	}
}

// kill ends the daemon as a power failure would.
func (n *node) kill() {
	n.Helper()
	n.mayEnd = true
	n.signal(syscall.SIGKILL)
	<-n.done
}

func (n *node) signal(sig syscall.Signal) {
	n.Helper()
	n.check(n.cmd.Process.Signal(sig))
}

// end is for the end of a test: whatever became of the daemon, nothing of it stays.
func (n *node) end() {
	if n.done == nil || n.hasEnded() {
		return
	}
	n.mayEnd = true
	_ = n.cmd.Process.Signal(syscall.SIGCONT) // a test may have stopped it
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.done:
	case <-time.After(patience):
		_ = n.cmd.Process.Kill()
		<-n.done
		n.Errorf("%s did not stop\n%s", n.name, n.log)
	}
}

// pid is the daemon's process.
func (n *node) pid() int { return n.cmd.Process.Pid }

// run runs a command of attune's against this node.
func (n *node) run(args ...string) (stdout, stderr string, code int) {
	n.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = n.home, n.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil {
		n.Fatalf("cannot run attune %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed, and gives what it printed.
func (n *node) must(args ...string) string {
	n.Helper()
	out, errs, code := n.run(args...)
	if code != 0 {
		n.Fatalf("attune %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// status asks for the status; nil while nobody answers.
func (n *node) status() *api.Status {
	s, err := n.client.Status(n.Context())
	if err != nil {
		return nil
	}
	n.address = s.URL
	return s
}

// pack gives a pack as the node tells of it; nil: it does not know it.
func (n *node) pack(ref string) *api.PackDetail {
	p, err := n.client.Pack(n.Context(), ref)
	if err != nil {
		return nil
	}
	return p
}

// errorsOf gives the errors and warnings of a pack, as people read them.
func (n *node) errorsOf(ref string) string {
	p := n.pack(ref)
	if p == nil {
		return ""
	}
	var lines []string
	for _, e := range p.Errors {
		lines = append(lines, string(e.Severity)+" "+e.Error())
	}
	return strings.Join(lines, "\n")
}

// sensor gives a sensor's state; nil: the node does not know it.
func (n *node) sensor(ref string) *api.Sensor {
	s, err := n.client.Sensor(n.Context(), ref)
	if err != nil {
		return nil
	}
	return s
}

// sensorPID gives the process of a sensor, once it runs.
func (n *node) sensorPID(ref string) int {
	n.Helper()
	pid := 0
	n.until("sensor "+ref+" runs", func() bool {
		if s := n.sensor(ref); s != nil && s.PID != nil && s.State == "running" {
			pid = *s.PID
		}
		return pid != 0
	})
	return pid
}

// children gives the processes that this node's daemons have started and that still are, dead daemons'
// too.
func (n *node) children() []int {
	var pids []int
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		text, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(text, []byte("ATTUNE_RUN_ID=")) || !bytes.Contains(text, []byte("="+n.state+"/")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isAlive says that a process is there and no zombie.
func isAlive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// rss is the resident memory of a process, in bytes.
func (y *yard) rss(pid int) int64 {
	y.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	y.check(err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	y.check(err)
	return pages * int64(os.Getpagesize())
}

// cpu is the processor time that a process has used.
func (y *yard) cpu(pid int) time.Duration {
	y.Helper()
	return y.processorTime(pid, 2) // utime and stime
}

// processorTime is that of the daemon and of all children that have ended.
func (n *node) processorTime() time.Duration {
	n.Helper()
	return n.yard.processorTime(n.pid(), 4) // cutime and cstime, too
}

func (y *yard) processorTime(pid, times int) time.Duration {
	y.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	y.check(err)
	_, rest, _ := strings.Cut(string(text), ") ")
	const utime = 11
	var ticks int64
	for _, field := range strings.Fields(rest)[utime : utime+times] {
		one, err := strconv.ParseInt(field, 10, 64)
		y.check(err)
		ticks += one
	}
	const hertz = 100 // USER_HZ, the same on every Linux that Go knows
	return time.Duration(ticks) * time.Second / hertz
}

// metrics are the series of one answer of /metrics, by their text: name{label="value"}.
type metrics map[string]float64

var metricLine = regexp.MustCompile(`(?m)^([a-zA-Z_:][^ {]*(?:\{.*\})?) (\S+)$`)

// metrics asks for all of them.
func (n *node) metrics() metrics {
	n.Helper()
	if n.address == "" {
		n.until("it tells its address", func() bool { return n.status() != nil })
	}
	response, err := http.Get(n.address + "/metrics")
	n.check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	n.check(err)
	http.DefaultClient.CloseIdleConnections()
	m := metrics{}
	for _, found := range metricLine.FindAllStringSubmatch(string(body), -1) {
		value, err := strconv.ParseFloat(found[2], 64)
		n.check(err)
		m[found[1]] = value
	}
	return m
}

// sum adds the series of a name that have the given labels: sum("attune_packs", `state="loaded"`).
func (m metrics) sum(name string, labels ...string) float64 {
	total := 0.0
	for series, value := range m {
		family, rest, _ := strings.Cut(series, "{")
		has := func(label string) bool { return strings.Contains("{"+rest, label) }
		if family == name && !slices.ContainsFunc(labels, func(l string) bool { return !has(l) }) {
			total += value
		}
	}
	return total
}

// metric asks for one.
func (n *node) metric(name string, labels ...string) float64 {
	n.Helper()
	return n.metrics().sum(name, labels...)
}

// log collects what a daemon writes, while a test reads it. Who looks finds all that was written by then: what a
// daemon said before it answered is there when its answer is.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
	from syscall.RawConn // the pipe's end that is read; nil: there is none
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.from != nil {
		_ = l.from.Control(func(fd uintptr) { l.drain(fd) }) // it may be closed: then all of it was read
	}
	return l.text.String()
}

// pipe gives the end of a pipe to write to. The other is read until nobody has this one any more: ended is closed then.
func (l *log) pipe(t testing.TB) (writing *os.File, ended <-chan struct{}) {
	t.Helper()
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := reading.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.from = from
	l.mu.Unlock()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		defer reading.Close()
		_ = from.Read(func(fd uintptr) bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.drain(fd)
		})
	}()
	return writing, closed
}

// drain takes what is in a pipe, and says whether that was all there will ever be.
func (l *log) drain(fd uintptr) (ended bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := syscall.Read(int(fd), buffer)
		switch {
		case n > 0:
			l.text.Write(buffer[:n])
		case !errors.Is(err, syscall.EINTR):
			return !errors.Is(err, syscall.EAGAIN)
		}
	}
}

// lines gives the log's lines of a message, each as its JSON has it.
func (l *log) lines(message string) []map[string]any {
	var found []map[string]any
	for line := range strings.Lines(l.String()) {
		var one map[string]any
		if json.Unmarshal([]byte(line), &one) == nil && one["msg"] == message {
			found = append(found, one)
		}
	}
	return found
}

// count says how many lines of a message there are.
func (l *log) count(message string) int { return len(l.lines(message)) }

// exists says whether there is a file.
func exists(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// needRoot skips a test that has to mount, or to be another user.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can do this")
	}
}

// component is one in the list of a pack.
type component = api.ComponentState
