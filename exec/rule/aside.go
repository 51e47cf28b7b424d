package rule

import (
	"context"
	"maps"
	"slices"
	"time"
)

const (
	// asideEvery is how often is looked whether what was set aside can be stored.
	asideEvery = time.Second

	// lookTimeout bounds a look at locks: nobody is to wait for it who would not wait without it.
	lookTimeout = time.Second
)

// aside are the events of sensors whose leases another session has locked, in their order. Nothing that is made under
// such a lease can be committed, which must not hold up what others have handed over. It is of Run's goroutine alone,
// and bounded by what was taken when the lock was seen: until the events are stored the queue takes no more of the sensor.
type aside struct {
	items map[string][]item // by sensor
	due   <-chan time.Time  // when to look again; nil: nothing is set aside
}

// take gives what is left of a group without the events that follow some that are set aside. It reuses the group.
func (a *aside) take(group []item) []item {
	if len(a.items) == 0 {
		return group
	}
	return slices.DeleteFunc(group, func(it item) bool {
		before, some := a.items[it.event.Source]
		if !some || it.event.Lease == "" {
			return false
		}
		a.items[it.event.Source] = append(before, it)
		return true
	})
}

// setAside sets aside what of a group cannot be stored for a lock on its lease, after the error of a try to, and tells
// whether there is such.
func (i *Intake) setAside(ctx context.Context, group []item, err error) (some bool) {
	if !i.isTimeout(err) {
		return false
	}
	locked, err := i.lockedOf(ctx, group)
	if err != nil || len(locked) == 0 {
		return false
	}
	if i.aside.items == nil {
		i.aside.items = map[string][]item{}
	}
	for n := range group {
		e := &group[n].event
		if _, known := i.aside.items[e.Source]; known || !slices.Contains(locked, e.Lease) {
			continue
		}
		some = true
		i.aside.items[e.Source] = nil
		i.queue.shut(e.Source)
		i.logger.Warn("events of a sensor wait, because another session has locked its lease in attune.lease", "sensor", e.Source)
	}
	i.aside.due = time.After(asideEvery)
	return some
}

// lockedOf gives the leases of events that another session has locked.
func (i *Intake) lockedOf(ctx context.Context, group []item) ([]string, error) {
	if i.lockedLeases == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return i.lockedLeases(ctx, eventsOf(group))
}

// storeAside stores what was set aside and can be stored now. No group may be under way: one that waits for us to commit it
// may hold what we wait for.
func (i *Intake) storeAside(ctx context.Context) {
	i.aside.due = nil
	for _, sensor := range slices.Sorted(maps.Keys(i.aside.items)) {
		items := i.aside.items[sensor]
		if locked, err := i.lockedOf(ctx, items); ctx.Err() == nil && (err != nil || len(locked) > 0) {
			continue
		}
		delete(i.aside.items, sensor)
		i.storeGroup(ctx, items)
		if _, again := i.aside.items[sensor]; !again && ctx.Err() == nil {
			i.queue.open(sensor)
			i.logger.Info("events of a sensor wait no longer", "sensor", sensor)
		}
	}
	if len(i.aside.items) > 0 {
		i.aside.due = time.After(asideEvery)
	}
}

// storeAllAside ends when nothing is set aside any more: it is stored, or with the end of ctx refused.
func (i *Intake) storeAllAside(ctx context.Context) {
	for wait := newRetry(); ; _ = wait.sleep(ctx) {
		if i.storeAside(ctx); len(i.aside.items) == 0 {
			return
		}
	}
}
