package reconcile

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/reconcile/manifest"
)

// oracleExpression is an expression and the same as sets, so that the oracle parses nothing.
type oracleExpression struct {
	Expression string `json:"expression"`
	Minute     []int  `json:"minute"`
	Hour       []int  `json:"hour"`
	Dom        []int  `json:"dom"`
	Month      []int  `json:"month"`
	Dow        []int  `json:"dow"`
}

func oracleExpressions() []oracleExpression {
	span := func(low, high, step int) (list []int) {
		for i := low; i <= high; i += step {
			list = append(list, i)
		}
		return list
	}
	hours, doms, months, dows := span(0, 23, 1), span(1, 31, 1), span(1, 12, 1), span(0, 6, 1)
	return []oracleExpression{
		{"30 2 * * *", []int{30}, []int{2}, doms, months, dows},
		{"0 0 * * *", []int{0}, []int{0}, doms, months, dows},
		{"15,45 0-3 * * *", []int{15, 45}, span(0, 3, 1), doms, months, dows},
		{"0 */2 * * *", []int{0}, span(0, 23, 2), doms, months, dows},
		{"30 1 * * 0", []int{30}, []int{1}, doms, months, []int{0}},
		{"0 3 1 * *", []int{0}, []int{3}, []int{1}, months, dows},
		{"*/15 * * * *", span(0, 59, 15), hours, doms, months, dows},
		{"40 * * * 0,6", []int{40}, hours, doms, months, []int{0, 6}},
	}
}

// zoneFiles unpacks the zone data that Go embeds, so that both sides read the same, and lists its zones.
func zoneFiles(t *testing.T) (dir string, zones []string) {
	t.Helper()
	archive, err := zip.OpenReader(filepath.Join(goRoot(t), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Skipf("Go's zone data is not here: %v", err)
	}
	defer archive.Close()
	dir = t.TempDir()
	for _, f := range archive.File {
		if f.FileInfo().IsDir() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(data, []byte("TZif")) {
			continue
		}
		to := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			t.Fatal(err)
		}
		zones = append(zones, f.Name)
	}
	slices.Sort(zones)
	return dir, zones
}

func goRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("cannot ask go for its root: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// compareWithOracle compares every due time around every change of the clocks of the zones with what
// Python's zoneinfo says, from the beginning of one year to that of another. It gives how many changes that were.
func compareWithOracle(t *testing.T, zoneData string, zones []string, from, to int) int {
	t.Helper()
	asked, err := json.Marshal(map[string]any{
		"zones": zones, "from": from, "to": to, "expressions": oracleExpressions(),
	})
	if err != nil {
		t.Fatal(err)
	}
	python := exec.CommandContext(t.Context(), "python3", filepath.Join("testdata", "clock_oracle.py"))
	python.Env = append(os.Environ(), "PYTHONTZPATH="+zoneData)
	python.Stdin = bytes.NewReader(asked)
	var problems strings.Builder
	python.Stderr = &problems
	answer, err := python.Output()
	if err != nil {
		t.Fatalf("the oracle failed: %v\n%s", err, problems.String())
	}
	changes := 0
	decoder := json.NewDecoder(bytes.NewReader(answer))
	for decoder.More() {
		var told struct {
			Zone    string
			Windows []struct {
				From, To int64
				Fires    map[string][]int64
			}
		}
		if err := decoder.Decode(&told); err != nil {
			t.Fatal(err)
		}
		for _, e := range oracleExpressions() {
			s := mustSchedule(t, manifest.TriggerCron, map[string]any{"expression": e.Expression, "timezone": told.Zone}, time.Time{})
			for _, w := range told.Windows {
				got := []int64{}
				for at := s.Next(time.Unix(w.From-1, 0)); at.Unix() < w.To; at = s.Next(at) {
					got = append(got, at.Unix())
				}
				if diff := cmp.Diff(w.Fires[e.Expression], got); diff != "" {
					t.Errorf("%q in %s from %v (-oracle +ours):\n%s", e.Expression, told.Zone, time.Unix(w.From, 0).UTC(), diff)
				}
			}
		}
		changes += len(told.Windows)
	}
	return changes
}

// TestClockChangesAgainstAnOracle takes zones of every kind: both hemispheres, half an hour, a change at
// midnight, one that lasts a month, and none at all.
func TestClockChangesAgainstAnOracle(t *testing.T) {
	t.Parallel()
	dir, _ := zoneFiles(t)
	zones := []string{
		"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Africa/Casablanca",
		"America/Santiago", "Asia/Kathmandu",
	}
	if changes := compareWithOracle(t, dir, zones, 2026, 2028); changes < 6*4 {
		t.Errorf("saw %d changes of clocks", changes)
	}
}
