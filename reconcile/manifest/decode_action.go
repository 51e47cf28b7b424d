package manifest

import (
	"slices"
	"strconv"
)

// action reads actions/*.yaml. What it gives is complete only where d has no errors; its ref is good
// as soon as it is not empty. The same holds for the other kinds.
func (d *decoder) action(v *value, src *source) Component {
	o := d.mapping(v, "", actionKeys)
	a := &Action{Header: d.header(o, src.pack)}
	a.Runner = d.runner(o, KindAction, a.Name, src)
	a.Parameters = o.schema("parameters", false)
	a.OutputSchema = o.schema("output_schema", true)
	a.OutputFormat = o.choice("output_format")
	a.ParameterDelivery = o.choice("parameter_delivery")
	a.ParameterFormat = o.choice("parameter_format")
	a.Timeout = o.duration("timeout")
	a.TimeoutTotal = o.duration("timeout_total")
	if a.TimeoutTotal > 0 && a.TimeoutTotal < a.Timeout {
		d.fail(o.place("timeout_total"), "", "cannot use timeout_total: it is shorter than timeout, which one attempt may take")
	}
	a.Expires = o.duration("expires")
	a.Retry = d.retry(o)
	a.Concurrency = d.concurrency(o, a)
	a.Priority = int(o.integer("priority"))
	a.OnLost = o.choice("on_lost")
	a.Warm = o.flag("warm")
	a.Detach = o.flag("detach")
	o.finish()
	d.checkVariables(a)
	d.warnSecrets(o, a)
	return a
}

func (d *decoder) retry(o *mapping) *Retry {
	c := o.child("retry")
	if c == nil {
		return nil
	}
	r := &Retry{
		MaxAttempts: int(c.integer("max_attempts")),
		Delay:       c.duration("delay"),
		Backoff:     c.choice("backoff"),
		MaxDelay:    c.duration("max_delay"),
		On:          c.texts("on"),
		ExitCodes:   d.exitCodes(c),
	}
	if !c.has("max_attempts") {
		d.fail(c.v.place, "add max_attempts: 3", "cannot use retry: it has no max_attempts")
	}
	statuses := []string{"failed", "timed_out", "lost"}
	for i, status := range r.On {
		if !slices.Contains(statuses, status) {
			d.fail(d.places.At(c.pointer+"/on/"+strconv.Itoa(i)), didYouMean(status, statuses),
				"cannot use retry.on: found %s, expected %s", quoted(status), orList(statuses))
		}
	}
	slices.Sort(r.On)
	if r.MaxDelay > 0 && r.MaxDelay < r.Delay {
		d.fail(c.place("max_delay"), "", "cannot use retry.max_delay: it is shorter than delay")
	}
	c.finish()
	return r
}

// highestExitCode: a wait status has no more.
const highestExitCode = 255

func (d *decoder) exitCodes(o *mapping) []int {
	e := o.get("exit_codes")
	if e == nil {
		return nil
	}
	if e.kind != listValue {
		d.mismatch(e, "a list", "")
		return nil
	}
	var codes []int
	for i, item := range e.items {
		code, ok := item.scalar.(int64)
		if !ok || code < 0 || code > highestExitCode {
			d.mismatch(&entry{value: item, path: e.path + "." + strconv.Itoa(i)}, "an exit code from 0 to 255", "")
			continue
		}
		codes = append(codes, int(code))
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func (d *decoder) concurrency(o *mapping, a *Action) *Concurrency {
	c := o.child("concurrency")
	if c == nil {
		return nil
	}
	limit := &Concurrency{
		Max:    int(c.integer("max")),
		Key:    c.str("key"),
		Policy: c.choice("policy"),
	}
	if !c.has("max") {
		d.fail(c.v.place, "add max: 1", "cannot use concurrency: it has no max")
	}
	c.finish()
	if limit.Key != "" {
		d.concurrencyKey(c.at("key"), limit.Key, a.Parameters)
	}
	return limit
}

func (d *decoder) concurrencyKey(pointer, source string, parameters *Schema) {
	key, problems := compileKey(newLanguage(), source, names{parameters: parameters != nil, noEvent: true})
	if key != nil {
		for _, p := range key.paths() {
			if bad := undeclared(parameters, p, 1, "the action"); bad != nil {
				problems = append(problems, *bad)
			}
			if parameters.IsSecret(p.pointer(1)) {
				problems = append(problems, problem{
					at: p.at, message: p.String() + " is secret, and the key is stored for all to read", hint: "count by something that is no secret",
				})
			}
		}
	}
	for _, p := range problems {
		severity := SeverityError
		if p.warning {
			severity = SeverityWarning
		}
		place := inside(d.places, d.texts, pointer, source, p.at)
		d.report(severity, place, p.hint, "cannot compile concurrency.key: %s", p.message)
	}
}

// warnSecrets warns of secrets in an environment, which others may read as long as the process lives.
func (d *decoder) warnSecrets(o *mapping, a *Action) {
	if a.ParameterDelivery != DeliverEnv {
		return
	}
	var names []string
	for _, p := range a.Parameters.Properties() {
		if p.Secret {
			names = append(names, quoted(p.Name))
		}
	}
	if len(names) > 0 {
		d.warn(o.place("parameter_delivery"), "write parameter_delivery: stdin, or leave it out and read stdin",
			"cannot keep %s secret: parameter_delivery env shows it to whoever may read the process's environment", orList(names))
	}
}

// checkVariables refuses two parameters that would be one variable, where the environment is used.
func (d *decoder) checkVariables(a *Action) {
	if a.Parameters == nil || a.ParameterDelivery != DeliverBoth && a.ParameterDelivery != DeliverEnv {
		return
	}
	owners := map[string]string{}
	names := []string{}
	for _, p := range a.Parameters.Properties() {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	for _, name := range names {
		key := variableName(name)
		if first, taken := owners[key]; taken {
			d.fail(d.parameterPlace(name), "rename one of them, or write parameter_delivery: stdin",
				"cannot use parameters %s and %s together: both become ATTUNE_ACTION_%s", quoted(first), quoted(name), key)
			continue
		}
		owners[key] = name
	}
}

// parameterPlace is where a parameter is declared, in either form of schema.
func (d *decoder) parameterPlace(name string) Place {
	if place, ok := d.places["/parameters/properties/"+escapePointer(name)]; ok {
		return place
	}
	return d.places.At("/parameters/" + escapePointer(name))
}
