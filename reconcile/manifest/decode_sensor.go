package manifest

import (
	"fmt"
	"slices"
	"strconv"
)

// sensor reads sensors/*.yaml.
func (d *decoder) sensor(v *value, src *source) Component {
	o := d.mapping(v, "", sensorKeys)
	s := &Sensor{Header: d.header(o, src.pack)}
	s.Runner = d.runner(o, KindSensor, s.Name, src)
	s.TriggerTypes = d.triggerTypes(o, src)
	s.OnDemand = o.flag("on_demand")
	s.Parameters = o.schema("parameters", false)
	s.Config = d.sensorConfig(o)
	s.PollInterval = o.duration("poll_interval")
	s.Watchdog = o.duration("watchdog")
	s.Ack = o.flag("ack")
	s.Updates = o.flag("updates")
	o.finish()
	return s
}

// triggerTypes reads the refs of the triggers that the sensor may fire, sorted: their order means
// nothing.
func (d *decoder) triggerTypes(o *mapping, src *source) []string {
	e, one := o.get("trigger_types"), o.get("trigger_type")
	if e != nil && one != nil {
		d.fail(one.place, "keep one of them", `cannot use key "trigger_type" beside "trigger_types": both mean trigger_types`)
	}
	if e == nil && one != nil {
		e = one
		d.alias("/trigger_type", "/trigger_types")
		e.pointer = "/trigger_types"
	}
	if e == nil {
		if !o.has("trigger_types", "trigger_type") {
			d.fail(o.v.place, "add trigger_types: [my_trigger]", "cannot use this sensor: it has no trigger_types")
		}
		return nil
	}
	items := e.items
	if e.kind == scalarValue && e == one {
		items = []*value{e.value}
	} else if e.kind != listValue {
		d.mismatch(e, "a list of triggers", fmt.Sprintf("write [%s]", e.text))
		return nil
	}
	var refs []string
	for i, item := range items {
		at := &entry{value: item, path: e.path + "." + strconv.Itoa(i), pointer: e.pointer + "/" + strconv.Itoa(i)}
		ref := d.reference(at, src.pack)
		if ref == "" || slices.Contains(refs, ref) {
			continue
		}
		// The order in the model is another one than in the file, so the ref itself is the key.
		d.places[e.pointer+"/"+escapePointer(ref)] = item.place
		refs = append(refs, ref)
	}
	if len(items) == 0 {
		d.fail(e.place, "name a trigger, like [my_trigger]", "cannot use %s: it is empty", e.path)
	}
	slices.Sort(refs)
	return refs
}

// sensorConfig reads the sensor's configuration. Its keys become ATTUNE_SENSOR_<KEY>, and some of
// those are Attune's own.
func (d *decoder) sensorConfig(o *mapping) map[string]any {
	config := o.tree("config")
	owners := map[string]string{}
	for _, key := range sortedKeys(config) {
		place := d.places.At(o.at("config") + "/" + escapePointer(key))
		variable := variableName(key)
		first, taken := owners[variable]
		switch {
		case slices.Contains([]string{"REF", "TRIGGERS", "TRIGGERS_FILE", "PACK", "CURSOR"}, variable):
			d.fail(place, "take another name", "cannot use key %s of config: ATTUNE_SENSOR_%s is Attune's own", quoted(key), variable)
		case taken:
			d.fail(place, "rename one of them", "cannot use keys %s and %s of config together: both become ATTUNE_SENSOR_%s",
				quoted(first), quoted(key), variable)
		}
		owners[variable] = key
	}
	return config
}
