package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/postgres"
	"github.com/attune-io/attune/reconcile/store"
)

func (c *command) databaseRestore() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Put a backup into the database, while no daemon runs on it",
		Long: "Puts a file of `attune database backup` into the database of the configuration; without database.url into\n" +
			"the private one, which is started for it, and made where there is none. The daemons of the database have\n" +
			"to be stopped. The file is checked before anything is touched, and what was there is dropped only when all\n" +
			"of the file is in its place; if something fails before, all is as it was. A database that has Attune's\n" +
			"tables already is replaced with --force only.\n\n" +
			"The key of secret parameters (attune.key) is not in a backup: put it back, too.",
		Example: "  attune database restore /var/backups/attune.dump --force",
		Args:    needOne("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := c.config()
			if err == nil {
				err = addressElsewhere(cfg, credentialStore)
			}
			if err != nil {
				return err
			}
			return c.restore(cmd.Context(), cfg, args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace what the database has of Attune's")
	return cmd
}

func (c *command) restore(ctx context.Context, cfg *daemon.Config, file string, force bool) (err error) {
	if file, err = checkMagic(file); err != nil {
		return err
	}
	r := &restorer{command: c, file: file, progress: c.newProgress()}
	defer r.progress.clear()
	end, err := r.open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if r.program, err = postgres.Program("pg_restore", r.major, c.sys.Getenv("PATH")); err != nil {
		return err
	}
	r.progress.tell("reading %s …", filepath.Base(file))
	if err := r.inspect(ctx); err != nil {
		return err
	}
	hold, err := store.Replace(ctx, r.address, force)
	if errors.Is(err, store.ErrOccupied) {
		return &usageError{text: "cannot restore: " + err.Error(), hint: "Say --force to replace it; `attune database backup` keeps it first."}
	}
	if err != nil {
		return err
	}
	if err := r.fill(ctx); err != nil {
		r.progress.tell("putting back what was there …")
		// Also where somebody has lost patience: what is half done is worth nothing to them.
		return errors.Join(err, hold.PutBack(context.WithoutCancel(ctx)))
	}
	if err := hold.Keep(ctx); err != nil {
		return err
	}
	r.progress.clear()
	fmt.Fprintf(c.sys.Stdout, "restored from %s: %s, schema %d\n", file, count(r.entries, "object"), r.version)
	return nil
}

// dumpMagic begins every file of pg_dump's custom format.
const dumpMagic = "PGDMP"

// checkMagic refuses what is no backup, before a server is started for it. It gives the absolute path.
func checkMagic(file string) (string, error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return "", usagef("cannot restore: %v", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", usagef("cannot restore: %v", err)
	}
	defer f.Close()
	head := make([]byte, len(dumpMagic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != dumpMagic {
		return "", usagef("cannot restore %s: it is no file of `attune database backup` (pg_dump's custom format begins with %s)", file, dumpMagic)
	}
	return path, nil
}

// restorer is one restore.
type restorer struct {
	*command
	file     string
	progress *progress

	runner  *child.Runner
	address string   // with its password
	env     []string // for pg_restore
	target  []string // its arguments
	major   int      // of the server; 0: not known
	program string

	entries int
	version int64
}

// open gets at the database: the configured one, or the private one, whose server it starts. Its state folder
// is locked meanwhile, so that no daemon does the same.
func (r *restorer) open(ctx context.Context, cfg *daemon.Config) (end func() error, err error) {
	quiet := slog.New(slog.DiscardHandler)
	if cfg.Database.URL != "" {
		without, password, err := splitPassword(cfg.Database.URL)
		if err != nil {
			return nil, err
		}
		r.address, r.target = cfg.Database.URL, []string{"--dbname=" + without}
		if password != "" {
			r.env = []string{"PGPASSWORD=" + password}
		}
		if r.runner, err = child.NewRunner(ctx, child.Options{Logger: quiet, NoKeeper: true}); err != nil {
			return nil, err
		}
		return r.runner.Close, nil
	}
	binary, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program's own file: %v", err)
	}
	state, err := daemon.MakeStateDirectory(cfg.StateDirectory())
	if err != nil {
		return nil, err
	}
	if r.runner, err = child.NewRunner(ctx, child.Options{Binary: binary, StateDir: state, Logger: quiet}); err != nil {
		return nil, fmt.Errorf("cannot restore: %w", err)
	}
	r.progress.tell("starting the private database …")
	dir := filepath.Join(state, "postgres")
	cluster, err := postgres.Start(ctx, postgres.Options{
		Dir: dir, Runner: r.runner, Logger: quiet, Progress: func(text string) { r.progress.tell("%s …", text) },
	})
	if err != nil {
		return nil, errors.Join(err, r.runner.Close())
	}
	end = func() error {
		return errors.Join(cluster.Stop(context.WithoutCancel(ctx)), r.runner.Close())
	}
	connection, err := postgres.Connect(dir)
	if err != nil {
		return nil, errors.Join(err, end())
	}
	r.address, r.env, r.major, r.target = connection.URL, connection.Env, connection.Major, []string{"--dbname=attune"}
	return end, nil
}

// inspect looks into the file: what it holds, and by which version of Attune it was made.
func (r *restorer) inspect(ctx context.Context) error {
	var list bytes.Buffer
	if err := r.run(ctx, &list, nil, "--list", r.file); err != nil {
		return fmt.Errorf("cannot read %s: %w", r.file, err)
	}
	isOurs := false
	for line := range strings.Lines(list.String()) {
		// 5; 2615 16390 SCHEMA - attune owner
		fields := strings.Fields(line)
		if strings.HasPrefix(line, ";") || len(fields) < 6 {
			continue
		}
		r.entries++
		isOurs = isOurs || fields[3] == "SCHEMA" && fields[5] == "attune"
	}
	if !isOurs {
		return usagef("cannot restore %s: it is a backup of something else, there is no schema attune in it", r.file)
	}
	var rows bytes.Buffer
	if err := r.run(ctx, &rows, nil, "--data-only", "--schema=attune", "--table=schema_version", "--file=-", r.file); err != nil {
		return fmt.Errorf("cannot read %s: %w", r.file, err)
	}
	r.version = schemaVersion(rows.String())
	newest, err := store.NewestVersion()
	switch {
	case err != nil:
		return err
	case r.version == 0:
		return usagef("cannot restore %s: it does not say which version of the schema it has", r.file)
	case r.version > newest:
		return fmt.Errorf("cannot restore %s: its schema has version %d, and this attune knows up to %d; take the attune that made it, or a newer one", r.file, r.version, newest)
	}
	return nil
}

// schemaVersion reads the highest applied version out of the rows of schema_version, as COPY writes them.
func schemaVersion(text string) int64 {
	var columns []string
	var newest int64
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "COPY attune.schema_version ("); ok {
			names, _, _ := strings.Cut(rest, ")")
			columns = strings.Split(names, ", ")
			continue
		}
		values := strings.Split(line, "\t")
		version, applied := slices.Index(columns, "version_id"), slices.Index(columns, "is_applied")
		if version < 0 || applied < 0 || len(values) != len(columns) || values[applied] != "t" {
			continue
		}
		if n, err := strconv.ParseInt(values[version], 10, 64); err == nil {
			newest = max(newest, n)
		}
	}
	return newest
}

