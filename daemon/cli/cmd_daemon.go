package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/exec/filechange"
	"github.com/attune-io/attune/exec/timer"
	"github.com/attune-io/attune/reconcile/store"
)

func (c *command) daemonCommand() *cobra.Command {
	var packs []string
	var listen, socket, state, database, logLevel string
	var readOnly bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Watch the packs and run what they say, until stopped",
		Long: "Watches the packs folders, applies them to PostgreSQL, supervises sensors and runs actions, until\n" +
			"SIGTERM or Ctrl-C: running actions may then finish (exec.drain), and a second one hurries. SIGHUP\n" +
			"scans the packs at once, and reads the configuration again: [packs.config], [retention] and [log]\n" +
			"are in force then, what else has changed is named in the log and waits for a restart. Without\n" +
			"database.url it runs a PostgreSQL of its own.",
		Example: "  attune daemon\n  attune daemon --packs ./packs --state ./state",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var flags []daemon.Flag
			for _, f := range []struct{ name, key string }{
				{"packs", "packs.directory"},
				{"listen", "http.listen"},
				{"socket", "http.socket"},
				{"state", "state.directory"},
				{"database-url", "database.url"},
				{"log-level", "log.level"},
			} {
				if flag := cmd.Flags().Lookup(f.name); flag.Changed {
					value := flag.Value.String()
					if f.name == "packs" {
						value = strings.Join(packs, ",")
					}
					flags = append(flags, daemon.Flag{Key: f.key, Value: value, Name: "--" + f.name})
				}
			}
			if readOnly {
				flags = append(flags, daemon.Flag{Key: "reconcile.mode", Value: "plan", Name: "--read-only"})
			}
			return c.runDaemon(cmd.Context(), func() (*daemon.Config, error) {
				return daemon.FindConfig(c.configPath, c.sys.Environ, flags...)
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&packs, "packs", nil, "folders with packs (packs.directory)")
	f.StringVar(&listen, "listen", "", "address for the API, metrics, health and webhooks over TCP (http.listen)")
	f.StringVar(&socket, "socket", "", "path of the unix socket (http.socket)")
	f.StringVar(&state, "state", "", "folder for what outlives a restart (state.directory)")
	f.StringVar(&database, "database-url", "", "PostgreSQL to use (database.url)")
	f.BoolVar(&readOnly, "read-only", false, "apply nothing of the packs folders, only tell what would change (reconcile.mode = \"plan\")")
	f.StringVar(&logLevel, "log-level", "", "debug, info, warn or error (log.level)")
	return cmd
}

// runDaemon builds and runs the daemon. A signal that comes while it is still being built ends it at
// once; later ones are the daemon's own.
func (c *command) runDaemon(ctx context.Context, read func() (*daemon.Config, error)) error {
	cfg, err := read()
	if err != nil {
		return err
	}
	ctx, release := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer release()
	defer context.AfterFunc(ctx, release)()

	log, err := daemon.NewSwitchedLog(c.sys.Stderr, cfg.Log)
	if err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program's own file: %v", err)
	}
	inherited, err := daemon.Inherited()
	if err != nil {
		return err
	}
	opts := daemon.Options{Inherited: inherited, Config: cfg, Logger: log.Logger(), Reread: read, SetLog: log.Set, Version: c.sys.Version.Version, Binary: binary}
	if _, isTerminal := c.terminalWidth(); isTerminal {
		opts.OnReady = func(r daemon.Ready) { daemon.Banner(c.sys.Stdout, r) }
	}
	d, err := daemon.New(ctx, opts)
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

func (c *command) migrateCommand() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema of database.url up to this binary's version",
		Long: "Brings the schema of the database in database.url up to this binary's version. The daemon does so\n" +
			"itself when it starts; this is for those who let another role own the schema: --grant lets the role\n" +
			"that the daemon runs as read and write rows, and neither make, change nor drop anything.",
		Example: "  ATTUNE_DATABASE_URL=postgres://owner@db/attune attune migrate --grant attune",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if cfg.Database.URL == "" {
				c.note("database.url is empty: the daemon migrates its private PostgreSQL when it starts")
				return nil
			}
			s, err := store.Open(cmd.Context(), cfg.Database.URL, store.Options{Pooler: cfg.Database.Pooler})
			if err != nil {
				return err
			}
			defer s.Close()
			from, to, err := s.Migrate(cmd.Context())
			if err != nil {
				return err
			}
			if role != "" {
				if err := s.Grant(cmd.Context(), role); err != nil {
					return err
				}
			}
			result := struct {
				From    int64  `json:"from"`
				To      int64  `json:"to"`
				Granted string `json:"granted,omitempty"`
			}{from, to, role}
			return c.print(result, func(w io.Writer) {
				if from == to {
					fmt.Fprintf(w, "The schema is at version %d already.\n", to)
				} else {
					fmt.Fprintf(w, "The schema went from version %d to %d.\n", from, to)
				}
				if role != "" {
					fmt.Fprintf(w, "Role %s may do what a daemon does.\n", role)
				}
			})
		},
	}
	cmd.Flags().StringVar(&role, "grant", "", "the role that the daemon runs as, if that is not the owner")
	return cmd
}

// keeperCommand is what the daemon starts as the process that outlives it.
func (c *command) keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "keeper",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return codeError(child.RunKeeper())
		},
	}
}

// timerEngineCommand is what core's timer sensor is made of.
func (c *command) timerEngineCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "timer-engine",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, release := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer release()
			return codeError(timer.Main(ctx, c.sys.Stdin, c.sys.Stdout, c.sys.Stderr, c.sys.Getenv))
		},
	}
}

// filechangeEngineCommand is what core's sensor of files is made of.
func (c *command) filechangeEngineCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "filechange-engine",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, release := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer release()
			return codeError(filechange.Main(ctx, c.sys.Stdin, c.sys.Stdout, c.sys.Stderr, c.sys.Getenv))
		},
	}
}

// codeError is nil for 0.
func codeError(code int) error {
	if code == exitDone {
		return nil
	}
	return &exitError{code}
}
