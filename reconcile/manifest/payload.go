package manifest

import (
	"bytes"
	"encoding/json"
)

// exactDigits is the length from which a whole number may be beyond 2^53.
const exactDigits = 16

// DecodePayload reads an event's payload as expressions see it: an object whose numbers are float64,
// but for the whole ones beyond 2^53, which keep their digits as int64 as long as those have room for
// them. An empty payload is an empty object.
func DecodePayload(payload json.RawMessage) (map[string]any, error) {
	if len(payload) == 0 {
		return map[string]any{}, nil
	}
	var decoded map[string]any
	if !hasLongNumber(payload) {
		if err := json.Unmarshal(payload, &decoded); err != nil {
			return nil, errorf("cannot read the event's payload: %v", err)
		}
		return decoded, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	if err := decoder.Decode(&decoded); err != nil {
		return nil, errorf("cannot read the event's payload: %v", err)
	}
	for key, v := range decoded {
		number, err := payloadNumbers(v)
		if err != nil {
			return nil, err
		}
		decoded[key] = number
	}
	return decoded, nil
}

// hasLongNumber says whether there is a run of digits so long that a float64 may not hold it. Reading
// numbers as texts first costs twice the time, and nearly no payload needs it.
func hasLongNumber(payload []byte) bool {
	run := 0
	for _, c := range payload {
		if c < '0' || c > '9' {
			run = 0
			continue
		}
		if run++; run == exactDigits {
			return true
		}
	}
	return false
}

func payloadNumbers(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return payloadNumber(i), nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, errorf("cannot read the event's payload: %s is no number that can be used", v)
		}
		return f, nil
	case []any:
		for i := range v {
			item, err := payloadNumbers(v[i])
			if err != nil {
				return nil, err
			}
			v[i] = item
		}
	case map[string]any:
		for key := range v {
			item, err := payloadNumbers(v[key])
			if err != nil {
				return nil, err
			}
			v[key] = item
		}
	}
	return v, nil
}

// payloadNumber is a whole number as payloads have it.
func payloadNumber(i int64) any {
	if i > maxExactFloat || i < -maxExactFloat {
		return i
	}
	return float64(i)
}
