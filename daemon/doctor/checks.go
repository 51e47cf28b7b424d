package doctor

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store"
)

// found makes a finding.
func found(severity Severity, remedy, format string, args ...any) Finding {
	return Finding{Severity: severity, Message: fmt.Sprintf(format, args...), Remedy: remedy}
}

// asRoot is what to do about what this user may not see.
const asRoot = "sudo attune doctor"

// others and writers are bits of modes.
const (
	others  = 0o007
	writers = 0o022
	world   = 0o002
)

func checkConfiguration(s *Snapshot) (list []Finding, in string) {
	if s.Config == nil {
		return []Finding{found(Error, "correct it, then: attune config check", "%s", s.ConfigProblem)}, ""
	}
	for _, problem := range s.PackConfig {
		list = append(list, found(Warning, "attune config check", "%s", problem))
	}
	f := s.ConfigFile
	if f.Path == "" {
		return list, "no file: the defaults and the environment"
	}
	if f.Mode&writers != 0 {
		list = append(list, found(Error, "chmod go-w "+f.Path, "others may write %s (mode %04o), and have the daemon run what they like", f.Path, f.Mode.Perm()))
	}
	if f.Mode&others != 0 && s.HoldsPassword {
		list = append(list, found(Warning, "chmod o-rwx "+f.Path, "everybody may read %s (mode %04o), and the password of the database stands in it", f.Path, f.Mode.Perm()))
	}
	if f.IsForeign {
		list = append(list, found(Warning, "chown root "+f.Path, "%s belongs to %s, who may change what the daemon does", f.Path, f.Owner))
	}
	return list, f.Path
}

func checkDaemon(s *Snapshot) (list []Finding, in string) {
	switch {
	case s.IsDenied:
		return []Finding{found(Error, "sudo usermod -aG attune "+s.User+"; then log in anew", "%s", s.DaemonProblem)}, ""
	case s.Refusal != "":
		return []Finding{found(Warning, s.Refusal, "the daemon does not say how it is: %s", s.DaemonProblem)}, ""
	case s.Status == nil:
		return []Finding{found(Warning, "systemctl start attune, or: attune daemon", "no daemon answers: %s", s.DaemonProblem)}, ""
	}
	if s.Version != s.Status.Version {
		list = append(list, found(Warning, "systemctl restart attune", "the daemon is attune %s, and this command %s", s.Status.Version, s.Version))
	}
	if of := s.Status.Reconcile.Directories; s.Config != nil && len(of) > 0 && !slices.Equal(of, s.Config.Packs.Directories) {
		list = append(list, found(Warning, "name its configuration by --config or ATTUNE_CONFIG",
			"the daemon watches %s, and this command's configuration says %s: what is said of files is of the latter",
			strings.Join(of, ", "), strings.Join(s.Config.Packs.Directories, ", ")))
	}
	for _, problem := range s.Status.Problems {
		severity := Warning
		if !s.Status.Ready {
			severity = Error
		}
		list = append(list, found(severity, "attune status", "%s", problem))
	}
	if p := s.Status.Queue.Pause; p != nil {
		return append(list, found(Warning, "attune resume", "%s has paused everything, %s ago: nothing is begun", p.By, s.Now.Sub(p.At).Round(time.Second))), ""
	}
	const long = 5 * time.Minute // what is due starts within a blink where there are workers
	if wait := time.Duration(s.Status.Queue.OldestSeconds * float64(time.Second)); wait > long {
		list = append(list, found(Warning, "attune execution list --status requested, and exec.workers in attune.toml",
			"the oldest execution that is due has waited for %s", wait.Round(time.Second)))
	}
	return list, fmt.Sprintf("attune %s, pid %d, ready", s.Status.Version, s.Status.PID)
}

