package manifest

// trigger reads triggers/*.yaml.
func (d *decoder) trigger(v *value, src *source) Component {
	o := d.mapping(v, "")
	t := &Trigger{Header: d.header(o, src.pack)}
	t.Type = o.choice("type", map[string]string{
		TriggerInterval: TriggerInterval, TriggerCron: TriggerCron,
		TriggerDatetime: TriggerDatetime, "one_shot": TriggerDatetime,
		TriggerWebhook: TriggerWebhook,
		TriggerCustom:  TriggerCustom, "system": TriggerCustom,
	})
	if t.Type == "" {
		t.Type = TriggerCustom
	}
	t.ParametersSchema = o.schema("parameters_schema", false, "parameters")
	t.PayloadSchema = o.schema("payload_schema", true, "output", "output_schema")
	t.OnInvalid = o.choice("on_invalid", words("keep", "refuse"))
	t.Verify = d.verify(o, t.Type)
	o.finish()
	return t
}

// verify reads how a webhook's sender is checked: a mapping, or one word, which is its type.
func (d *decoder) verify(o *mapping, triggerType string) map[string]any {
	e := o.get("verify")
	if e == nil {
		return nil
	}
	if triggerType != TriggerWebhook {
		d.warn(e.place, "remove it, or write type: webhook", "cannot use verify: only a webhook is verified")
	}
	if e.kind == mappingValue {
		return nonEmpty(e.plain())
	}
	if word, ok := e.scalar.(string); ok {
		return map[string]any{"type": word}
	}
	d.mismatch(e, "a mapping, or none", "")
	return nil
}
