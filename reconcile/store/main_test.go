package store_test

import (
	"flag"
	"testing"

	"github.com/attune-io/attune/reconcile/store/storetest"
)

// TestMain fixes what the test of the queue draws, so that a run tells the same twice and takes no longer;
// -rapid.seed, -rapid.checks and -rapid.steps try others.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.seed": "1", "rapid.checks": "8", "rapid.steps": "50", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	storetest.Main(m)
}
