package doctor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/postgres"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// daemonPatience is how long a daemon gets to answer, which may have to wait for its database.
	daemonPatience = 15 * time.Second
	// mostFolders bounds the counting of folders: no machine watches so many.
	mostFolders = 1_000_000
)

// Options are what Gather needs.
type Options struct {
	// Config is nil where it cannot be used, because of ConfigError.
	Config      *daemon.Config
	ConfigError error
	// Client talks to the daemon of the configuration; nil: nobody can say where that is.
	Client *api.Client
	// Version is this program's.
	Version string
	Getenv  func(string) string
	// Progress is told what is looked at now.
	Progress func(what string)
}

// Gather looks at the machine, the files, the daemon and the database. What cannot be looked at is part of
// what it gives; it ends early when ctx does.
func Gather(ctx context.Context, opts Options) *Snapshot {
	g := &gathering{Options: opts, s: &Snapshot{Now: time.Now(), Version: opts.Version, Config: opts.Config, User: userName(os.Geteuid())}}
	if opts.ConfigError != nil {
		g.s.ConfigProblem = opts.ConfigError.Error()
	}
	g.machine()
	g.Progress("asking the daemon")
	g.daemon(ctx)
	g.Progress("asking the interpreters")
	g.interpreters(ctx)
	if opts.Config != nil {
		g.files()
		g.Progress("examining the database")
		g.database(ctx)
		g.Progress("checking the packs")
		g.packs()
	}
	return g.s
}

// gathering is one run of Gather.
type gathering struct {
	Options
	s *Snapshot
	// probed has the interpreters where no daemon has asked for them; nil: nobody could, because of noProbe.
	probed  *child.Interpreters
	noProbe error
	// owner is whom the daemon's files may belong to, beside root.
	owner uint32
}

// machine looks at what does not depend on Attune.
func (g *gathering) machine() {
	g.s.MaxWatches = readNumber("/proc/sys/fs/inotify/max_user_watches")
	g.s.MaxInstances = readNumber("/proc/sys/fs/inotify/max_user_instances")
	if state, err := unix.Adjtimex(&unix.Timex{}); err == nil {
		const notSynchronized = 5 // TIME_ERROR
		synchronized := state != notSynchronized
		g.s.Synchronized = &synchronized
	}
	g.s.HasCgroup2 = child.HasCgroups()
}

