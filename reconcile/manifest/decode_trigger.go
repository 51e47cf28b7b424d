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
	t.Verify = o.verify(t.Type)
	o.warnIdle(KindTrigger)
	o.finish()
	return t
}
