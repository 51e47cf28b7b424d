//go:build faults

package reconcile

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestClockChangesInAllZones is TestClockChangesAgainstAnOracle for every zone there is, and this year and
// the ten that follow. Zones of the same data are one.
func TestClockChangesInAllZones(t *testing.T) {
	t.Parallel()
	dir, names := zoneFiles(t)
	if len(names) < 500 {
		t.Fatalf("found %d zones", len(names))
	}
	var zones []string
	seen := map[[sha256.Size]byte]bool{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); !seen[sum] {
			seen[sum] = true
			zones = append(zones, name)
		}
	}
	year := time.Now().Year()
	changes := compareWithOracle(t, dir, zones, year, year+11)
	t.Logf("%d zones, %d of different data, %d changes of clocks", len(names), len(zones), changes)
	if changes < 1000 {
		t.Errorf("saw %d changes of clocks", changes)
	}
}
