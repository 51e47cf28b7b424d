package manifest

import "slices"

// idleKeys are read, checked and kept, but this version does nothing about them: whoever relies on one
// must hear of it before it matters. Who implements a key deletes its line.
var idleKeys = map[Kind][]string{
	KindAction: {
		"concurrency",
	},
}

// notEnforced are keys of other systems that promise something which is not done.
var notEnforced = []string{
	"worker_selector", "worker_tolerations", "required_worker_runtimes", "workflow_file", "permission_set_refs",
}

// warnIdle tells the idle keys of a manifest. One that is false or null promises nothing.
func (o *mapping) warnIdle(kind Kind) {
	for _, f := range o.v.fields {
		if slices.Contains(idleKeys[kind], f.key) && !f.value.isNull() && f.value.scalar != false {
			o.d.warn(f.place, "remove it, and what it promises with it",
				"cannot act on %s: this version reads it and does nothing about it", quoted(f.key))
		}
	}
}

func (d *decoder) warnNotEnforced(f field) {
	d.warn(f.place, "remove it, and what it promises with it", "cannot enforce %s: nothing is done about it", quoted(f.key))
}
