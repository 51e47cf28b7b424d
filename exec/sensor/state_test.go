package sensor

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// documented reads the table of doc.go, one "state when then" a row.
func documented(t *testing.T) []string {
	t.Helper()
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	inside := false
	for line := range strings.Lines(string(source)) {
		fields := strings.Fields(strings.TrimPrefix(line, "//"))
		switch {
		case slices.Equal(fields, []string{"state", "when", "then"}):
			inside = true
		case inside && len(fields) != 3:
			return rows
		case inside:
			rows = append(rows, strings.Join(fields, " "))
		}
	}
	return rows
}

func TestTheTableOfStatesIsTheCode(t *testing.T) {
	t.Parallel()
	var coded []string
	for _, s := range states() {
		for _, h := range happenings() {
			if then, ok := next(s, h); ok {
				coded = append(coded, fmt.Sprintf("%s %s %s", s, h, then))
			}
		}
	}
	rows := documented(t)
	slices.Sort(rows)
	slices.Sort(coded)
	if diff := cmp.Diff(rows, coded); diff != "" {
		t.Errorf("doc.go and next differ (-doc +code):\n%s", diff)
	}
}

func TestEveryStateCanBeLeftAndReached(t *testing.T) {
	t.Parallel()
	reached := map[State]bool{StateStopped: true}
	for range states() {
		for s := range reached {
			for _, h := range happenings() {
				if then, ok := next(s, h); ok {
					reached[then] = true
				}
			}
		}
	}
	for _, s := range states() {
		if !reached[s] {
			t.Errorf("%s cannot be reached", s)
		}
		leads := false
		for _, h := range happenings() {
			_, ok := next(s, h)
			leads = leads || ok
		}
		if !leads {
			t.Errorf("%s cannot be left", s)
		}
	}
	if _, ok := next("dreaming", hWanted); ok {
		t.Error("an unknown state leads somewhere")
	}
}
