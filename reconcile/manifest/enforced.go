package manifest

// notEnforced are keys of other systems that promise something which is not done.
var notEnforced = []string{
	"worker_selector", "worker_tolerations", "required_worker_runtimes", "workflow_file", "permission_set_refs",
}

func (d *decoder) warnNotEnforced(f field) {
	d.warn(f.place, "remove it, and what it promises with it", "cannot enforce %s: nothing is done about it", quoted(f.key))
}
