package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/attune-io/attune/daemon/api"
)

// apiDocument is the OpenAPI document, as far as the walk goes by it.
type apiDocument struct {
	Paths      map[string]map[string]apiOperation
	Components struct{ Schemas map[string]any }
}

type apiOperation struct {
	OperationID string
	Parameters  []struct {
		Name, In string
		Schema   map[string]any
	}
	RequestBody struct {
		Content map[string]struct{ Schema map[string]any }
	}
	Responses map[string]struct {
		Content map[string]struct{ Schema map[string]any }
	}
}

// hostile are values that schemas do not think of.
func hostile() []any {
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	return []any{
		nil, true, -1, 0, 1.5, 9223372036854775807, json.Number("9223372036854775808"), json.Number("1e400"), "", "x", "\x00", "\U0010ffff", "../../etc/passwd", "'; DROP TABLE attune.queue; --",
		strings.Repeat("x", 5000),
		[]any{},
		[]any{nil},
		map[string]any{},
		map[string]any{"": nil},
		json.RawMessage(deep),
	}
}

// walk throws valid and invalid requests at the operations that a document describes.
type walk struct {
	t        *testing.T
	document apiDocument
	compiled *jsonschema.Compiler
	http     *http.Client
	asked    int
	statuses map[int]int
}

// Every answer to whatever request fits the document, and none is the daemon's mistake.
func TestAPIWalk(t *testing.T) {
	t.Parallel()
	r := start(t)
	if _, err := r.client.Execute(t.Context(), api.NewExecution{Action: "demo.greet", Parameters: map[string]any{"name": "x"}}); err != nil {
		t.Fatal(err)
	}
	text, err := r.client.Document(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	w := &walk{t: t, compiled: jsonschema.NewCompiler(), statuses: map[int]int{}, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", r.server.Socket())
		},
	}}}
	defer w.http.CloseIdleConnections()
	if err := json.Unmarshal(text, &w.document); err != nil {
		t.Fatal(err)
	}
	if err := w.compiled.AddResource("api.json", whole); err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(w.document.Paths)) {
		for method, op := range w.document.Paths[path] {
			w.operation(path, strings.ToUpper(method), &op)
			if op.OperationID == "pause" {
				if _, err := r.client.Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Logf("%d requests, answers %v", w.asked, w.statuses)
	if w.asked < 1500 || w.statuses[200] < 100 || w.statuses[400]+w.statuses[422] < 300 {
		t.Errorf("%d requests gave %v: the document is not walked", w.asked, w.statuses)
	}
}

func (w *walk) operation(path, method string, op *apiOperation) {
	fill := func(ref, id string) string {
		return strings.NewReplacer("{ref}", url.PathEscape(ref), "{id}", url.PathEscape(id), "{name}", url.PathEscape(ref)).Replace(path)
	}
	ref := "demo"
	for part, one := range map[string]string{"/actions": "demo.greet", "/triggers": "demo.called", "/sensors": "demo.once", "/rules": "demo.on_call"} {
		if strings.HasPrefix(path, part) {
			ref = one
		}
	}
	good := fill(ref, "1")
	var body any
	schema := w.resolve(op.RequestBody.Content["application/json"].Schema)
	if schema != nil {
		body = w.example(schema, op.OperationID)
	}
	w.ask(op, path, method, good, nil, body)
	if good != path {
		for _, text := range []string{"nothing", "demo.nothing", "a/b", "\x00", "..", "é", strings.Repeat("x", 3000)} {
			w.ask(op, path, method, fill(text, "1"), nil, body)
		}
		for _, id := range []string{"0", "-1", "x", "999999999999", "9223372036854775807", "9223372036854775808", "1e3", " 1"} {
			w.ask(op, path, method, fill(ref, id), nil, body)
		}
	}
	for _, p := range op.Parameters {
		if p.In != "query" || p.Name == "follow" {
			continue
		}
		for _, value := range []string{"", "1", "0", "-1", "true", "x", "demo", "1h", "99999999999999999999", "\x00", "é", strings.Repeat("9", 300)} {
			w.ask(op, path, method, good, url.Values{p.Name: {value}}, body)
		}
	}
	w.ask(op, path, method, good, url.Values{"nobody_knows": {"1"}}, body)
	if schema == nil {
		return
	}
	for _, text := range []string{"", "{", "null", "[]", `"x"`, "{}", `{"nobody_knows": 1}`, strings.Repeat("[", 20000)} {
		w.ask(op, path, method, good, nil, json.RawMessage(text))
	}
	object, ok := body.(map[string]any)
	if !ok {
		return
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		for _, value := range hostile() {
			changed := maps.Clone(object)
			changed[name] = value
			w.ask(op, path, method, good, nil, changed)
		}
		without := maps.Clone(object)
		delete(without, name)
		w.ask(op, path, method, good, nil, without)
	}
}

// resolve follows a reference.
func (w *walk) resolve(schema map[string]any) map[string]any {
	name, ok := schema["$ref"].(string)
	if !ok {
		return schema
	}
	found, _ := w.document.Components.Schemas[strings.TrimPrefix(name, "#/components/schemas/")].(map[string]any)
	return found
}

// example makes what a schema asks for and no more, with what has a meaning here.
func (w *walk) example(schema map[string]any, operation string) any {
	schema = w.resolve(schema)
	known := map[string]any{
		"action_ref": "demo.greet", "kind": "rule", "refs": []any{"demo.on_call"}, "name": "walk", "since": "2026-01-01T00:00:00Z", "manifest": "trigger: demo.called\naction: demo.greet\n",
	}
	switch kind := schema["type"]; kind {
	case "object":
		object := map[string]any{}
		required, _ := schema["required"].([]any)
		properties, _ := schema["properties"].(map[string]any)
		for _, name := range required {
			text, _ := name.(string)
			property, _ := properties[text].(map[string]any)
			if value, ok := known[text]; ok {
				object[text] = value
			} else {
				object[text] = w.example(property, operation)
			}
		}
		if operation == "cancel-executions" || operation == "rerun-executions" {
			object["dry_run"], object["all"] = true, true
		}
		return object
	case "array":
		items, _ := schema["items"].(map[string]any)
		return []any{w.example(items, operation)}
	case "integer", "number":
		return 1
	case "boolean":
		return false
	default:
		if values, _ := schema["enum"].([]any); len(values) > 0 {
			return values[0]
		}
		if list, ok := kind.([]any); ok && len(list) > 0 && list[0] == "array" {
			items, _ := schema["items"].(map[string]any)
			return []any{w.example(items, operation)}
		}
		return "x"
	}
}

// ask sends a request and holds its answer to the document.
func (w *walk) ask(op *apiOperation, path, method, target string, query url.Values, body any) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	var reader io.Reader
	var sent []byte
	if body != nil {
		var err error
		if raw, ok := body.(json.RawMessage); ok {
			sent = raw
		} else if sent, err = json.Marshal(body); err != nil {
			return // what cannot be written cannot be sent
		}
		reader = bytes.NewReader(sent)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://attune/api/v1"+target+"?"+query.Encode(), reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := w.http.Do(request)
	if err != nil {
		w.t.Fatalf("%s %s %.200s: %v", method, target, sent, err)
	}
	defer response.Body.Close()
	w.asked++
	w.statuses[response.StatusCode]++
	said := fmt.Sprintf("%s %.100s %s %.300s: %d", method, target, query.Encode(), sent, response.StatusCode)
	if response.StatusCode >= http.StatusInternalServerError {
		text, _ := io.ReadAll(response.Body)
		w.t.Errorf("%s %.500s", said, text)
		return
	}
	kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	code := fmt.Sprint(response.StatusCode)
	if _, ok := op.Responses[code]; !ok {
		code = "default"
	}
	if response.StatusCode >= http.StatusMovedPermanently && response.StatusCode < http.StatusBadRequest {
		return // to the cleaned path
	}
	if _, ok := op.Responses[code].Content[kind]; !ok {
		if response.StatusCode == http.StatusNotFound && target != path {
			return // what was put in is no part of a path
		}
		w.t.Errorf("%s: the document knows no answer of type %q", said, kind)
		return
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1").Replace
	pointer := "api.json#/paths/" + url.PathEscape(escape(path)) + "/" + strings.ToLower(method) + "/responses/" + code + "/content/" + url.PathEscape(escape(kind)) + "/schema"
	checked, err := w.compiled.Compile(pointer)
	if err != nil {
		w.t.Fatalf("%s: %v", pointer, err)
	}
	check := func(text []byte) {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err == nil {
			err = checked.Validate(value)
		}
		if err != nil {
			w.t.Errorf("%s: the answer does not fit the document: %v\n%.500s", said, err, text)
		}
	}
	if kind == "text/event-stream" {
		check(firstEvent(w.t, response.Body))
		return
	}
	if kind != "application/x-ndjson" {
		text, err := io.ReadAll(response.Body)
		if err != nil {
			w.t.Errorf("%s: %v", said, err)
		}
		check(text)
		return
	}
	// A stream may have no end; its beginning tells.
	lines := bufio.NewReader(response.Body)
	if line, err := lines.ReadBytes('\n'); err == nil {
		check(line)
	}
}

// firstEvent is the first server-sent event, in the form in which the document describes it.
func firstEvent(t *testing.T, body io.Reader) []byte {
	t.Helper()
	event := map[string]any{}
	for lines := bufio.NewScanner(body); lines.Scan() && lines.Text() != ""; {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		if event[name] = value; name == "data" {
			event[name] = json.RawMessage(value)
		}
	}
	text, err := json.Marshal(event)
	if err != nil {
		t.Errorf("an event that is none: %v", err)
	}
	return text
}
