// Package doctor looks at all that a daemon needs, and says what is wrong with it and what to do. Gather
// does the looking, with a daemon or without one; what it saw is a Snapshot, and Examine judges that by a
// table of checks, which read nothing else. Nothing is changed.
package doctor

import (
	"cmp"
	"slices"
)

// Severity says how bad a finding is.
type Severity string

// The severities. What could not be looked at is a Note: it is no fault, and no comfort either.
const (
	OK      Severity = "ok"
	Note    Severity = "note"
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Finding is one thing that a check has to say.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	Message  string   `json:"message"`
	// Remedy is what to do, as a command where there is one; empty: nothing has to be done.
	Remedy string `json:"remedy"`
}

// Report is what all checks have to say, in the order of the table.
type Report struct {
	Findings []Finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
}

// check is one row of the table. It gives only what is not as it should be, or not known; in is then what
// it says of all that is.
type check struct {
	name string
	look func(*Snapshot) (found []Finding, in string)
}

// checks is the table.
func checks() []check {
	return []check{
		{"configuration", checkConfiguration},
		{"daemon", checkDaemon},
		{"state", checkState},
		{"keys", checkKeys},
		{"secrets", checkSecrets},
		{"certificate", checkCertificate},
		{"packs", checkPacks},
		{"sensors", checkSensors},
		{"runtimes", checkRuntimes},
		{"database", checkDatabase},
		{"server", checkServer},
		{"rights", checkRights},
		{"clock", checkClock},
		{"watching", checkWatching},
		{"cgroup", checkCgroup},
		{"disk", checkDisk},
	}
}

// Examine judges a snapshot.
func Examine(s *Snapshot) *Report {
	report := &Report{Findings: []Finding{}}
	for _, c := range checks() {
		found, in := c.look(s)
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Severity != Note }) && in != "" {
			found = append([]Finding{{Severity: OK, Message: in}}, found...)
		}
		slices.SortStableFunc(found, func(a, b Finding) int { return cmp.Compare(rank(a.Severity), rank(b.Severity)) })
		for _, f := range found {
			f.Check = c.name
			report.Findings = append(report.Findings, f)
			switch f.Severity {
			case Error:
				report.Errors++
			case Warning:
				report.Warnings++
			case OK, Note:
			}
		}
	}
	return report
}

// rank puts what is worst first.
func rank(s Severity) int { return -slices.Index([]Severity{Note, OK, Warning, Error}, s) }
