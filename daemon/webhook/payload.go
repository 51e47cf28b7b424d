package webhook

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/attune-io/attune/reconcile/manifest"
)

// payload is what rules see of a request.
type payload struct {
	Body any `json:"body"`
	// Encoding is base64 where the body is no text.
	Encoding string            `json:"body_encoding,omitempty"`
	Headers  map[string]string `json:"headers"`
	Query    map[string]any    `json:"query"`
	Method   string            `json:"method"`
	Remote   string            `json:"remote"`
}

// proofs are the headers that prove who sends, or that are somebody's secret: no event has them.
var proofs = []string{
	"Authorization", "Proxy-Authorization", "Cookie", "X-Attune-Token", "X-Gitlab-Token", "X-Hub-Signature", "X-Hub-Signature-256",
	"Stripe-Signature", "X-Slack-Signature", "Webhook-Signature", "Svix-Signature",
}

// payloadOf makes the payload of a request; problem says how its body is not what its type promises.
func payloadOf(r *http.Request, body []byte, remote string, spec *manifest.Verify) (encoded json.RawMessage, problem string) {
	p := payload{Headers: map[string]string{}, Query: oneOrMany(r.URL.Query()), Method: r.Method, Remote: remote}
	for name, values := range r.Header {
		if slices.Contains(proofs, name) || spec != nil && spec.Header != "" && name == http.CanonicalHeaderKey(spec.Header) {
			continue
		}
		p.Headers[strings.ToLower(name)] = strings.ToValidUTF8(strings.Join(values, ", "), "�")
	}
	p.Body, problem = parse(r.Header.Get("Content-Type"), body)
	if raw, ok := p.Body.([]byte); ok {
		p.Body = string(raw)
		if !utf8.Valid(raw) {
			p.Body, p.Encoding = base64.StdEncoding.EncodeToString(raw), "base64"
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(p); err != nil {
		// Every part is a text, or JSON that was found valid.
		return json.RawMessage("{}"), "cannot encode the request: " + err.Error()
	}
	return bytes.TrimSpace(text.Bytes()), problem
}

// parse reads a body by its type. What looks like JSON is taken for it whatever its type, for curl calls
// everything a form. What cannot be read stays bytes.
func parse(contentType string, body []byte) (value any, problem string) {
	kind, parameters, _ := mime.ParseMediaType(contentType)
	text := bytes.TrimSpace(body)
	isJSON := kind == "application/json" || kind == "text/json" || strings.HasSuffix(kind, "+json")
	switch {
	case len(text) == 0:
		return nil, ""
	case isJSON, text[0] == '{' && kind != "multipart/form-data", text[0] == '[' && kind != "multipart/form-data":
		if utf8.Valid(text) && json.Valid(text) {
			return json.RawMessage(text), ""
		}
		if isJSON {
			return body, "the body is no JSON, although its type says so"
		}
		return body, ""
	case kind == "application/x-www-form-urlencoded" && utf8.Valid(text):
		values, err := url.ParseQuery(string(text))
		if err != nil {
			return body, "the body is no form, although its type says so"
		}
		return oneOrMany(values), ""
	case kind == "multipart/form-data":
		values, err := parts(body, parameters["boundary"])
		if err != nil {
			return body, "the body is no form, although its type says so"
		}
		return values, ""
	}
	return body, ""
}

// oneOrMany gives a value alone, and several of one name as a list.
func oneOrMany(values url.Values) map[string]any {
	all := make(map[string]any, len(values))
	for name, list := range values {
		name = valid(name)
		for i := range list {
			list[i] = valid(list[i])
		}
		all[name] = list
		if len(list) == 1 {
			all[name] = list[0]
		}
	}
	return all
}

func valid(text string) string { return strings.ToValidUTF8(text, "�") }

// maxParts bounds the parts of a form: each costs more than its bytes.
const maxParts = 1000

// parts reads the fields of a form with parts. A file is an object with its name, type and content.
func parts(body []byte, boundary string) (map[string]any, error) {
	if boundary == "" {
		return nil, errors.New("there is no boundary")
	}
	fields := map[string][]any{}
	reader := multipart.NewReader(bytes.NewReader(body), boundary)
	for range maxParts {
		part, err := reader.NextPart()
		if errors.Is(err, io.EOF) {
			all := make(map[string]any, len(fields))
			for name, list := range fields {
				all[name] = list
				if len(list) == 1 {
					all[name] = list[0]
				}
			}
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(part) // it is in memory already
		if err != nil {
			return nil, err
		}
		name := valid(part.FormName())
		if part.FileName() == "" {
			fields[name] = append(fields[name], valid(string(content)))
			continue
		}
		file := map[string]any{"filename": valid(part.FileName()), "content_type": valid(part.Header.Get("Content-Type")), "content": string(content)}
		if !utf8.Valid(content) {
			file["content"], file["encoding"] = base64.StdEncoding.EncodeToString(content), "base64"
		}
		fields[name] = append(fields[name], file)
	}
	return nil, errors.New("there are too many parts")
}
