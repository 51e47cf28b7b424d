package doctor

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// healthy is a snapshot that no check complains of.
func healthy() *Snapshot {
	yes := true
	wal := int64(64 << 20)
	config := daemon.DefaultConfig()
	config.HTTP.TLSCert = "/etc/attune/cert.pem"
	status := &api.Status{
		Version: "1.0.0", Ready: true, PID: 17,
		Packs:   []api.Pack{{Ref: "core"}},
		Sensors: []api.Sensor{{Component: api.Component{Ref: "core.timer"}, State: "running"}, {Component: api.Component{Ref: "core.tail"}, State: "idle"}},
	}
	return &Snapshot{
		Now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), User: "ada", Version: "1.0.0",
		Config: config, ConfigFile: File{Path: "/etc/attune/attune.toml", Mode: 0o644, Owner: "root"},
		Status: status, Examination: &api.Examination{Trees: child.Trees{Cgroup: "/sys/fs/cgroup/attune", Controllers: []string{"cpu", "memory", "pids"}}},
		State:   File{Path: "/var/lib/attune", Mode: fs.ModeDir | 0o700, Owner: "attune"},
		Key:     File{Path: "/var/lib/attune/attune.key", Mode: 0o600},
		Secrets: File{Path: "/run/secrets", Mode: fs.ModeDir | 0o755}, SecretFiles: []File{{Path: "/run/secrets/token", Mode: 0o600}},
		Certificate: File{Path: "/etc/attune/cert.pem", Mode: 0o644}, CertificateKey: File{Path: "/etc/attune/key.pem", Mode: 0o600},
		CertificateExpires: time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC),
		PackFolders:        []File{{Path: "/etc/attune/packs", Mode: fs.ModeDir | 0o755, Owner: "root"}}, Folders: 12,
		Interpreters: []child.Interpreter{
			{Name: "shell", Path: "/bin/bash", Version: "5.2.15"},
			{Name: "python", Path: "/usr/bin/python3", Version: "3.11.2"},
			{Name: "node", Path: "/usr/bin/node", Version: "18.19.0"},
		},
		Database: &store.ServerExamination{
			VersionNumber: 150018, Version: "15.18", Encoding: "UTF8", SynchronousCommit: "on", Fsync: true, FullPageWrites: true, Autovacuum: true,
			Connections: 97, Connected: 13, OwnConnected: 13, Role: "attune", MayCreate: true, HasSchema: true, OwnsSchema: true,
			SchemaVersion: 24, NewestVersion: 24, DaysAhead: 7, WALBytes: &wal, RoundTripSeconds: 0.001,
		},
		Synchronized: &yes, MaxWatches: 65536, MaxInstances: 128, HasCgroup2: true,
		Disks: []Disk{{Path: "/var/lib/attune", What: "the state", Free: 50 << 30, Size: 100 << 30, Files: 1 << 20, FreeFiles: 1 << 19, NeedsWriting: true}},
	}
}

func TestNothingIsWrong(t *testing.T) {
	t.Parallel()
	report := Examine(healthy())
	if report.Errors+report.Warnings > 0 {
		t.Errorf("%+v", report)
	}
	for _, c := range checks() {
		if !slices.ContainsFunc(report.Findings, func(f Finding) bool { return f.Check == c.name && f.Severity == OK && f.Message != "" }) {
			t.Errorf("check %s says nothing of what is well", c.name)
		}
	}
}

