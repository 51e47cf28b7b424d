package manifest

import "slices"

// trigger reads triggers/*.yaml.
func (d *decoder) trigger(v *value, src *source) Component {
	o := d.mapping(v, "", triggerKeys)
	t := &Trigger{Header: d.header(o, src.pack)}
	t.Type = o.choice("type")
	if t.Type == "" {
		t.Type = TriggerCustom
	}
	t.ParametersSchema = o.schema("parameters_schema", false)
	t.PayloadSchema = o.schema("payload_schema", true)
	t.OnInvalid = o.choice("on_invalid")
	t.Verify = o.verify(t.Type)
	d.warnWebhookPayload(o, t)
	o.finish()
	return t
}

// warnWebhookPayload warns of a payload_schema that was meant for what is sent: that is but one field of a
// webhook's payload.
func (d *decoder) warnWebhookPayload(o *mapping, t *Trigger) {
	if t.Type != TriggerWebhook {
		return
	}
	properties := t.PayloadSchema.Properties()
	if len(properties) == 0 {
		return
	}
	names := make([]string, len(properties))
	for i, p := range properties {
		names[i] = p.Name
	}
	if slices.ContainsFunc(names, func(name string) bool { return slices.Contains(webhookFields, name) }) {
		return
	}
	slices.Sort(names)
	d.warn(o.placeOf("payload_schema"), "write body: {type: object, properties: {…}}",
		"cannot find %s in a webhook's payload: it has %s, and what was sent is under body", quoted(names[0]), andList(webhookFields))
}
