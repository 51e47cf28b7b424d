package rule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/attune-io/attune/reconcile/manifest"
)

// maxTold is how many violations of a schema one message tells; the first few explain the rest.
const maxTold = 5

// fit makes the parameters that an action is queued with: defaults filled in, checked against the
// action's schema. The error names each misfit by pointer, with what was found and what is expected.
func fit(action *manifest.Action, values *manifest.Values) (json.RawMessage, error) {
	parameters := action.Parameters.ApplyDefaults(values.Parameters)
	for pointer := range values.Secrets {
		// A default where the secret will stand would be shown as if it had been used.
		name := unescape(strings.TrimPrefix(pointer, "/"))
		if _, given := values.Parameters[name]; !given && !strings.Contains(pointer[1:], "/") {
			delete(parameters, name)
		}
	}
	if misfits := action.Parameters.ValidateUnresolved(parameters, values.Secrets); len(misfits) > 0 {
		return nil, errors.New(told(misfits))
	}
	if err := action.CheckEnvironment(parameters); err != nil {
		return nil, err
	}
	data, err := json.Marshal(parameters)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the parameters: %v", err)
	}
	return data, nil
}

// unescape reads one step of a JSON pointer (RFC 6901).
func unescape(step string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
}

// told puts violations into one line.
func told(misfits []manifest.SchemaError) string {
	var b strings.Builder
	for i, misfit := range misfits {
		if i == maxTold {
			fmt.Fprintf(&b, "; and %d more", len(misfits)-maxTold)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		if misfit.Pointer != "" {
			b.WriteString(misfit.Pointer)
			b.WriteString(": ")
		}
		b.WriteString(misfit.Message)
	}
	return b.String()
}

// decodeNumbers reads JSON as schemas see it: numbers keep their digits.
func decodeNumbers(data []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	return value, nil
}
