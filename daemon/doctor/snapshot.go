package doctor

import (
	"io/fs"
	"time"

	"github.com/attune-io/attune/daemon"
	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// Snapshot is what Gather saw. A check reads it and nothing else.
type Snapshot struct {
	Now     time.Time
	User    string // who looked
	Version string // of this command

	// Config is nil where it cannot be used, because of ConfigProblem.
	Config        *daemon.Config
	ConfigProblem string
	ConfigFile    File // zero: there is none
	// HoldsPassword says that a password stands in the file.
	HoldsPassword bool
	PackConfig    []string // what is wrong with [packs.config]

	// Status and Examination are the daemon's; nil where none answers, because of DaemonProblem.
	Status        *api.Status
	Examination   *api.Examination
	DaemonProblem string
	// Refusal is what to do about a daemon that answers, but not who asked; "": it did not answer.
	Refusal string
	// IsDenied says that there is a daemon, and its socket is not for this user.
	IsDenied bool

	State, Key, Secrets File
	SecretFiles         []File
	Certificate         File
	CertificateKey      File
	CertificateExpires  time.Time // zero: there is none, or it cannot be read because of CertificateProblem
	CertificateProblem  string

	PackFolders []File
	Packs       []Pack // as files say where no daemon answers
	PackProblem string // why they could not be checked
	Folders     int    // below the packs folders, each of which takes a watch

	Interpreters []child.Interpreter
	// Scripts are interpreters in the PATH that are scripts.
	Scripts []string

	// Database is nil where it could not be examined, because of DatabaseProblem.
	Database        *store.ServerExamination
	DatabaseProblem string
	Private         bool
	// IsAsleep says that the private server does not run because no daemon does; HasServer, that this
	// machine has the programs for it, of the wanted Major version (0: any).
	IsAsleep, HasServer bool
	Major               int

	// Synchronized says whether something keeps the clock right; nil: nobody knows.
	Synchronized *bool
	// MaxWatches and MaxInstances are the kernel's limits of inotify for a user; 0: they cannot be read.
	MaxWatches, MaxInstances int
	// HasCgroup2 says that the unified hierarchy is mounted, and ends a whole tree at once.
	HasCgroup2 bool
	Disks      []Disk
}

// File is what is known of a file or folder.
type File struct {
	Path  string
	Mode  fs.FileMode
	Owner string // a name, or "uid 17"
	// Problem says why it cannot be looked at; "" and Mode 0: there was nothing to look at.
	Problem   string
	IsMissing bool
	IsForeign bool // its owner is neither root nor the daemon's user
}

// Pack is what the files of a pack say.
type Pack struct {
	Ref      string
	Errors   int
	Warnings int
	First    string // the first error
}

// add counts a finding.
func (p *Pack) add(e *manifest.Error) {
	if e.Severity != manifest.SeverityError {
		p.Warnings++
		return
	}
	if p.Errors++; p.Errors == 1 {
		p.First = e.Error()
	}
}

// Disk is a file system that something of Attune's is on.
type Disk struct {
	Path         string
	What         string // "the state", "packs"
	Free, Size   uint64 // bytes
	FreeFiles    uint64
	Files        uint64 // 0: it does not count them
	IsReadOnly   bool
	NeedsWriting bool
}