func checkState(s *Snapshot) (list []Finding, in string) {
	f := s.State
	switch {
	case s.Config == nil:
		return nil, ""
	case f.Path == "":
		return []Finding{found(Error, "set state.directory in attune.toml", "there is no state directory: $HOME is not set")}, ""
	case f.IsMissing:
		return nil, f.Path + " is made at the first start"
	case f.Problem != "":
		return []Finding{found(Note, asRoot, "cannot look at %s: %s", f.Path, f.Problem)}, ""
	case !f.Mode.IsDir():
		return []Finding{found(Error, "set state.directory in attune.toml to a folder", "%s is no folder", f.Path)}, ""
	case f.Mode&writers != 0:
		return []Finding{found(Error, "chmod go-w "+f.Path, "others may write %s (mode %04o): the daemon refuses it", f.Path, f.Mode.Perm())}, ""
	}
	return nil, fmt.Sprintf("%s, of %s", f.Path, f.Owner)
}

func checkKeys(s *Snapshot) (list []Finding, in string) {
	f := s.Key
	switch {
	case s.Config == nil || f.Path == "":
		return nil, ""
	case f.IsMissing && s.Config.Secrets.KeyFile != "":
		return []Finding{found(Error, "install -m 0600 <(openssl rand -base64 32) "+f.Path, "there is no key file %s", f.Path)}, ""
	case f.IsMissing:
		return nil, f.Path + " is made when a secret parameter is first stored"
	case f.Problem != "":
		return []Finding{found(Note, asRoot, "cannot look at %s: %s", f.Path, f.Problem)}, ""
	case f.Mode&others != 0:
		return []Finding{found(Error, "chmod 0600 "+f.Path, "others may read the keys in %s (mode %04o): the daemon refuses them", f.Path, f.Mode.Perm())}, ""
	}
	return nil, f.Path
}

func checkSecrets(s *Snapshot) (list []Finding, in string) {
	f := s.Secrets
	switch {
	case s.Config == nil || f.Path == "":
		return nil, "no folder is configured"
	case f.IsMissing:
		return []Finding{found(Error, "install -d -m 0700 "+f.Path, "there is no folder of secrets %s", f.Path)}, ""
	case f.Problem != "":
		return []Finding{found(Note, asRoot, "cannot look at %s: %s", f.Path, f.Problem)}, ""
	case f.Mode&writers != 0:
		list = append(list, found(Error, "chmod go-w "+f.Path, "others may write %s (mode %04o), and put secrets in another's place", f.Path, f.Mode.Perm()))
	}
	if f.Mode&0o001 != 0 {
		// In a folder that nobody else may pass, the files' own modes do not matter.
		for _, secret := range s.SecretFiles {
			if secret.Mode&others != 0 {
				list = append(list, found(Warning, "chmod o-rwx "+secret.Path, "everybody may read the secret %s (mode %04o)", secret.Path, secret.Mode.Perm()))
			}
		}
	}
	return list, fmt.Sprintf("%d in %s", len(s.SecretFiles), f.Path)
}

func checkCertificate(s *Snapshot) (list []Finding, in string) {
	const soon = 14 * 24 * time.Hour // enough to get another one without haste
	switch {
	case s.Config == nil || s.Config.HTTP.TLSCert == "":
		return nil, ""
	case s.CertificateProblem != "":
		return []Finding{found(Error, "correct http.tls_cert and http.tls_key in attune.toml", "%s", s.CertificateProblem)}, ""
	case s.CertificateKey.Mode&others != 0:
		list = append(list, found(Error, "chmod o-rwx "+s.CertificateKey.Path, "everybody may read the key %s (mode %04o)", s.CertificateKey.Path, s.CertificateKey.Mode.Perm()))
	}
	left := s.CertificateExpires.Sub(s.Now)
	day := s.CertificateExpires.Format(time.DateOnly)
	switch {
	case left <= 0:
		list = append(list, found(Error, "put a newer one there, then: systemctl restart attune", "the certificate %s ended on %s", s.Certificate.Path, day))
	case left < soon:
		list = append(list, found(Warning, "put a newer one there", "the certificate %s ends on %s", s.Certificate.Path, day))
	}
	return list, s.Certificate.Path + ", until " + day
}

