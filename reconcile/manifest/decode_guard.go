package manifest

// The guards of a rule bound what it may do: throttle, debounce, dedupe and breaker.

// guard reads a mapping with the keys of one guard; hint is for who wrote something else.
func (o *mapping) guard(key, hint string) *mapping {
	e := o.get(key)
	if e == nil {
		return nil
	}
	if e.kind != mappingValue {
		o.d.mismatch(e, "a mapping", hint)
		return nil
	}
	return o.d.mapping(e.value, e.pointer, subKeys(o.key(key).shape))
}

// needs tells a key that a mapping cannot do without.
func (o *mapping) needs(what, key, example string) {
	if !o.has(key) {
		o.d.fail(o.v.place, "add "+key+": "+example, "cannot use %s: it has no %s", what, key)
	}
}

func (o *mapping) throttle() *Throttle {
	c := o.guard("throttle", "write {max: 10, per: 1m}")
	if c == nil {
		return nil
	}
	t := &Throttle{Max: int(c.integer("max")), Per: c.duration("per"), Key: trimEnd(c.str("key"))}
	c.needs("throttle", "max", "10")
	c.needs("throttle", "per", "1m")
	c.finish()
	return t
}

func (o *mapping) debounce() *Debounce {
	c := o.guard("debounce", "write {window: 30s}")
	if c == nil {
		return nil
	}
	b := &Debounce{Window: c.duration("window"), MaxWait: c.duration("max_wait"), Key: trimEnd(c.str("key"))}
	c.needs("debounce", "window", "30s")
	if b.MaxWait > 0 && b.MaxWait < b.Window {
		o.d.fail(c.place("max_wait"), "", "cannot use debounce.max_wait: found %s, expected at least the window of %s", b.MaxWait, b.Window)
	}
	c.finish()
	return b
}

func (o *mapping) dedupe() *Dedupe {
	c := o.guard("dedupe", `write {key: event.payload.id, window: 1h}`)
	if c == nil {
		return nil
	}
	u := &Dedupe{Key: trimEnd(c.str("key")), Window: c.duration("window")}
	c.needs("dedupe", "window", "1h")
	c.finish()
	return u
}

// The defaults of a breaker.
const (
	breakerPer   = Duration(60e9)  // one minute
	breakerPause = Duration(300e9) // five minutes
)

func (o *mapping) breaker() *Breaker {
	c := o.guard("breaker", "write {failures: 5, pause: 10m}")
	if c == nil {
		return nil
	}
	b := &Breaker{
		Failures: int(c.integer("failures")), Executions: int(c.integer("executions")),
		Per: c.duration("per"), Pause: c.duration("pause"),
	}
	switch {
	case !c.has("failures", "executions"):
		o.d.fail(c.v.place, "add failures: 5, or executions: 1000 and per: 1m", "cannot use breaker: it has neither failures nor executions")
	case b.Per != 0 && !c.has("executions"):
		o.d.fail(c.place("per"), "add executions: 1000, or remove per", "cannot use breaker.per: it is for executions, which are not there")
	}
	if b.Per == 0 && c.has("executions") {
		b.Per = breakerPer
	}
	if b.Pause == 0 {
		b.Pause = breakerPause
	}
	c.finish()
	return b
}