// readNumber reads one of the kernel's files; 0: it cannot be read.
func readNumber(name string) int {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

func (g *gathering) daemon(ctx context.Context) {
	if g.Client == nil {
		g.s.DaemonProblem = "its socket is not known"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	status, err := g.Client.Status(ctx)
	if err != nil {
		g.s.DaemonProblem, g.s.IsDenied = strings.TrimSuffix(err.Error(), ": "+api.ErrNoDaemon.Error()), errors.Is(err, api.ErrDenied)
		if refused, ok := errors.AsType[*api.Error](err); ok {
			g.s.Refusal = cmp.Or(refused.Hint, "attune status")
		}
		return
	}
	g.s.Status, g.s.Private = status, status.Database.Private
	// One that is older cannot be asked.
	if examination, err := g.Client.Examine(ctx); err == nil {
		g.s.Examination = examination
		g.s.Database, g.s.DatabaseProblem = examination.Database, examination.DatabaseError
	} else {
		g.s.DatabaseProblem = status.Database.Error
	}
}

func (g *gathering) files() {
	c, s := g.Config, g.s
	g.owner = uint32(os.Geteuid())
	if info, err := os.Stat(c.StateDirectory()); err == nil {
		g.owner = info.Sys().(*syscall.Stat_t).Uid
	}
	if c.File() != "" {
		s.ConfigFile = g.file(c.File())
		s.HoldsPassword = holdsPassword(c.File())
	}
	s.State, s.Key, s.Secrets = g.file(c.StateDirectory()), g.file(c.KeyFile().Path), g.file(c.SecretsDirectory())
	if entries, err := os.ReadDir(c.SecretsDirectory()); err == nil && c.SecretsDirectory() != "" {
		for _, entry := range entries {
			if f := g.file(filepath.Join(c.SecretsDirectory(), entry.Name())); f.Mode.IsRegular() && !strings.HasPrefix(entry.Name(), ".") {
				s.SecretFiles = append(s.SecretFiles, f)
			}
		}
	}
	g.certificate()
	for _, folder := range c.Packs.Directories {
		s.PackFolders = append(s.PackFolders, g.file(folder))
		s.Folders += countFolders(folder, mostFolders-s.Folders)
	}
	findings := reconcile.LintConfig(existing(c.Packs.Directories), c.Packs.AutoLoad, c.Packs.Config, c.PackConfigPlace).Findings
	for _, f := range findings {
		s.PackConfig = append(s.PackConfig, f.Error())
	}
	g.disk(c.StateDirectory(), "the state", true)
	for _, folder := range c.Packs.Directories {
		g.disk(folder, "packs", false)
	}
}

// holdsPassword tells whether database.url stands in a file with a password.
func holdsPassword(name string) bool {
	text, err := os.ReadFile(name)
	if err != nil {
		return false
	}
	c, err := daemon.LoadConfig(name, text)
	return err == nil && daemon.HasPassword(c.Database.URL)
}

// file looks at a file or folder; an empty path gives the zero File.
func (g *gathering) file(name string) File {
	if name == "" {
		return File{}
	}
	f := File{Path: name}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.IsMissing = true
	case err != nil:
		f.Problem = cause(err).Error()
	default:
		uid := info.Sys().(*syscall.Stat_t).Uid
		f.Mode, f.Owner, f.IsForeign = info.Mode(), userName(int(uid)), uid != 0 && uid != g.owner && uid != uint32(os.Geteuid())
	}
	return f
}

// cause strips an error of the path that messages have already.
func cause(err error) error {
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		return wrapped.Err
	}
	return err
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", uid)
}

func (g *gathering) certificate() {
	c, s := g.Config.HTTP, g.s
	if c.TLSCert == "" {
		return
	}
	s.Certificate, s.CertificateKey = g.file(c.TLSCert), g.file(c.TLSKey)
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		s.CertificateProblem = fmt.Sprintf("cannot load the certificate of http.tls_cert and http.tls_key: %v", err)
		return
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		s.CertificateProblem = fmt.Sprintf("cannot read %s: %v", c.TLSCert, err)
		return
	}
	s.CertificateExpires = leaf.NotAfter
}

// countFolders counts the folders that are watched, most at most.
func countFolders(root string, most int) int {
	n := 0
	_ = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || !entry.IsDir():
			return nil // what cannot be read cannot be watched
		case name != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules" || entry.Name() == "__pycache__"):
			return fs.SkipDir
		case n >= most:
			return fs.SkipAll
		}
		n++
		return nil
	})
	return n
}

// disk looks at the file system that a folder is on, or will be.
func (g *gathering) disk(folder, what string, writes bool) {
	for folder != "" {
		var st unix.Statfs_t
		err := unix.Statfs(folder, &st)
		if errors.Is(err, unix.ENOENT) && folder != filepath.Dir(folder) {
			folder = filepath.Dir(folder) // it is made later
			continue
		}
		if err == nil {
			block := uint64(st.Bsize)
			g.s.Disks = append(g.s.Disks, Disk{
				Path: folder, What: what, NeedsWriting: writes, IsReadOnly: st.Flags&unix.ST_RDONLY != 0,
				Free: st.Bavail * block, Size: st.Blocks * block, FreeFiles: st.Ffree, Files: st.Files,
			})
		}
		return
	}
}

