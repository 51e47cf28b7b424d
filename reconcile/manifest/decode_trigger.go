package manifest

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
	o.warnIdle(KindTrigger)
	o.finish()
	return t
}
