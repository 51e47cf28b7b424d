package environment

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/attune-io/attune/exec/child"
)

const (
	defaultTimeout = 15 * time.Minute
	// retryFirst and retryLast bound the pause before a failed environment is made again, doubling.
	retryFirst = 10 * time.Second
	retryLast  = 10 * time.Minute
	// makers is how many are made at once: they are busy with the network, the disk and a compiler.
	makers = 2
	// maxRequirements bounds the files that say what is needed, in bytes.
	maxRequirements = 1 << 20
	// maxRead bounds what is remembered of revisions; a full memory begins anew.
	maxRead = 4096
	// unusedGrace is how long one stays that nobody needs: a rollback brings it back at once.
	unusedGrace = 24 * time.Hour

	// complete is the file that says that an environment is whole.
	complete = ".attune-complete"
	goodFile = "last-good.json"
)

// Runtimes that have environments.
const (
	Python = "python"
	Node   = "node"
)

// State is where an environment stands; the table is in the package's comment.
type State string

// The states.
const (
	Checking State = "checking"
	System   State = "system"
	Making   State = "making"
	Ready    State = "ready"
	Failed   State = "failed"
)

// Options are what a Manager needs.
type Options struct {
	// Dir holds the environments.
	Dir    string
	Runner *child.Runner
	// PythonIndex is the address of the index that pip asks, PythonWheels a folder of wheels that it takes
	// instead, NodeRegistry the address that npm asks. Empty: what pip and npm ask by themselves.
	PythonIndex, PythonWheels, NodeRegistry string
	// Variables are handed on to pip and npm: proxies and certificates.
	Variables map[string]string
	// Timeout bounds the making of one. Defaults to 15 minutes.
	Timeout time.Duration
	// Settled, where set, is told a pack whose environment has become ready, or has failed.
	Settled    func(pack string)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Need is what a component runs with.
type Need struct {
	Pack        string
	Runtime     string // manifest's word; others than Python and Node need nothing
	Dir         string // the revision's folder
	Interpreter child.Interpreter
}

// Environment is what to start a script with.
type Environment struct {
	Digest string // empty: the interpreter alone
	Path   string // of the interpreter
	// NodePath is a folder of modules; empty: none.
	NodePath string
}

// WaitError says that an environment is not there yet, and why.
type WaitError struct{ Reason string }

func (e *WaitError) Error() string { return e.Reason }

// Status is one environment of a pack, as people see it.
type Status struct {
	Pack    string    `json:"-"`
	Runtime string    `json:"runtime"`
	State   State     `json:"state"`
	Digest  string    `json:"digest"`
	Since   time.Time `json:"since"`
	// Path is where it stands; empty: there is none of its own.
	Path string `json:"path"`
	// Progress is the last line that its making printed; Error why it failed, Log what was printed last.
	Progress string     `json:"progress"`
	Error    string     `json:"error"`
	Log      string     `json:"log"`
	LogFile  string     `json:"log_file"`
	RetryAt  *time.Time `json:"retry_at"`
	// InUse is the digest of the last good one, which is used while this one has failed; empty: none.
	InUse string `json:"in_use"`
}

// Manager makes and keeps environments. It is safe for concurrent use.
type Manager struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	slots   chan struct{}
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	working sync.WaitGroup

	mu     sync.Mutex
	closed bool
	all    map[string]*one // by digest
	// wanted are the digests that packs need now, by pack and runtime; good the last that worked.
	wanted map[owner]string
	good   map[owner]string
	// read remembers what the folders of revisions ask for; they never change.
	read map[string]*requirements
}

type owner struct{ pack, runtime string }

// one is one environment, wanted or there.
type one struct {
	digest   string
	dir      string
	need     Need
	what     *requirements
	state    State
	since    time.Time
	err      error
	tail     *tail
	logText  string
	retryAt  time.Time
	backoff  time.Duration
	lastUsed time.Time
	packs    map[string]bool
}