func checkPacks(s *Snapshot) (list []Finding, in string) {
	if s.Config == nil {
		return nil, ""
	}
	for _, f := range s.PackFolders {
		switch {
		case f.IsMissing:
			list = append(list, found(Error, "mkdir -p "+f.Path, "there is no packs folder %s", f.Path))
		case f.Problem != "":
			list = append(list, found(Note, asRoot, "cannot look at %s: %s", f.Path, f.Problem))
		case !f.Mode.IsDir():
			list = append(list, found(Error, "set packs.directory in attune.toml to a folder", "%s is no folder", f.Path))
		case f.Mode&world != 0:
			list = append(list, found(Error, "chmod o-w "+f.Path, "everybody may write %s (mode %04o), and run code as the daemon", f.Path, f.Mode.Perm()))
		case f.IsForeign:
			list = append(list, found(Warning, "chown root "+f.Path, "%s belongs to %s, who may run code as the daemon", f.Path, f.Owner))
		}
	}
	packs, show := s.Packs, "attune pack lint "+strings.Join(s.Config.Packs.Directories, " ")
	if s.Status != nil {
		packs, show = packsOf(s), ""
	}
	if s.PackProblem != "" {
		list = append(list, found(Note, show, "the packs could not be checked: %s", s.PackProblem))
	}
	for _, p := range packs {
		if p.Errors > 0 {
			remedy := show
			if remedy == "" {
				remedy = "attune pack show " + p.Ref
			}
			list = append(list, found(Error, remedy, "pack %s has %s: %s", p.Ref, count(p.Errors, "error"), p.First))
		}
	}
	if s.Status != nil {
		for _, p := range s.Status.Packs {
			if p.PinnedBy != nil {
				list = append(list, found(Warning, "attune pack rollback --unpin "+p.Ref, "pack %s is pinned to revision %d by %s: edits of its folder change nothing", p.Ref, p.Revision, *p.PinnedBy))
			}
		}
	}
	return list, count(len(packs), "pack") + " without errors"
}

// packsOf are the packs as the daemon sees them.
func packsOf(s *Snapshot) []Pack {
	var packs []Pack
	for _, p := range s.Status.Packs {
		pack := Pack{Ref: p.Ref}
		for _, e := range p.Errors {
			pack.add(e)
		}
		packs = append(packs, pack)
	}
	return packs
}

func checkSensors(s *Snapshot) (list []Finding, in string) {
	if s.Status == nil {
		return nil, ""
	}
	running := 0
	for _, sensor := range s.Status.Sensors {
		switch sensor.State {
		case "running":
			running++
		case "backoff", "failed", "unkillable":
			list = append(list, found(Warning, "attune sensor logs "+sensor.Ref, "sensor %s does not run: %s", sensor.Ref, sensor.Problem))
		}
	}
	return list, fmt.Sprintf("%d of %d run, the others need not", running, len(s.Status.Sensors))
}

func checkRuntimes(s *Snapshot) (list []Finding, in string) {
	type runtime struct{ name, pack string }
	var have []string
	for _, r := range []runtime{{"shell", "bash"}, {"python", "python3"}, {"node", "nodejs"}} {
		at := slices.IndexFunc(s.Interpreters, func(i child.Interpreter) bool { return i.Name == r.name })
		if at < 0 {
			list = append(list, found(Note, "apt-get install "+r.pack+", if a pack needs it", "this machine has no %s", r.name))
			continue
		}
		have = append(have, fmt.Sprintf("%s %s (%s)", r.name, s.Interpreters[at].Version, s.Interpreters[at].Path))
	}
	for _, script := range s.Scripts {
		list = append(list, found(Warning, "put the interpreter's own folder first in the daemon's PATH", "%s is the script of a version manager: what it leads to can change without a word", script))
	}
	if len(have) == 0 {
		list = append(list, found(Error, "apt-get install bash python3", "there is no interpreter at all: only native actions can run"))
	}
	return list, strings.Join(have, ", ")
}

