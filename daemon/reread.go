package daemon

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
)

// liveKeys are the beginnings of the keys that SIGHUP puts in force. The others are part of what was built at
// the start, and wait for a restart.
func liveKeys() []string { return []string{"packs.config.", "retention.", "log."} }

func isLive(key string) bool {
	return slices.ContainsFunc(liveKeys(), func(prefix string) bool { return strings.HasPrefix(key, prefix) })
}

// differences are the keys, sorted, of which two configurations say different things.
func (c *Config) differences(other *Config) []string {
	var keys []string
	theirs := other.keys()
	for i, k := range c.keys() {
		if !reflect.DeepEqual(k.value, theirs[i].value) {
			keys = append(keys, k.key)
		}
	}
	packs := maps.Clone(other.Packs.Config)
	if packs == nil {
		packs = map[string]map[string]any{}
	}
	maps.Copy(packs, c.Packs.Config)
	for pack := range packs {
		ours, theirs := c.Packs.Config[pack], other.Packs.Config[pack]
		named := map[string]bool{}
		for key := range ours {
			named[key] = true
		}
		for key := range theirs {
			named[key] = true
		}
		for key := range named {
			if !reflect.DeepEqual(ours[key], theirs[key]) {
				keys = append(keys, "packs.config."+pack+"."+key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

// live is the configuration as far as SIGHUP changes it: [packs.config], [retention] and [log].
func (d *Daemon) live() *Config { return d.rereadConfig.Load() }

// configPlace gives where a key of [packs.config] stands.
func (d *Daemon) configPlace(pack, key string) manifest.Place {
	return d.live().PackConfigPlace(pack, key)
}

// reread reads the configuration again, puts in force what can be, and names the rest, which waits for a
// restart. With an error nothing of it is in force.
func (d *Daemon) reread() error {
	if d.opts.Reread == nil {
		return nil
	}
	next, err := d.opts.Reread()
	if err != nil {
		d.log.Error("configuration is wrong, the one in force stays", "err", err)
		return fmt.Errorf("the configuration in force stays: %w", err)
	}
	before := d.live()
	var applied, waiting []string
	for _, key := range next.differences(before) {
		if isLive(key) {
			applied = append(applied, key)
		}
	}
	for _, key := range next.differences(d.config) {
		if !isLive(key) {
			waiting = append(waiting, key)
		}
	}
	if d.opts.SetLog != nil {
		if err := d.opts.SetLog(next.Log); err != nil {
			return err
		}
	}
	d.rereadConfig.Store(next)
	if !reflect.DeepEqual(before.Packs.Config, next.Packs.Config) {
		d.reconciler.Reconfigure(next.Packs.Config)
		d.sensors.Changed()
	}
	switch {
	case len(waiting) > 0:
		d.log.Warn("configuration read again, some of it waits for a restart", "applied", applied, "waiting", waiting)
	case len(applied) > 0:
		d.log.Info("configuration read again", "applied", applied)
	}
	return nil
}
