package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/attune-io/attune/daemon"
)

func TestSchemaVersionOfABackup(t *testing.T) {
	t.Parallel()
	rows := strings.Join([]string{
		"SET client_encoding = 'UTF8';",
		"COPY attune.schema_version (id, version_id, is_applied, tstamp) FROM stdin;",
		"1\t0\tt\t2026-01-01 00:00:00", "2\t24\tt\t2026-01-01 00:00:00", "3\t30\tf\t2026-01-01 00:00:00", `\.`, "",
	}, "\n")
	if got := schemaVersion(rows); got != 24 {
		t.Errorf("found %d", got)
	}
	if got := schemaVersion("COPY attune.other (version_id) FROM stdin;\n7\n"); got != 0 {
		t.Errorf("found %d in another table", got)
	}
}

func TestWhatIsNoBackupIsRefused(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "x")
	for text, ok := range map[string]bool{"PGDMP\x01": true, "PGDUMP": false, "PG": false, "": false} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := checkMagic(name); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := checkMagic(name + "y"); err == nil {
		t.Error("a file that is not there is taken")
	}
}

// Who says nothing of a database, on a machine whose service is given the address of one, means that one.
func TestAddressOfTheService(t *testing.T) {
	t.Parallel()
	credentials, state := t.TempDir(), t.TempDir()
	cfg := daemon.DefaultConfig()
	cfg.State.Directory = state
	if err := addressElsewhere(cfg, credentials); err != nil {
		t.Errorf("without a credential: %v", err)
	}
	if err := os.WriteFile(filepath.Join(credentials, "attune.database-url"), []byte("postgres://h/d"), 0o600); err != nil {
		t.Fatal(err)
	}
	var usage *usageError
	if err := addressElsewhere(cfg, credentials); !errors.As(err, &usage) || !strings.Contains(usage.hint, "export CREDENTIALS_DIRECTORY="+credentials) {
		t.Errorf("with a credential: %v", err)
	}
	if err := os.Mkdir(filepath.Join(state, "postgres"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := addressElsewhere(cfg, credentials); err != nil {
		t.Errorf("beside a private database: %v", err)
	}
}