func checkDatabase(s *Snapshot) (list []Finding, in string) {
	db := s.Database
	switch {
	case s.Config == nil:
		return nil, ""
	case db == nil && s.IsAsleep && !s.HasServer:
		which, name := "", "postgresql"
		if s.Major > 0 {
			which, name = fmt.Sprintf(" %d", s.Major), fmt.Sprintf("postgresql-%d", s.Major)
		}
		return []Finding{found(Error, "apt-get install "+name+", or set database.url in attune.toml", "this machine has no PostgreSQL%s server, which the private database needs", which)}, ""
	case db == nil && s.IsAsleep:
		return nil, "private, and asleep until a daemon runs"
	case db == nil && s.DatabaseProblem == "":
		return nil, ""
	case db == nil:
		return []Finding{found(Error, "attune database psql, and database.url in attune.toml", "%s", s.DatabaseProblem)}, ""
	}
	const oldest = 140000
	if db.VersionNumber < oldest {
		list = append(list, found(Error, "upgrade the server", "the server is PostgreSQL %s, and 14 or newer is needed", db.Version))
	}
	if db.ReadOnly {
		list = append(list, found(Error, "set database.url in attune.toml to the primary", "the server takes no writes: it is a standby, or its default_transaction_read_only is on"))
	}
	switch {
	case db.SchemaVersion > db.NewestVersion:
		list = append(list, found(Error, "install that attune, or: attune database restore, from a backup of before", "the schema has version %d, and this attune knows up to %d: it was made by a newer one", db.SchemaVersion, db.NewestVersion))
	case db.SchemaVersion < db.NewestVersion && !db.OwnsSchema && db.HasSchema:
		list = append(list, found(Error, "ATTUNE_DATABASE_URL=postgres://OWNER@… attune migrate", "the schema has version %d, %d is needed, and role %s may not migrate it", db.SchemaVersion, db.NewestVersion, db.Role))
	case db.SchemaVersion < db.NewestVersion && db.HasSchema:
		list = append(list, found(Note, "", "the schema has version %d; the next start brings it to %d", db.SchemaVersion, db.NewestVersion))
	}
	const daysAhead = 1 // what is left when maintenance has failed for most of a week
	if db.SchemaVersion > 0 && s.Status != nil && db.DaysAhead < daysAhead {
		list = append(list, found(Warning, "journalctl -u attune | grep 'not maintained'", "partitions of the history are made for no day to come: maintenance fails"))
	}
	const longOpen = 3600 // seconds
	if db.OldestSeconds > longOpen {
		list = append(list, found(Warning, "attune database psql -- -c \"SELECT pid, usename, xact_start, query FROM pg_stat_activity ORDER BY xact_start\"",
			"a transaction is open for %s: until it ends nothing is cleaned up, and the queue grows slower", seconds(db.OldestSeconds)))
	}
	return list, fmt.Sprintf("PostgreSQL %s, schema %d, %s", db.Version, db.SchemaVersion, size(uint64(max(db.SizeBytes, 0))))
}

