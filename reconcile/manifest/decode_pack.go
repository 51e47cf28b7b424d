package manifest

// pack reads pack.yaml. schema is what config.schema.yaml holds, or nil.
func (d *decoder) pack(v *value, folder string, schema *value) *Pack {
	o := d.mapping(v, "", packKeys)
	p := &Pack{
		Ref:         d.packRef(o, folder),
		Label:       d.packLabel(o),
		Description: o.str("description"),
		Version:     o.version("version"),
		Author:      o.str("author"),
		Email:       o.str("email"),
		System:      o.flag("system"),
		Enabled:     o.flag("enabled"),
		Config:      o.tree("config"),
		Meta:        o.tree("meta"),
		Tags:        o.texts("tags"),
		Attune:      o.versions("attune"),
		Extra:       o.keep(),
		Places:      d.places,
	}
	p.ConfSchema = o.schema("conf_schema", true)
	if schema != nil {
		d.configSchema(o, p, schema)
	}
	d.dependencies(o, p)
	d.runtimeDeps(o, p)
	o.finish()
	return p
}

// packRef reads the pack's ref, which the folder's name must say as well.
func (d *decoder) packRef(o *mapping, folder string) string {
	ref := o.str("ref")
	if ref == "" {
		return folder // absent, or told as broken
	}
	switch {
	case !packRefPattern.MatchString(ref):
		d.fail(o.place("ref"), "", "cannot use ref %s: expected %s", quoted(ref), packRefRule)
	case ref != folder:
		d.fail(o.place("ref"), "rename the folder to "+quoted(ref)+", or the ref to "+quoted(folder),
			"cannot use ref %s: the folder is named %s", quoted(ref), quoted(folder))
	}
	return ref
}

// packLabel reads the label; `name` stands in for it where it is absent, and means nothing else.
func (d *decoder) packLabel(o *mapping) string {
	label, name := o.str("label"), o.str("name")
	if label == "" {
		return name
	}
	return label
}

// configSchema takes the schema of the configuration from its own file.
func (d *decoder) configSchema(o *mapping, p *Pack, root *value) {
	if o.has("conf_schema", "config_schema") {
		key := "conf_schema"
		if !o.has(key) {
			key = "config_schema"
		}
		d.fail(o.place(key), "keep one of them", "cannot use %s: config.schema.yaml is there as well", key)
		return
	}
	places := Places{}
	root.register(places, Places{}, "")
	for pointer, place := range places {
		d.places["/conf_schema"+pointer] = place
	}
	p.ConfSchema = d.schema(root.plain(), true, "config.schema.yaml", func(pointer string) Place {
		return d.places.At("/conf_schema" + pointer)
	})
}