// packs has the files of packs checked where no daemon has done so. It comes after what the daemon says.
func (g *gathering) packs() {
	if g.s.Status != nil {
		return
	}
	c := g.Config
	chosen := map[string]string{} // of two packs with one ref the later folder's wins
	for _, folder := range c.Packs.Directories {
		entries, err := os.ReadDir(folder)
		if err != nil {
			continue // a finding of its own
		}
		for _, entry := range entries {
			name := filepath.Join(folder, entry.Name())
			if _, err := os.Stat(filepath.Join(name, "pack.yaml")); err == nil && matches(c.Packs.AutoLoad, entry.Name()) {
				chosen[entry.Name()] = name
			}
		}
	}
	if len(chosen) == 0 {
		return
	}
	var paths []string
	for ref, name := range chosen {
		paths = append(paths, name)
		g.s.Packs = append(g.s.Packs, Pack{Ref: ref})
	}
	slices.Sort(paths)
	slices.SortFunc(g.s.Packs, func(a, b Pack) int { return strings.Compare(a.Ref, b.Ref) })
	if g.noProbe != nil {
		g.s.PackProblem = g.noProbe.Error()
		return
	}
	report, err := reconcile.Lint(paths, reconcile.LintOptions{
		PackConfig: c.Packs.Config, ConfigPlace: c.PackConfigPlace, Version: g.Version, Trust: c.Trust(), Interpreters: daemon.Interpreters{Found: g.probed},
	})
	if err != nil {
		g.s.PackProblem = err.Error()
		return
	}
	for _, e := range report.Errors {
		ref, _, _ := strings.Cut(e.File, "/")
		if at := slices.IndexFunc(g.s.Packs, func(p Pack) bool { return p.Ref == ref }); at >= 0 {
			g.s.Packs[at].add(e)
		}
	}
}

func matches(patterns []string, ref string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, ref)
		return err == nil && ok
	})
}

func existing(folders []string) []string {
	return slices.DeleteFunc(slices.Clone(folders), func(folder string) bool {
		info, err := os.Stat(folder)
		return err != nil || !info.IsDir()
	})
}

// interpreters are the daemon's, where one runs, and else those that one would find that is started here.
func (g *gathering) interpreters(ctx context.Context) {
	search := child.ChildPath + ":" + g.Getenv("PATH")
	g.s.Scripts = child.Scripts(search)
	if g.s.Status != nil {
		for _, i := range g.s.Status.Interpreters {
			g.s.Interpreters = append(g.s.Interpreters, child.Interpreter{Name: i.Name, Path: i.Path, Version: i.Version})
		}
		return
	}
	if g.probed, g.noProbe = probe(ctx, g.Getenv("PATH")); g.noProbe == nil {
		g.s.Interpreters = g.probed.All()
	}
}

// probe asks this machine's interpreters.
func probe(ctx context.Context, search string) (*child.Interpreters, error) {
	runner, err := child.NewRunner(ctx, child.Options{Logger: slog.New(slog.DiscardHandler), NoKeeper: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = runner.Close() }() // it ran probes, and nothing is left of them
	return child.ProbeInterpreters(ctx, runner, search)
}

// database examines what the daemon did not: without one, the server of the configuration.
func (g *gathering) database(ctx context.Context) {
	s := g.s
	if s.Examination != nil || s.Status != nil {
		return
	}
	address := g.Config.Database.URL
	if address == "" {
		s.Private = true
		dir := filepath.Join(g.Config.StateDirectory(), "postgres")
		// Read by hand: who may not look into it sees nothing, and that is no fault.
		if text, err := os.ReadFile(filepath.Join(dir, "data", "PG_VERSION")); err == nil {
			s.Major, _ = strconv.Atoi(string(bytes.TrimSpace(text)))
		}
		connection, err := postgres.Connect(dir)
		if err != nil {
			s.IsAsleep, s.HasServer = true, postgres.HasServer(s.Major, g.Getenv("PATH"))
			return
		}
		address = connection.URL
	}
	var err error
	if s.Database, err = store.Examine(ctx, address); err != nil {
		s.DatabaseProblem = err.Error()
	}
}