func checkServer(s *Snapshot) (list []Finding, in string) {
	db := s.Database
	if db == nil {
		return nil, ""
	}
	on := func(name string) string {
		return fmt.Sprintf("attune database psql -- -c 'ALTER SYSTEM SET %s = on' -c 'SELECT pg_reload_conf()'", name)
	}
	if !db.Fsync {
		list = append(list, found(Error, on("fsync"), "fsync is off: a crash of the machine can destroy the database"))
	}
	if !db.FullPageWrites {
		list = append(list, found(Error, on("full_page_writes"), "full_page_writes is off: a crash of the machine can destroy the database"))
	}
	if db.SynchronousCommit == "off" {
		list = append(list, found(Error, on("synchronous_commit"), "synchronous_commit is off: a crash of the server loses events that were acknowledged, and may start an action twice"))
	}
	if !db.Autovacuum {
		list = append(list, found(Warning, on("autovacuum"), "autovacuum is off: the queue and the catalog slow down with time"))
	}
	if db.Encoding != "UTF8" {
		list = append(list, found(Error, "make a new database: createdb -E UTF8 -T template0 attune", "the database's encoding is %s, and UTF8 is needed", db.Encoding))
	}
	if free := db.Connections - db.Connected + db.OwnConnected; free < store.ConnectionsOfNode {
		list = append(list, found(Warning, "set max_connections in postgresql.conf, then restart the server",
			"%d of %d connections are others': a daemon needs up to %d", db.Connected-db.OwnConnected, db.Connections, store.ConnectionsOfNode))
	}
	for _, slot := range db.IdleSlots {
		list = append(list, found(Warning, fmt.Sprintf("attune database psql -- -c \"SELECT pg_drop_replication_slot('%s')\", if nobody needs it", slot),
			"nobody reads the replication slot %s, and the server keeps its log for it until the disk is full", slot))
	}
	if s.Config != nil {
		switch pooler := s.Config.Database.Pooler; {
		case db.Between && pooler == "none":
			list = append(list, found(Warning, "set database.pooler = \"transaction\" in attune.toml, or let database.url lead to PostgreSQL itself",
				"something stands between the daemon and the server; a pooler that gives each transaction another connection breaks notifications"))
		case !db.Between && pooler == "transaction":
			list = append(list, found(Warning, "set database.pooler = \"none\" in attune.toml", "database.pooler is \"transaction\", and there seems to be none: without notifications everything waits up to 2 s"))
		}
	}
	in = fmt.Sprintf("fsync on, synchronous_commit %s, %d of %d connections", db.SynchronousCommit, db.Connected, db.Connections)
	if db.WALBytes != nil {
		in += fmt.Sprintf(", %s of write-ahead log", size(uint64(max(*db.WALBytes, 0))))
	}
	return list, in
}

func checkRights(s *Snapshot) (list []Finding, in string) {
	db := s.Database
	switch {
	case db == nil:
		return nil, ""
	case !db.HasSchema && !db.MayCreate:
		return []Finding{found(Error, "as its owner: GRANT CREATE ON DATABASE … TO "+db.Role+"; or let an owner run: attune migrate",
			"role %s may not make the schema attune, and there is none", db.Role)}, ""
	}
	const shown = 3
	if n := len(db.MissingPrivileges); n > 0 {
		text := strings.Join(db.MissingPrivileges[:min(n, shown)], "; ")
		if n > shown {
			text += fmt.Sprintf(" and %d more tables", n-shown)
		}
		list = append(list, found(Error, "as their owner: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA attune TO "+db.Role, "role %s lacks rights on tables: %s", db.Role, text))
	}
	who := "may use, and not change, the schema"
	if db.OwnsSchema || !db.HasSchema {
		who = "owns the schema"
	}
	return list, fmt.Sprintf("role %s %s", db.Role, who)
}

func checkClock(s *Snapshot) (list []Finding, in string) {
	in = "this machine's is kept in step"
	switch {
	case s.Synchronized == nil:
		list = append(list, found(Note, "", "whether this machine's clock is kept in step, the kernel does not say"))
		in = ""
	case !*s.Synchronized:
		list = append(list, found(Warning, "timedatectl set-ntp true, or: apt-get install chrony", "nothing keeps this machine's clock in step: timers fire when it says so"))
	}
	if db := s.Database; db != nil {
		const warn, bad = 1.0, 60.0 // seconds
		off := math.Abs(db.ClockSeconds) - db.RoundTripSeconds/2
		direction := "ahead of"
		if db.ClockSeconds < 0 {
			direction = "behind"
		}
		switch {
		case off > bad:
			list = append(list, found(Error, "timedatectl set-ntp true, on both machines", "the database's clock is %s %s this machine's: times in lists, --since and timers are off by so much", seconds(off), direction))
		case off > warn:
			list = append(list, found(Warning, "timedatectl set-ntp true, on both machines", "the database's clock is %s %s this machine's", seconds(off), direction))
		case in != "":
			in += ", and the database's agrees with it"
		}
	}
	return list, in
}