// Each finding that there is: what has to be wrong for it, and what it says.
func TestFindings(t *testing.T) {
	t.Parallel()
	ada := "ada"
	down := func(s *Snapshot) { s.Status, s.Examination, s.DaemonProblem = nil, nil, "nobody listens" }
	cases := []struct {
		name    string
		spoil   func(*Snapshot)
		check   string
		is      Severity
		message string
		remedy  string
	}{
		{"bad configuration", func(s *Snapshot) { s.Config, s.ConfigProblem = nil, "attune.toml:3:1: no" }, "configuration", Error, "attune.toml:3:1: no", "attune config check"},
		{"unused pack configuration", func(s *Snapshot) { s.PackConfig = []string{"nobody uses it"} }, "configuration", Warning, "nobody uses it", "attune config check"},
		{"configuration to be written", func(s *Snapshot) { s.ConfigFile.Mode = 0o664 }, "configuration", Error, "others may write", "chmod go-w /etc/attune/attune.toml"},
		{"configuration with password", func(s *Snapshot) { s.HoldsPassword = true }, "configuration", Warning, "password of the database", "chmod o-rwx /etc"},
		{"foreign configuration", func(s *Snapshot) { s.ConfigFile.IsForeign, s.ConfigFile.Owner = true, "eve" }, "configuration", Warning, "belongs to eve", "chown root"},

		{"no daemon", down, "daemon", Warning, "no daemon answers: nobody listens", "systemctl start attune"},
		{"no permission", func(s *Snapshot) { down(s); s.IsDenied = true }, "daemon", Error, "nobody listens", "sudo usermod -aG attune ada"},
		{"not for this token", func(s *Snapshot) { down(s); s.Refusal = "make one that may" }, "daemon", Warning, "does not say how it is: nobody listens", "make one that may"},
		{"other folders", func(s *Snapshot) { s.Status.Reconcile.Directories = []string{"/srv/packs"} }, "daemon", Warning, "the daemon watches /srv/packs, and this command's configuration says ", "--config"},
		{"other version", func(s *Snapshot) { s.Status.Version = "0.9.0" }, "daemon", Warning, "attune 0.9.0, and this command 1.0.0", "systemctl restart attune"},
		{"degraded", func(s *Snapshot) { s.Status.Problems = []string{"a breaker is open"} }, "daemon", Warning, "a breaker is open", "attune status"},
		{"not ready", func(s *Snapshot) { s.Status.Problems, s.Status.Ready = []string{"no database"}, false }, "daemon", Error, "no database", "attune status"},
		{"long queue", func(s *Snapshot) { s.Status.Queue.OldestSeconds = 400 }, "daemon", Warning, "waited for 6m40s", "exec.workers"},

		{"paused", func(s *Snapshot) { s.Status.Queue.Pause = &store.Pause{By: "ada", At: s.Now.Add(-time.Hour)} }, "daemon", Warning, "ada has paused everything, 1h0m0s ago", "attune resume"},

		{"no state", func(s *Snapshot) { s.State = File{} }, "state", Error, "no state directory", "state.directory"},
		{"state that cannot be seen", func(s *Snapshot) { s.State = File{Path: "/s", Problem: "permission denied"} }, "state", Note, "permission denied", "sudo attune doctor"},
		{"state is a file", func(s *Snapshot) { s.State.Mode = 0o600 }, "state", Error, "no folder", "state.directory"},
		{"state to be written", func(s *Snapshot) { s.State.Mode |= 0o020 }, "state", Error, "refuses it", "chmod go-w /var/lib/attune"},

		{"no key", func(s *Snapshot) { s.Config.Secrets.KeyFile, s.Key = "/k", File{Path: "/k", IsMissing: true} }, "keys", Error, "no key file /k", "openssl rand -base64 32"},
		{"key that cannot be seen", func(s *Snapshot) { s.Key = File{Path: "/k", Problem: "permission denied"} }, "keys", Note, "permission denied", "sudo attune doctor"},
		{"key to be read", func(s *Snapshot) { s.Key.Mode = 0o604 }, "keys", Error, "refuses them", "chmod 0600 /var/lib/attune/attune.key"},

		{"no secrets", func(s *Snapshot) { s.Secrets = File{Path: "/x", IsMissing: true} }, "secrets", Error, "no folder of secrets", "install -d -m 0700 /x"},
		{"secrets that cannot be seen", func(s *Snapshot) { s.Secrets = File{Path: "/x", Problem: "no"} }, "secrets", Note, "cannot look at /x", "sudo attune doctor"},
		{"secrets to be written", func(s *Snapshot) { s.Secrets.Mode |= 0o020 }, "secrets", Error, "in another's place", "chmod go-w /run/secrets"},
		{"secret to be read", func(s *Snapshot) { s.SecretFiles[0].Mode = 0o644 }, "secrets", Warning, "read the secret /run/secrets/token", "chmod o-rwx /run/secrets/token"},

		{"bad certificate", func(s *Snapshot) { s.CertificateProblem = "no PEM" }, "certificate", Error, "no PEM", "http.tls_cert"},
		{"key of certificate to be read", func(s *Snapshot) { s.CertificateKey.Mode = 0o644 }, "certificate", Error, "read the key /etc/attune/key.pem", "chmod o-rwx"},
		{"certificate has ended", func(s *Snapshot) { s.CertificateExpires = s.Now.Add(-time.Hour) }, "certificate", Error, "ended on 2026-06-01", "systemctl restart attune"},
		{"certificate ends", func(s *Snapshot) { s.CertificateExpires = s.Now.Add(100 * time.Hour) }, "certificate", Warning, "ends on 2026-06-05", "newer one"},

		{"no packs folder", func(s *Snapshot) { s.PackFolders[0] = File{Path: "/p", IsMissing: true} }, "packs", Error, "no packs folder /p", "mkdir -p /p"},
		{"packs folder that cannot be seen", func(s *Snapshot) { s.PackFolders[0] = File{Path: "/p", Problem: "no"} }, "packs", Note, "cannot look at /p", "sudo"},
		{"packs folder is a file", func(s *Snapshot) { s.PackFolders[0].Mode = 0o644 }, "packs", Error, "no folder", "packs.directory"},
		{"packs folder to be written", func(s *Snapshot) { s.PackFolders[0].Mode |= 0o002 }, "packs", Error, "run code as the daemon", "chmod o-w /etc/attune/packs"},
		{"foreign packs folder", func(s *Snapshot) { s.PackFolders[0].IsForeign, s.PackFolders[0].Owner = true, "eve" }, "packs", Warning, "belongs to eve", "chown root"},
		{"broken pack", func(s *Snapshot) {
			s.Status.Packs[0].Errors = manifest.Errors{{Severity: manifest.SeverityError, Message: "no such action"}, {Severity: manifest.SeverityWarning}}
		}, "packs", Error, "pack core has 1 error: no such action", "attune pack show core"},
		{"broken pack, without daemon", func(s *Snapshot) { down(s); s.Packs = []Pack{{Ref: "x", Errors: 2, First: "no"}} }, "packs", Error, "pack x has 2 errors: no", "attune pack lint ./packs"},
		{"packs not checked", func(s *Snapshot) { down(s); s.PackProblem = "no time" }, "packs", Note, "no time", "attune pack lint"},
		{"pinned pack", func(s *Snapshot) { s.Status.Packs[0].PinnedBy, s.Status.Packs[0].Revision = &ada, 3 }, "packs", Warning, "pinned to revision 3 by ada", "attune pack rollback --unpin core"},

		{"sensor crashes", func(s *Snapshot) {
			s.Status.Sensors[0].State, s.Status.Sensors[0].Problem = "backoff", "exit status 1"
		}, "sensors", Warning, "core.timer does not run: exit status 1", "attune sensor logs core.timer"},

		{"no node", func(s *Snapshot) { s.Interpreters = s.Interpreters[:2] }, "runtimes", Note, "no node", "apt-get install nodejs"},
		{"nothing", func(s *Snapshot) { s.Interpreters = nil }, "runtimes", Error, "no interpreter at all", "apt-get install bash"},
		{"shim", func(s *Snapshot) { s.Scripts = []string{"/home/ada/.pyenv/shims/python3"} }, "runtimes", Warning, "version manager", "PATH"},

		{"no server", func(s *Snapshot) { s.Database, s.IsAsleep, s.Major = nil, true, 15 }, "database", Error, "no PostgreSQL 15 server", "apt-get install postgresql-15"},
		{"no database", func(s *Snapshot) { s.Database, s.DatabaseProblem = nil, "connection refused" }, "database", Error, "connection refused", "database.url"},
		{"old server", func(s *Snapshot) { s.Database.VersionNumber, s.Database.Version = 130000, "13.9" }, "database", Error, "PostgreSQL 13.9, and 14", "upgrade"},
		{"standby", func(s *Snapshot) { s.Database.ReadOnly = true }, "database", Error, "takes no writes", "primary"},
		{"newer schema", func(s *Snapshot) { s.Database.SchemaVersion = 30 }, "database", Error, "made by a newer one", "attune database restore"},
		{"older schema of another", func(s *Snapshot) { s.Database.SchemaVersion, s.Database.OwnsSchema = 20, false }, "database", Error, "role attune may not migrate it", "attune migrate"},
		{"older schema", func(s *Snapshot) { s.Database.SchemaVersion = 20 }, "database", Note, "brings it to 24", ""},
		{"no partitions", func(s *Snapshot) { s.Database.DaysAhead = 0 }, "database", Warning, "maintenance fails", "journalctl"},
		{"long transaction", func(s *Snapshot) { s.Database.OldestSeconds = 7200 }, "database", Warning, "open for 2h0m0s", "pg_stat_activity"},

		{"fsync", func(s *Snapshot) { s.Database.Fsync = false }, "server", Error, "fsync is off", "ALTER SYSTEM SET fsync = on"},
		{"full_page_writes", func(s *Snapshot) { s.Database.FullPageWrites = false }, "server", Error, "full_page_writes is off", "ALTER SYSTEM SET full_page_writes = on"},
		{"synchronous_commit", func(s *Snapshot) { s.Database.SynchronousCommit = "off" }, "server", Error, "loses events", "ALTER SYSTEM SET synchronous_commit = on"},
		{"autovacuum", func(s *Snapshot) { s.Database.Autovacuum = false }, "server", Warning, "autovacuum is off", "ALTER SYSTEM SET autovacuum = on"},
		{"encoding", func(s *Snapshot) { s.Database.Encoding = "SQL_ASCII" }, "server", Error, "encoding is SQL_ASCII", "createdb -E UTF8"},
		{"connections", func(s *Snapshot) { s.Database.Connected = 100 }, "server", Warning, fmt.Sprintf("87 of 97 connections are others': a daemon needs up to %d", store.ConnectionsOfNode), "max_connections"},
		{"slot", func(s *Snapshot) { s.Database.IdleSlots = []string{"old"} }, "server", Warning, "nobody reads the replication slot old", "pg_drop_replication_slot('old')"},
		{"pooler", func(s *Snapshot) { s.Database.Between = true }, "server", Warning, "something stands between", `database.pooler = "transaction"`},
		{"no pooler", func(s *Snapshot) { s.Config.Database.Pooler = "transaction" }, "server", Warning, "there seems to be none", `database.pooler = "none"`},

		{"no right to create", func(s *Snapshot) { s.Database.HasSchema, s.Database.MayCreate = false, false }, "rights", Error, "may not make the schema", "GRANT CREATE ON DATABASE"},
		{"no rights", func(s *Snapshot) {
			s.Database.MissingPrivileges = []string{"a: SELECT", "b: SELECT", "c: SELECT", "d: SELECT"}
		}, "rights", Error, "a: SELECT; b: SELECT; c: SELECT and 1 more", "GRANT SELECT"},

		{"clock", func(s *Snapshot) { no := false; s.Synchronized = &no }, "clock", Warning, "nothing keeps this machine's clock", "timedatectl set-ntp true"},
		{"clock not known", func(s *Snapshot) { s.Synchronized = nil }, "clock", Note, "does not say", ""},
		{"clocks differ", func(s *Snapshot) { s.Database.ClockSeconds = -3 }, "clock", Warning, "3s behind", "timedatectl"},
		{"clocks differ much", func(s *Snapshot) { s.Database.ClockSeconds = 90 }, "clock", Error, "1m30s ahead of", "timedatectl"},

		{"polled", func(s *Snapshot) { s.Status.Reconcile.WatchReason = "no space" }, "watching", Warning, "polled, not watched: no space", "max_user_watches"},
		{"many folders", func(s *Snapshot) { s.Folders = 40000 }, "watching", Warning, "40000 folders", "max_user_watches=524288"},
		{"few instances", func(s *Snapshot) { s.MaxInstances = 4 }, "watching", Warning, "only 4 watchers", "max_user_instances=512"},
		{"no limits known", func(s *Snapshot) { s.MaxWatches = 0 }, "watching", Note, "cannot be read", ""},

		{"not delegated", func(s *Snapshot) { s.Examination.Trees = child.Trees{Why: "it is not delegated"} }, "cgroup", Warning, "it is not delegated", "Delegate=yes"},
		{"half delegated", func(s *Snapshot) { s.Examination.Trees.Controllers = []string{"memory"} }, "cgroup", Warning, "controller cpu is not delegated", "Delegate=yes"},
		{"no cgroup v2", func(s *Snapshot) { down(s); s.HasCgroup2 = false }, "cgroup", Warning, "no cgroup v2", "systemd.unified_cgroup_hierarchy=1"},
		{"cgroup not known", down, "cgroup", Note, "once the daemon runs", ""},

		{"full disk", func(s *Snapshot) { s.Disks[0].Free = 50 << 20 }, "disk", Error, "50.0 MiB left for the state", "du -xh -d1 /var/lib/attune"},
		{"filling disk", func(s *Snapshot) { s.Disks[0].Free = 4 << 30 }, "disk", Warning, "4.0 GiB (4 %) left", "retention.executions"},
		{"read-only disk", func(s *Snapshot) { s.Disks[0].IsReadOnly = true }, "disk", Error, "mounted read-only", "findmnt -T /var/lib/attune"},
		{"no inodes", func(s *Snapshot) { s.Disks[0].FreeFiles = 10 }, "disk", Error, "only 10 more files", "df -i /var/lib/attune"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := healthy()
			c.spoil(s)
			report := Examine(s)
			if !slices.ContainsFunc(report.Findings, func(f Finding) bool {
				return f.Check == c.check && f.Severity == c.is && strings.Contains(f.Message, c.message) && strings.Contains(f.Remedy, c.remedy) && (f.Remedy == "") == (c.remedy == "")
			}) {
				t.Errorf("want %s of %s with %q and %q, found %+v", c.is, c.check, c.message, c.remedy, report.Findings)
			}
			// Whatever is wrong, nothing else is said to be.
			for _, f := range report.Findings {
				if f.Check != c.check && f.Check != "daemon" && (f.Severity == Error || f.Severity == Warning) {
					t.Errorf("%s is blamed too: %+v", f.Check, f)
				}
			}
		})
	}
}