// New makes a Manager, and takes up what former runs made.
func New(opts Options) (*Manager, error) {
	if opts.Dir == "" || opts.Runner == nil || opts.Logger == nil {
		return nil, errors.New("cannot keep environments: Dir, Runner or Logger is missing")
	}
	opts.Timeout = cmp.Or(opts.Timeout, defaultTimeout)
	if opts.Settled == nil {
		opts.Settled = func(string) {}
	}
	m := &Manager{
		opts: opts, log: opts.Logger.With("component", "environments"), slots: make(chan struct{}, makers),
		all: map[string]*one{}, wanted: map[owner]string{}, good: map[owner]string{}, read: map[string]*requirements{},
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	// Children of other users read what is in it.
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot keep environments: %v", err)
	}
	if err := os.Chmod(opts.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot keep environments: %v", err)
	}
	m.loadGood()
	m.metrics = newMetrics(opts.Registerer, m.count)
	return m, nil
}

// Close ends what is being made. Nothing is made afterwards.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.stop()
	m.working.Wait()
}

// For gives what a component runs with. A *WaitError says that it is not there yet; the first call
// begins to make it.
func (m *Manager) For(need Need) (*Environment, error) {
	plain := &Environment{Path: need.Interpreter.Path}
	if need.Runtime != Python && need.Runtime != Node {
		return plain, nil
	}
	what, err := m.requirements(need)
	if err != nil {
		return nil, err
	}
	if what == nil {
		return plain, nil
	}
	digest := m.digest(need, what)
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.all[digest]
	if o == nil {
		o = m.begin(digest, need, what)
	}
	o.packs[need.Pack] = true
	o.lastUsed = time.Now()
	who := owner{need.Pack, need.Runtime}
	m.wanted[who] = digest
	name := fmt.Sprintf("the %s environment of pack %s", need.Runtime, need.Pack)
	switch o.state {
	case System:
		return plain, nil
	case Ready:
		if m.good[who] != digest {
			m.good[who] = digest
			m.saveGood()
		}
		return o.environment(), nil
	case Checking, Making:
		return nil, &WaitError{fmt.Sprintf("waits for %s, which is being made since %s", name, o.since.Format(time.TimeOnly))}
	case Failed:
		if !time.Now().Before(o.retryAt) && !m.closed {
			m.work(o)
		}
		if last := m.lastGood(who); last != nil {
			return last, nil
		}
		return nil, &WaitError{fmt.Sprintf("waits for %s, which could not be made: %v; it is tried again at %s", name, o.err, o.retryAt.Format(time.TimeOnly))}
	default:
		panic("environment: unknown state " + string(o.state))
	}
}

// lastGood gives what a pack had before. It needs m.mu.
func (m *Manager) lastGood(who owner) *Environment {
	digest := m.good[who]
	if digest == "" {
		return nil
	}
	if o := m.all[digest]; o != nil && o.state == Ready {
		o.lastUsed = time.Now()
		return o.environment()
	}
	dir := filepath.Join(m.opts.Dir, digest)
	if !isComplete(dir) {
		return nil
	}
	var kept Environment
	if data, err := os.ReadFile(filepath.Join(dir, complete)); err != nil || json.Unmarshal(data, &kept) != nil {
		return nil
	}
	return &kept
}

func (o *one) environment() *Environment {
	e := &Environment{Digest: o.digest, Path: o.need.Interpreter.Path}
	if o.need.Runtime == Python {
		e.Path = filepath.Join(o.dir, "bin", "python3")
	} else {
		e.NodePath = filepath.Join(o.dir, "node_modules")
	}
	return e
}

// begin takes a new environment in. It needs m.mu.
func (m *Manager) begin(digest string, need Need, what *requirements) *one {
	o := &one{
		digest: digest, dir: filepath.Join(m.opts.Dir, digest), need: need, what: what, since: time.Now(), packs: map[string]bool{},
		state: Failed, err: errors.New("the daemon is stopping"),
	}
	m.all[digest] = o
	switch {
	case isComplete(o.dir):
		o.state, o.err = Ready, nil
	case !m.closed:
		m.work(o)
	}
	return o
}

// work makes an environment in the background. It needs m.mu.
func (m *Manager) work(o *one) {
	o.state, o.since, o.err = Checking, time.Now(), nil
	o.tail = newTail()
	m.working.Go(func() {
		select {
		case m.slots <- struct{}{}:
			defer func() { <-m.slots }()
		case <-m.ctx.Done():
		}
		m.finish(o, m.make(o))
	})
}

// errSystem says that the interpreter has all that is needed.
var errSystem = errors.New("nothing to make")

