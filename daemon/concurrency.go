package daemon

import (
	"encoding/json"

	"github.com/attune-io/attune/reconcile/manifest"
)

// concurrencyKey gives what an execution of an action is counted by, as the action is known here and now.
// Where that is out of date, or the key cannot be evaluated, the claim sets it right.
func (d *Daemon) concurrencyKey(ref string, parameters json.RawMessage) (key string, counted bool) {
	catalog := d.catalogs.current.Load()
	if catalog == nil || catalog.Actions[ref] == nil {
		return "", false
	}
	action, _ := catalog.Actions[ref].Spec.(*manifest.Action)
	key, counted, err := action.ConcurrencyKey(parameters)
	if err != nil {
		d.log.Warn("an execution is counted with those that have no key", "action", ref, "err", err)
	}
	return key, counted
}
