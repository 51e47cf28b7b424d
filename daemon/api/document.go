package api

import (
	"html/template"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// tellNull says of the fields that may be null that they may: huma does so for plain values, and not for objects.
func tellNull(registry huma.Registry) {
	for name, schema := range registry.Map() {
		tellNullIn(schema, registry.TypeFromRef("#/components/schemas/"+name))
	}
}

func tellNullIn(schema *huma.Schema, t reflect.Type) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return
	}
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name == "" {
			tellNullIn(schema, field.Type)
			continue
		}
		property := schema.Properties[name]
		if property == nil || field.Type.Kind() != reflect.Pointer || strings.Contains(options, "omitempty") {
			continue
		}
		switch {
		case property.Ref != "":
			schema.Properties[name] = &huma.Schema{
				Description: property.Description, AnyOf: []*huma.Schema{{Ref: property.Ref}, {Type: "null"}},
			}
		case property.Type == huma.TypeObject:
			property.Nullable = true
		}
	}
}

// page is the document for people to read: one page that needs nothing from elsewhere.
func (s *Server) page(document *huma.OpenAPI) http.HandlerFunc {
	type operation struct {
		Method, Path string
		*huma.Operation
	}
	var operations []operation
	for _, path := range slices.Sorted(maps.Keys(document.Paths)) {
		item := document.Paths[path]
		for _, one := range []operation{{"GET", path, item.Get}, {"POST", path, item.Post}} {
			if one.Operation != nil {
				operations = append(operations, one)
			}
		}
	}
	codes := make([]Code, 0, len(statuses))
	for code := range statuses {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		// Whoever has gone away does not read it.
		_ = pageTemplate.Execute(w, map[string]any{
			"Info": document.Info, "Prefix": prefix, "Operations": operations, "Codes": codes, "Statuses": statuses,
		})
	}
}

var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Info.Title}} {{.Info.Version}}</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code{font:13px ui-monospace,monospace}summary{cursor:pointer}table{border-collapse:collapse}td,th{text-align:left;padding:.1rem 1rem .1rem 0;vertical-align:top}
details{border-top:1px solid #8884;padding:.3rem 0}.m{display:inline-block;width:3.5rem}
</style></head><body><h1>{{.Info.Title}} {{.Info.Version}}</h1><p>{{.Info.Description}}</p>
<p>All paths are below <code>{{.Prefix}}</code>. The whole with all schemas, for programs: <code>{{.Prefix}}/openapi.json</code>.</p>
{{range .Operations}}<details><summary><code><span class="m">{{.Method}}</span>{{.Path}}</code> {{.Summary}}</summary>
<p>{{.Operation.Description}}</p>{{if .Parameters}}<table>{{range .Parameters}}<tr><td><code>{{.Name}}</code></td><td>{{.In}}</td><td>{{.Description}}</td></tr>
{{end}}</table>{{end}}</details>
{{end}}<h2>Errors</h2><p>Every error is a problem document (<code>application/problem+json</code>) with a <code>code</code> that stays:</p>
<table>{{range .Codes}}<tr><td><code>{{.}}</code></td><td>{{index $.Statuses .}}</td></tr>
{{end}}</table></body></html>
`))