// finish records how the making went.
func (m *Manager) finish(o *one, err error) {
	m.mu.Lock()
	o.since = time.Now()
	o.logText = o.tail.text()
	log := m.log.With("digest", o.digest, "runtime", o.need.Runtime, "pack", o.need.Pack)
	switch {
	case err == nil:
		o.state, o.backoff = Ready, 0
		m.metrics.made(o.need.Runtime, "ready")
		log.Info("environment is ready", "path", o.dir)
	case errors.Is(err, errSystem):
		o.state, o.backoff = System, 0
		log.Debug("interpreter has all that is required")
	default:
		o.state, o.err = Failed, err
		o.backoff = min(max(retryFirst, 2*o.backoff), retryLast)
		o.retryAt = time.Now().Add(o.backoff)
		if m.ctx.Err() == nil {
			m.metrics.made(o.need.Runtime, "failed")
			log.Warn("environment cannot be made, it is tried again", "err", err, "retry_after", o.backoff)
		}
	}
	packs := slices.Sorted(maps.Keys(o.packs))
	m.mu.Unlock()
	for _, pack := range packs {
		m.opts.Settled(pack)
	}
}

// Keep says which environments are needed; of the others it removes those that nobody has used for a
// while. What is needed and not there is begun, and what failed is tried again when its time has come.
func (m *Manager) Keep(needs []Need) {
	m.mu.Lock()
	m.wanted = map[owner]string{}
	m.mu.Unlock()
	for _, need := range needs {
		if _, err := m.For(need); err != nil {
			if wait := (*WaitError)(nil); !errors.As(err, &wait) {
				m.log.Warn("cannot tell what a pack requires", "pack", need.Pack, "err", err)
			}
		}
	}
	m.prune(time.Now())
}

func (m *Manager) prune(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keep := map[string]bool{}
	for _, digests := range []map[owner]string{m.wanted, m.good} {
		for _, digest := range digests {
			keep[digest] = true
		}
	}
	for digest, o := range m.all {
		// What was never made has nothing on disk to be found by.
		if (o.state == System || o.state == Failed) && !keep[digest] && now.Sub(o.lastUsed) >= unusedGrace {
			delete(m.all, digest)
		}
	}
	entries, err := os.ReadDir(m.opts.Dir)
	if err != nil {
		m.log.Warn("cannot list the environments", "err", err)
		return
	}
	for _, entry := range entries {
		digest := entry.Name()
		if !entry.IsDir() || !isDigest(digest) || keep[digest] {
			continue
		}
		used := time.Time{}
		if info, err := entry.Info(); err == nil {
			used = info.ModTime()
		}
		if o := m.all[digest]; o != nil {
			if o.state == Checking || o.state == Making {
				continue
			}
			if o.lastUsed.After(used) {
				used = o.lastUsed
			}
		}
		if now.Sub(used) < unusedGrace {
			continue
		}
		delete(m.all, digest)
		// The mark goes first: what is half removed is not whole.
		_ = os.Remove(filepath.Join(m.opts.Dir, digest, complete))
		if err := os.RemoveAll(filepath.Join(m.opts.Dir, digest)); err != nil {
			m.log.Warn("cannot remove an unused environment", "err", err)
			continue
		}
		_ = os.Remove(m.logFile(digest))
		m.log.Info("unused environment removed", "digest", digest)
	}
}

// Of tells the environments that a pack needs now.
func (m *Manager) Of(pack string) []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []Status{}
	for _, runtime := range []string{Python, Node} {
		who := owner{pack, runtime}
		o := m.all[m.wanted[who]]
		if o == nil {
			continue
		}
		s := Status{Pack: pack, Runtime: runtime, State: o.state, Digest: o.digest, Since: o.since}
		if o.state == Ready {
			s.Path = o.dir
		}
		if o.tail != nil {
			s.Progress, s.LogFile = o.tail.last(), m.logFile(o.digest)
		}
		if o.state == Failed {
			s.Error, s.Log, s.RetryAt, s.InUse = o.err.Error(), o.logText, &o.retryAt, m.good[who]
		}
		list = append(list, s)
	}
	return list
}

func (m *Manager) count() map[State]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := map[State]int{}
	for _, o := range m.all {
		counts[o.state]++
	}
	return counts
}

