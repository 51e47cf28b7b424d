package api

import (
	"fmt"
	"slices"

	"github.com/attune-io/attune/exec/environment"
	"github.com/attune-io/attune/reconcile/manifest"
)

// Environments tells what packs have beside interpreters; environment.Manager is it.
type Environments interface {
	Of(pack string) []environment.Status
}

var _ Environments = (*environment.Manager)(nil)

// Environment is a virtual environment, or a folder of node's modules, of a pack on this node.
type Environment environment.Status

func (s *Server) environments(pack string) []Environment {
	list := []Environment{}
	if s.opts.Environments != nil {
		for _, e := range s.opts.Environments.Of(pack) {
			list = append(list, Environment(e))
		}
	}
	return list
}

// withEnvironments adds to the findings of a pack what its environments lack: they are this node's, so
// the database does not know of them.
func (s *Server) withEnvironments(p Pack) Pack {
	for _, e := range s.environments(p.Ref) {
		if e.State != environment.Failed {
			continue
		}
		file := "requirements.txt"
		if e.Runtime == environment.Node {
			file = "package.json"
		}
		hint := "its actions wait; see " + e.LogFile
		if e.InUse != "" {
			hint = "the last good one stays in use; see " + e.LogFile
		}
		p.Errors = append(slices.Clone(p.Errors), &manifest.Error{
			Place: manifest.Place{File: p.Ref + "/" + file}, Severity: manifest.SeverityError, Ref: p.Ref, Hint: hint,
			Message: fmt.Sprintf("cannot make its %s environment: %s", e.Runtime, e.Error),
		})
	}
	return p
}
