package manifest

import (
	"strconv"
	"strings"
)

// rule reads rules/*.yaml.
func (d *decoder) rule(v *value, src *source) Component {
	o := d.mapping(v, "", ruleKeys)
	r := &Rule{Header: d.header(o, src.pack)}
	r.Trigger = d.ruleTrigger(o, src.pack)
	r.When = d.condition(o)
	r.Actions = d.ruleActions(o, src.pack)
	r.ForEach = o.str("for_each")
	r.Priority = int(o.integer("priority"))
	r.Throttle = o.throttle()
	r.Debounce = o.debounce()
	r.Dedupe = o.dedupe()
	r.Breaker = o.breaker()
	o.finish()
	return r
}

func (d *decoder) ruleTrigger(o *mapping, pack string) Use {
	use := d.use(o, "trigger", pack)
	for _, key := range sortedKeys(use.Parameters) {
		pointer := "/trigger/parameters/" + escapePointer(key)
		walkTexts(use.Parameters[key], pointer, func(at, text string) {
			if strings.Contains(text, "{{") {
				d.fail(d.places.At(at), "write the value itself",
					"cannot use a template in %s: what a trigger waits for is fixed before any event", dotted(at))
			}
		})
	}
	if use.Ref == "" && !o.has("trigger", "trigger_ref") {
		d.fail(o.v.place, "add trigger: {ref: core.intervaltimer, parameters: {unit: minutes, interval: 5}}",
			"cannot use this rule: it names no trigger")
	}
	return use
}

func (d *decoder) ruleActions(o *mapping, pack string) []Use {
	list := o.get("actions")
	if list == nil {
		use := d.use(o, "action", pack)
		d.alias("/action", "/actions/0")
		if !o.has("action", "action_ref", "actions") {
			d.fail(o.v.place, "add action: {ref: core.echo, parameters: {message: hello}}",
				"cannot use this rule: it names no action")
		}
		return []Use{use}
	}
	if o.has("action", "action_ref", "action_params") {
		d.use(o, "action", pack)
		d.fail(list.place, "put all of them under actions", "cannot use key \"actions\" beside \"action\"")
	}
	if list.kind != listValue {
		d.mismatch(list, "a list of actions", "")
		return nil
	}
	if len(list.items) == 0 {
		d.fail(list.place, "name one, like [core.echo]", "cannot use actions: it is empty")
	}
	uses := make([]Use, 0, len(list.items))
	for i, item := range list.items {
		pointer := "/actions/" + strconv.Itoa(i)
		uses = append(uses, d.useValue(&entry{value: item, path: dotted(pointer), pointer: pointer}, pack))
	}
	return uses
}

// use reads `trigger: {ref, parameters}` in all its spellings: a bare ref, or the keys trigger_ref and
// trigger_params; likewise for `action`.
func (d *decoder) use(o *mapping, key, pack string) Use {
	var use Use
	if e := o.get(key); e != nil {
		use = d.useValue(e, pack)
	}
	if e := o.get(key + "_ref"); e != nil {
		ref := d.reference(e, pack)
		if o.has(key) {
			d.fail(e.place, "keep one of them", "cannot use key %s beside %s: both name the %s", quoted(key+"_ref"), quoted(key), key)
		}
		use.Ref = ref
		d.alias(o.at(key+"_ref"), o.at(key)+"/ref")
	}
	if e := o.get(key + "_params"); e != nil {
		switch {
		case e.kind != mappingValue:
			d.mismatch(e, "a mapping", "")
		case use.Parameters != nil:
			d.fail(e.place, "keep one of them", "cannot use key %s beside the parameters under %s", quoted(key+"_params"), quoted(key))
		default:
			use.Parameters = nonEmpty(e.plain())
			d.alias(o.at(key+"_params"), o.at(key)+"/parameters")
		}
	}
	return use
}

// useValue reads what names a trigger or an action: a bare ref, or {ref, parameters}.
func (d *decoder) useValue(e *entry, pack string) Use {
	var use Use
	switch e.kind {
	case brokenValue:
		return use
	case scalarValue:
		d.places[e.pointer+"/ref"] = e.place
		use.Ref = d.reference(e, pack)
		return use
	case listValue:
		d.mismatch(e, "a ref or {ref, parameters}", "")
		return use
	}
	c := d.mapping(e.value, e.pointer, actionUseKeys)
	if ref := c.get("ref"); ref != nil {
		use.Ref = d.reference(ref, pack)
	} else if !c.has("ref", "type") {
		d.fail(e.place, "add ref", "cannot use %s: it has no ref", e.path)
	}
	use.Parameters = c.tree("parameters")
	c.finish()
	return use
}

func nonEmpty(tree any) map[string]any {
	m, _ := tree.(map[string]any)
	if len(m) == 0 {
		return nil
	}
	return m
}

// walkTexts visits every text in a plain tree with its JSON pointer, keys in order.
func walkTexts(tree any, pointer string, visit func(pointer, text string)) {
	switch t := tree.(type) {
	case string:
		visit(pointer, t)
	case []any:
		for i, item := range t {
			walkTexts(item, pointer+"/"+strconv.Itoa(i), visit)
		}
	case map[string]any:
		for _, key := range sortedKeys(t) {
			walkTexts(t[key], pointer+"/"+escapePointer(key), visit)
		}
	}
}