func (m *Manager) logFile(digest string) string { return filepath.Join(m.opts.Dir, digest+".log") }

// digest names an environment by all that decides what is in it.
func (m *Manager) digest(need Need, what *requirements) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %q %q ", need.Runtime, need.Interpreter.Path, need.Interpreter.Version, m.opts.PythonIndex, m.opts.PythonWheels, m.opts.NodeRegistry)
	h.Write([]byte(what.digest))
	return hex.EncodeToString(h.Sum(nil))
}

// requirements are what a revision says that it needs.
type requirements struct {
	digest string
	local  bool // it names files of the pack itself
}

// requirements reads what a revision needs; nil: nothing.
func (m *Manager) requirements(need Need) (*requirements, error) {
	key := need.Runtime + " " + need.Dir
	m.mu.Lock()
	what, known := m.read[key]
	m.mu.Unlock()
	if known {
		return what, nil
	}
	what, err := readRequirements(need)
	if err != nil {
		return nil, fmt.Errorf("cannot tell what pack %s requires: %w", need.Pack, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.read) >= maxRead {
		m.read = map[string]*requirements{}
	}
	m.read[key] = what
	return what, nil
}

func readRequirements(need Need) (*requirements, error) {
	files := []string{"requirements.txt"}
	if need.Runtime == Node {
		files = []string{"package.json", "package-lock.json", "npm-shrinkwrap.json", ".npmrc"}
	}
	var whole strings.Builder
	for i, name := range files {
		path := filepath.Join(need.Dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 {
				return nil, nil
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.Size() > maxRequirements && i == 0 {
			return nil, fmt.Errorf("%s has %d bytes, expected at most %d", name, info.Size(), maxRequirements)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			empty, err := asksForNothing(need.Runtime, data)
			if err != nil {
				return nil, fmt.Errorf("%s: %v", name, err)
			}
			if empty {
				return nil, nil
			}
		}
		fmt.Fprintf(&whole, "%s %d\n%s", name, len(data), data)
	}
	text := whole.String()
	what := &requirements{}
	if need.Runtime == Node {
		what.local = strings.Contains(text, `"file:`)
	} else {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			what.local = what.local || strings.HasPrefix(line, ".") || strings.HasPrefix(line, "-") || strings.Contains(line, "file:")
		}
	}
	if what.local {
		// What they name may be any file of the pack, so each revision is another.
		text += need.Dir
	}
	sum := sha256.Sum256([]byte(text))
	what.digest = hex.EncodeToString(sum[:])
	return what, nil
}

func asksForNothing(runtime string, data []byte) (bool, error) {
	if runtime == Python {
		return onlyComments(data), nil
	}
	var p struct {
		Dependencies map[string]any `json:"dependencies"`
		Optional     map[string]any `json:"optionalDependencies"`
		Peers        map[string]any `json:"peerDependencies"`
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return false, err
	}
	return len(p.Dependencies)+len(p.Optional)+len(p.Peers) == 0, nil
}

func onlyComments(data []byte) bool {
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func isComplete(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, complete))
	return err == nil
}

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

func isDigest(name string) bool { return digestPattern.MatchString(name) }

// loadGood reads which environments packs had when they last had one.
func (m *Manager) loadGood() {
	data, err := os.ReadFile(filepath.Join(m.opts.Dir, goodFile))
	if err != nil {
		return // there were none
	}
	var good map[string]string
	if err := json.Unmarshal(data, &good); err != nil {
		m.log.Warn("cannot read which environments were good", "err", err)
		return
	}
	for key, digest := range good {
		if runtime, pack, ok := strings.Cut(key, " "); ok {
			m.good[owner{pack, runtime}] = digest
		}
	}
}

// saveGood needs m.mu.
func (m *Manager) saveGood() {
	good := map[string]string{}
	for who, digest := range m.good {
		good[who.runtime+" "+who.pack] = digest
	}
	data, err := json.MarshalIndent(good, "", "  ")
	if err == nil {
		name := filepath.Join(m.opts.Dir, goodFile)
		if err = os.WriteFile(name+".new", data, 0o600); err == nil {
			err = os.Rename(name+".new", name)
		}
	}
	if err != nil {
		m.log.Warn("cannot record which environments are good", "err", err)
	}
}
