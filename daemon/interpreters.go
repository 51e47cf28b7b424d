package daemon

import (
	"fmt"
	"os"

	"github.com/Masterminds/semver/v3"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile"
	"github.com/attune-io/attune/reconcile/manifest"
)

// memoryFile is what the reconciler knows of the packs from one start to the next.
const memoryFile = "packs.memory"

// environmentOf names the program and the interpreters on this machine: what a start may take over from
// the last one depends on both. A program that was built anew is another one, whatever its version says.
func environmentOf(binary string, found *child.Interpreters) string {
	text := fmt.Sprint(found.All())
	if info, err := os.Stat(binary); err == nil {
		text += fmt.Sprintf(" %d %d", info.Size(), info.ModTime().UnixNano())
	}
	return text
}

// Interpreters tells reconcile which of the interpreters that were found will do.
type Interpreters struct{ Found *child.Interpreters }

var _ reconcile.Interpreters = Interpreters{}

// Check gives nil when one of the runtime satisfies the semver range (empty: any).
func (i Interpreters) Check(runtime, interpreter, versions string) error {
	if runtime == manifest.RuntimeNative {
		return nil
	}
	var ok func(string) bool
	if versions != "" {
		wanted, err := semver.NewConstraint(versions)
		if err != nil {
			return fmt.Errorf("cannot read version range %q: %v", versions, err)
		}
		ok = func(version string) bool {
			v, err := semver.NewVersion(version)
			return err == nil && wanted.Check(v)
		}
	}
	if _, err := i.Found.Find(runtime, interpreter, ok); err != nil {
		if versions != "" {
			return fmt.Errorf("%v (wanted: %s)", err, versions)
		}
		return err
	}
	return nil
}
