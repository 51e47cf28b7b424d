package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/seal"
)

// What ATTUNE_PARAMETER_DELIVERY says where the manifest says nothing; where the parameters are too
// large for the environment it says manifest.DeliverStdin instead.
const deliverBoth = "both"

// The formats of parameters on stdin and in a file.
const (
	formatJSON   = "json"
	formatDotenv = "dotenv"
	formatYAML   = "yaml"
)

// delivery is how the parameters of one attempt reach its child.
type delivery struct {
	kind   string            // what ATTUNE_PARAMETER_DELIVERY says
	format string            // what ATTUNE_PARAMETER_FORMAT says
	env    map[string]string // by variable
	stdin  []byte            // nil: empty
	file   []byte            // nil: no file
}

// deliver lays parameters out as the action wants them. secret tells which of them are not for an
// environment, which every process of the same user can read.
func deliver(action *manifest.Action, parameters map[string]any, secret func(name string) bool) (*delivery, error) {
	d := &delivery{kind: action.ParameterDelivery, format: action.ParameterFormat}
	if d.format == "" {
		d.format = formatJSON
	}
	if d.kind == manifest.DeliverBoth {
		d.kind = deliverBoth
	}
	if d.kind != manifest.DeliverEnv {
		text, err := formatParameters(d.format, parameters)
		if err != nil {
			return nil, fmt.Errorf("cannot write the parameters as %s: %w", d.format, err)
		}
		if d.kind == manifest.DeliverFile {
			d.file = text
			return d, nil
		}
		d.stdin = text
	}
	if d.kind == manifest.DeliverStdin {
		return d, nil
	}
	var size int
	d.env, size = parameterVariables(parameters, func(name string) bool {
		return d.kind == deliverBoth && secret(name)
	})
	if size <= manifest.MaxEnvironment {
		return d, nil
	}
	if d.kind == manifest.DeliverEnv {
		return nil, fmt.Errorf("cannot hand the parameters over by the environment: they take %d bytes, expected at most %d; write parameter_delivery: stdin", size, manifest.MaxEnvironment)
	}
	d.kind, d.env = manifest.DeliverStdin, nil
	return d, nil
}

// parameterVariables makes the variables, and tells the bytes that the kernel counts for them.
func parameterVariables(parameters map[string]any, leaveOut func(name string) bool) (env map[string]string, size int) {
	env = map[string]string{}
	for name, value := range parameters {
		if value == nil || leaveOut(name) {
			continue
		}
		key, text := "ATTUNE_ACTION_"+child.Key(name), plainText(value)
		env[key] = text
		size += len(key) + len("=") + len(text) + len("\x00")
	}
	return env, size
}

// plainText is a string as it is, and anything else as JSON.
func plainText(value any) string {
	if text, ok := value.(string); ok {
		return text
	}
	text, err := encodeJSON(value)
	if err != nil {
		return "" // what came as JSON goes as JSON
	}
	return string(text)
}

func encodeJSON(value any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func formatParameters(format string, parameters map[string]any) ([]byte, error) {
	if parameters == nil {
		parameters = map[string]any{}
	}
	switch format {
	case formatDotenv:
		var b bytes.Buffer
		writeDotenv(&b, "", parameters)
		return b.Bytes(), nil
	case formatYAML:
		return manifest.FormatYAML(parameters)
	default:
		text, err := encodeJSON(parameters)
		return append(text, '\n'), err
	}
}

// writeDotenv writes key='value' lines, nested keys joined by dots. A quote inside a value is written
// as a shell reads it.
func writeDotenv(b *bytes.Buffer, prefix string, parameters map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		value := parameters[name]
		if nested, ok := value.(map[string]any); ok && len(nested) > 0 {
			writeDotenv(b, prefix+name+".", nested)
			continue
		}
		if value == nil {
			continue
		}
		fmt.Fprintf(b, "%s%s='%s'\n", prefix, name, strings.ReplaceAll(plainText(value), "'", `'\''`))
	}
}

// fillSecrets puts the values of secrets where their JSON pointers say, and gives what is not to be
// shown of them.
func fillSecrets(parameters map[string]any, secrets map[string]string, resolve func(pointer, text string) (any, error)) (texts []string, err error) {
	for _, pointer := range slices.Sorted(maps.Keys(secrets)) {
		value, err := resolve(pointer, secrets[pointer])
		if err != nil {
			return nil, fmt.Errorf("cannot use %s for parameter %s: %w", called(secrets[pointer]), dotted(pointer), err)
		}
		if err := put(parameters, pointer, value); err != nil {
			return nil, fmt.Errorf("cannot put %s into parameter %s: %w", called(secrets[pointer]), dotted(pointer), err)
		}
		texts = append(texts, manifest.Texts(value)...)
	}
	return texts, nil
}

// called is what a secret is called in messages: nobody reads a ciphertext.
func called(text string) string {
	if seal.IsSealed(text) {
		return "the encrypted value"
	}
	return fmt.Sprintf("secret %q", text)
}

// put sets a value inside a tree. Maps on the way that are absent are made.
func put(root map[string]any, pointer string, value any) error {
	path := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	var at any = root
	for i, segment := range path {
		segment = strings.ReplaceAll(strings.ReplaceAll(segment, "~1", "/"), "~0", "~")
		last := i == len(path)-1
		switch node := at.(type) {
		case map[string]any:
			switch {
			case last:
				node[segment] = value
			case node[segment] == nil:
				node[segment] = map[string]any{}
			}
			at = node[segment]
		case []any:
			place, err := strconv.Atoi(segment)
			if err != nil || place < 0 || place >= len(node) {
				return fmt.Errorf("there is no element %s", segment)
			}
			if last {
				node[place] = value
			}
			at = node[place]
		default:
			return fmt.Errorf("what is above %s is no object and no list", segment)
		}
	}
	return nil
}

// secretNames tells which parameters are secret, or have something secret in them.
func secretNames(schema *manifest.Schema, secrets map[string]string) func(name string) bool {
	names := map[string]bool{}
	add := func(pointer string) {
		first, _, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
		names[first] = true
	}
	for pointer := range secrets {
		add(pointer)
	}
	for _, pointer := range schema.Secrets() {
		add(pointer)
	}
	return func(name string) bool { return names["*"] || names[escapePointer(name)] }
}

func escapePointer(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// dotted is a JSON pointer for people.
func dotted(pointer string) string {
	return strings.ReplaceAll(strings.TrimPrefix(pointer, "/"), "/", ".")
}
