package manifest

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"
)

// plainValue makes a value of an expression one of JSON: a time is a text as RFC 3339 has it, a
// duration one like "1m30s", whole numbers are int64. The result shares nothing with the event.
func plainValue(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int64:
		return v, nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("found %v, expected a number that JSON can say", v)
		}
		return v, nil
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	case time.Duration:
		return v.String(), nil
	case []byte:
		return string(v), nil
	case SecretRef:
		return nil, fmt.Errorf("found secret %s, expected it alone as a parameter: \"{{ pack.config.… }}\" and nothing else", quoted(v.name))
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, item := range v {
			plain, err := plainValue(item)
			if err != nil {
				return nil, err
			}
			m[key] = plain
		}
		return m, nil
	}
	if number, ok := plainNumber(v); ok {
		return number, nil
	}
	return plainContainer(v)
}

// plainContainer handles the lists and maps that functions of expr make.
func plainContainer(v any) (any, error) {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice, reflect.Array:
		list := make([]any, r.Len())
		for i := range list {
			plain, err := plainValue(r.Index(i).Interface())
			if err != nil {
				return nil, err
			}
			list[i] = plain
		}
		return list, nil
	case reflect.Map:
		m := make(map[string]any, r.Len())
		for entry := r.MapRange(); entry.Next(); {
			key, err := printValue(entry.Key().Interface())
			if err != nil {
				return nil, err
			}
			if m[key], err = plainValue(entry.Value().Interface()); err != nil {
				return nil, err
			}
		}
		return m, nil
	}
	return nil, fmt.Errorf("found a %T, which is no value", v)
}

// plainDigits is the size from which a number is written with an exponent: beyond it the digits would
// be padding, and nobody reads them.
const plainDigits = 1e21

// printValue prints a value into text: a text as it is, numbers without an exponent, objects and lists
// as JSON, nil as nothing.
func printValue(v any) (string, error) {
	plain, err := plainValue(v)
	if err != nil {
		return "", err
	}
	switch p := plain.(type) {
	case nil:
		return "", nil
	case string:
		return p, nil
	case bool:
		return strconv.FormatBool(p), nil
	case int64:
		return strconv.FormatInt(p, 10), nil
	case float64:
		if math.Abs(p) < plainDigits {
			return strconv.FormatFloat(p, 'f', -1, 64), nil
		}
	}
	text, err := compactJSON(plain)
	return string(text), err
}
