package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

// Each finding is printed once: with the step that it explains, or after all of them.
func TestPlanScreenTellsEachFindingOnce(t *testing.T) {
	t.Parallel()
	kept := &manifest.Error{Place: manifest.Place{File: "p/rules/r.yaml", Line: 2, Col: 3}, Severity: manifest.SeverityError, Message: "cannot use r"}
	fresh := &manifest.Error{Place: manifest.Place{File: "p/actions/a.yaml", Line: 4, Col: 5}, Severity: manifest.SeverityError, Message: "cannot use a"}
	again := *kept
	plan := &reconcile.Plan{Packs: []reconcile.PackPlan{{
		Ref: "p", Errors: manifest.Errors{fresh, &again},
		Steps: []reconcile.Step{{Op: reconcile.StepKeep, Kind: manifest.KindRule, Ref: "p.r", Errors: manifest.Errors{kept}}},
	}}}
	var out bytes.Buffer
	(&command{noColor: true}).planScreen(&out, plan)
	want := "p \n  ! rule p.r: keeps its last good version\n      p/rules/r.yaml:2:3: cannot use r\n" +
		"error: p/actions/a.yaml:4:5: cannot use a\n1 to keep as they were last good\n"
	if got := out.String(); strings.TrimRight(got, "\n")+"\n" != want {
		t.Errorf("found\n%s\nwant\n%s", got, want)
	}
}
