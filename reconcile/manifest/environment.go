package manifest

import (
	"bytes"
	"encoding/json"
)

// MaxEnvironment is how much of an environment parameters may take, in bytes: the kernel takes 128 KiB
// for one variable, and what stands beside them needs room too.
const MaxEnvironment = 120 << 10

// CheckEnvironment refuses parameters that an action wants by the environment alone and that have no
// room there: better when they are queued than at each attempt.
func (a *Action) CheckEnvironment(parameters map[string]any) error {
	if a.ParameterDelivery != DeliverEnv {
		return nil
	}
	size := 0
	for name, value := range parameters {
		if value == nil {
			continue
		}
		size += len("ATTUNE_ACTION_") + len(variableName(name)) + len("=") + textSize(value) + len("\x00")
	}
	if size > MaxEnvironment {
		return errorf("cannot hand %d bytes of parameters over by the environment: expected at most %d; write parameter_delivery: stdin", size, MaxEnvironment)
	}
	return nil
}

// textSize is the length of a string, and of anything else as JSON.
func textSize(value any) int {
	if text, ok := value.(string); ok {
		return len(text)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil {
		return 0
	}
	return b.Len() - len("\n")
}
