package cli

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/exec/postgres"
)

func (c *command) databaseCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "database", Short: "Look into the database, back it up and restore it"}
	cmd.AddCommand(c.databasePsql(), c.databaseBackup(), c.databaseRestore())
	return cmd
}

func (c *command) databasePsql() *cobra.Command {
	return &cobra.Command{
		Use:   "psql [ARGUMENT…]",
		Short: "Open the daemon's database in psql",
		Long: "Opens the database of the configuration in psql, also the private one, which runs while its daemon\n" +
			"does. The tables are in the schema attune, and every column has a comment. ARGUMENTs are psql's own,\n" +
			"after -- where they begin with a dash.",
		Example: "  attune database psql\n  attune database psql -- -c 'SELECT count(*) FROM attune.event'",
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := c.configured()
			if err != nil {
				return err
			}
			return c.becomeProgram(cfg, "psql", args...)
		},
	}
}

func (c *command) databaseBackup() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write the database's content into a file, while all goes on",
		Long: "Writes what the schema attune holds into a new file, by pg_dump in its custom format, for\n" +
			"`attune database restore`. The daemon goes on meanwhile; the file is as the database was at one moment. The key of secret\n" +
			"parameters (attune.key) is not in it: back it up apart.",
		Example: "  attune database backup /var/backups/attune.dump",
		Args:    needOne("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := c.configured()
			if err != nil {
				return err
			}
			// Made here, so that nobody else can read it and nothing is overwritten.
			file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return usagef("cannot back up: %v", err)
			}
			file.Close()
			if cfg.Database.URL == "" {
				c.note("backing up the private database in %s", cfg.StateDirectory())
			}
			err = c.becomeProgram(cfg, "pg_dump", "--format=custom", "--schema=attune", "--file="+args[0])
			os.Remove(args[0]) // whoever comes back has not become anything
			return err
		},
	}
}

// configured is the configuration, where it says which database is the daemon's.
func (c *command) configured() (*daemon.Config, error) {
	cfg, err := c.config()
	if err == nil {
		err = addressElsewhere(cfg, credentialStore)
	}
	return cfg, err
}

// becomeProgram turns this process into one of PostgreSQL's programs, with the configured database as its own.
// It returns only where it cannot.
func (c *command) becomeProgram(cfg *daemon.Config, name string, args ...string) (err error) {
	connection := &postgres.Connection{}
	if address := cfg.Database.URL; address != "" {
		without, password, err := splitPassword(address)
		if err != nil {
			return err
		}
		args = append([]string{"--dbname=" + without}, args...)
		if password != "" {
			connection.Env = []string{"PGPASSWORD=" + password}
		}
	} else if connection, err = postgres.Connect(filepath.Join(cfg.StateDirectory(), "postgres")); err != nil {
		return err
	}
	program, err := postgres.Program(name, connection.Major, c.sys.Getenv("PATH"))
	if err != nil {
		return err
	}
	// A stray PGHOST or PGDATABASE would lead to a stranger's database.
	environ := slices.DeleteFunc(slices.Clone(c.sys.Environ), func(pair string) bool {
		return strings.HasPrefix(pair, "PG") && !strings.HasPrefix(pair, "PGPASSFILE=")
	})
	err = syscall.Exec(program, append([]string{name}, args...), append(environ, connection.Env...))
	return fmt.Errorf("cannot start %s: %v", program, err)
}

// credentialStore is where systemd finds what the unit's LoadCredential= names.
const credentialStore = "/etc/credstore"

// addressElsewhere refuses to go to a private database that is not there, or to make one, where the service is given the
// address of another: a restore would go into one that no daemon ever opens.
func addressElsewhere(cfg *daemon.Config, store string) error {
	if cfg.Database.URL != "" {
		return nil
	}
	address := filepath.Join(store, daemon.CredentialDatabase)
	if _, err := os.Stat(filepath.Join(cfg.StateDirectory(), "postgres")); err == nil {
		return nil
	}
	if _, err := os.Stat(address); err != nil {
		return nil //nolint:nilerr // there is no such credential, or not for this user
	}
	return &usageError{
		text: fmt.Sprintf("cannot tell which database is meant: there is no private one, and the service gets its address from %s", address),
		hint: "Say `export CREDENTIALS_DIRECTORY=" + store + "` first, and commands take it from there as the service does.",
	}
}

// splitPassword takes the password out of a database's address, which others may see among the arguments.
func splitPassword(address string) (without, password string, err error) {
	if !strings.Contains(address, "://") {
		if strings.Contains(address, "password") {
			return "", "", usagef("cannot pass a password of a list of keywords on: write database.url as postgres://user:password@host/database")
		}
		return address, "", nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", "", usagef("cannot read database.url: it is no URL")
	}
	if u.User != nil {
		password, _ = u.User.Password()
		u.User = url.User(u.User.Username())
	}
	query := u.Query()
	if query.Has("password") {
		password = query.Get("password")
		query.Del("password")
		u.RawQuery = query.Encode()
	}
	return u.String(), password, nil
}