func checkWatching(s *Snapshot) (list []Finding, in string) {
	if s.Status != nil && s.Status.Reconcile.WatchReason != "" {
		list = append(list, found(Warning, "sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512", "packs are polled, not watched: %s", s.Status.Reconcile.WatchReason))
	}
	if s.MaxWatches == 0 {
		return append(list, found(Note, "", "the kernel's limits of inotify cannot be read")), ""
	}
	// Other programs of the user have watches as well.
	if s.Folders > s.MaxWatches/2 {
		need := max(2*s.Folders, 524288)
		list = append(list, found(Warning, fmt.Sprintf("echo fs.inotify.max_user_watches=%d >/etc/sysctl.d/60-attune.conf; sysctl --system", need),
			"the packs have %d folders, and a user may watch %d: beyond that they are polled", s.Folders, s.MaxWatches))
	}
	const fewInstances = 16
	if s.MaxInstances < fewInstances {
		list = append(list, found(Warning, "echo fs.inotify.max_user_instances=512 >/etc/sysctl.d/60-attune.conf; sysctl --system", "a user may have only %d watchers", s.MaxInstances))
	}
	return list, fmt.Sprintf("%s of %d watches", count(s.Folders, "folder"), s.MaxWatches)
}

func checkCgroup(s *Snapshot) (list []Finding, in string) {
	const unit = "set Delegate=yes in the unit, and see contrib/systemd/tree-limits.conf"
	switch {
	case s.Examination != nil && s.Examination.Trees.Cgroup != "":
		have := s.Examination.Trees.Controllers
		for _, c := range []string{"cpu", "memory", "pids"} {
			if !slices.Contains(have, c) {
				list = append(list, found(Warning, unit, "controller %s is not delegated to the daemon: that limit binds single processes at most", c))
			}
		}
		return list, "delegated, with " + strings.Join(have, ", ")
	case s.Examination != nil:
		return []Finding{found(Warning, unit, "limits bind no whole trees of processes: %s", s.Examination.Trees.Why)}, ""
	case !s.HasCgroup2:
		return []Finding{found(Warning, "boot with systemd.unified_cgroup_hierarchy=1 and a kernel from 5.14 on", "this machine has no cgroup v2 that ends trees: limits will bind no whole trees of processes")}, ""
	}
	return []Finding{found(Note, "", "whether a cgroup is delegated is known once the daemon runs")}, ""
}

func checkDisk(s *Snapshot) (list []Finding, in string) {
	const (
		least, little   = 100 << 20, 1 << 30 // bytes
		leastPercent    = 2
		littlePercent   = 5
		leastFiles      = 1000
		retentionRemedy = "free some (du -xh -d1 %s | sort -h), or keep less: retention.executions in attune.toml"
	)
	var texts []string
	for _, d := range s.Disks {
		if d.NeedsWriting && d.IsReadOnly {
			list = append(list, found(Error, "findmnt -T "+d.Path, "%s is on a file system that is mounted read-only: %s", d.What, d.Path))
			continue
		}
		if !d.NeedsWriting || d.Size == 0 {
			continue
		}
		remedy := fmt.Sprintf(retentionRemedy, d.Path)
		percent := float64(d.Free) / float64(d.Size) * 100
		switch {
		case d.Free < least || percent < leastPercent && d.Free < little:
			list = append(list, found(Error, remedy, "%s has %s left for %s", d.Path, size(d.Free), d.What))
		case d.Free < little || percent < littlePercent:
			list = append(list, found(Warning, remedy, "%s has %s (%.0f %%) left for %s", d.Path, size(d.Free), percent, d.What))
		case d.Files > 0 && d.FreeFiles < leastFiles:
			list = append(list, found(Error, "df -i "+d.Path, "%s has room for only %d more files", d.Path, d.FreeFiles))
		}
		texts = append(texts, fmt.Sprintf("%s free for %s", size(d.Free), d.What))
	}
	return list, strings.Join(texts, ", ")
}

// count is "1 error", "2 errors".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// seconds prints a duration to two digits that matter.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// size prints a size in binary units.
func size(n uint64) string {
	const unit = 1024
	value, exponent := float64(n), 0
	for value >= unit && exponent < len("KMGTP") {
		value /= unit
		exponent++
	}
	if exponent == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[exponent-1])
}