// fill has pg_restore make everything, and looks whether it is what the file says.
func (r *restorer) fill(ctx context.Context) error {
	done := 0
	told := lineCounter(func() {
		// It says a line or two of each object; a few too many do no harm.
		done = min(done+1, r.entries)
		r.progress.tell("restoring: %d of %d objects", done, r.entries)
	})
	args := append(slices.Clone(r.target), "--no-owner", "--no-privileges", "--exit-on-error", "--verbose", r.file)
	if err := r.run(ctx, nil, told, args...); err != nil {
		return fmt.Errorf("cannot restore %s: %w", r.file, err)
	}
	found, err := store.Examine(ctx, r.address)
	if err != nil {
		return err
	}
	if found.SchemaVersion != r.version {
		return fmt.Errorf("cannot restore %s: its schema has version %d, and what came of it %d", r.file, r.version, found.SchemaVersion)
	}
	return nil
}

// run runs pg_restore. Its last words are the error's.
func (r *restorer) run(ctx context.Context, stdout io.Writer, stderr io.Writer, args ...string) error {
	const kept = 4 << 10 // bytes of what it complains of
	words := child.NewCapture(kept, nil)
	output := io.Writer(words)
	if stderr != nil {
		output = io.MultiWriter(words, stderr)
	}
	env := child.NewEnv("", os.TempDir()).List()
	p, err := r.runner.Start(ctx, child.Spec{
		Name: "pg_restore", Path: r.program, Args: args, Env: append(env, r.env...), Dir: "/", Stdout: stdout, Stderr: output,
	})
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		const grace = 0
		return errors.Join(ctx.Err(), p.Stop(grace))
	}
	if exit := p.Wait(); exit.Code != 0 {
		text, _, _ := words.Text()
		lines := strings.Split(strings.TrimSpace(text), "\n")
		const told = 3 // it says last what went wrong
		return fmt.Errorf("pg_restore: %v: %s", exit, strings.Join(lines[max(0, len(lines)-told):], "; "))
	}
	return nil
}

// lineCounter calls a function at the end of each line that is written.
type lineCounter func()

func (each lineCounter) Write(text []byte) (int, error) {
	for range bytes.Count(text, []byte("\n")) {
		each()
	}
	return len(text), nil
}
