package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// spreadFields are the values that H may take in each of the six fields of a cron expression. A day of
// month ends at 28, so that none is left out in February.
var spreadFields = []struct {
	name             string
	first, last, end int // of H alone, and the last that a range may name
}{
	{"second", 0, 59, 59},
	{"minute", 0, 59, 59},
	{"hour", 0, 23, 23},
	{"day of month", 1, 28, 31},
	{"month", 1, 12, 12},
	{"day of week", 0, 6, 6},
}

// spreadElement is an element of a field's list: H, H(0-29), H/15 or H(0-29)/10.
var spreadElement = regexp.MustCompile(`^[hH](?:\((\d{1,2})-(\d{1,2})\))?(?:/(\d{1,2}))?$`)

// SpreadCron puts a number for each H of a cron expression: one that differs from key to key, and is the
// same for a key for ever. So many rules that ask for once an hour are not all due in one second. An
// expression without H, and one that cannot be read, is given back as it is.
func SpreadCron(expression, key string) string {
	fields := strings.Fields(expression)
	shift := len(spreadFields) - len(fields)
	if shift != 0 && shift != 1 || !strings.ContainsAny(expression, "hH") {
		return expression
	}
	changed := false
	for i, field := range fields {
		spread, err := SpreadField(i+shift, field, key)
		if err != nil {
			return expression
		}
		changed = changed || spread != field
		fields[i] = spread
	}
	if !changed {
		return expression
	}
	return strings.Join(fields, " ")
}

// SpreadField is SpreadCron for the field at a place among six, of which the first is the seconds.
func SpreadField(place int, field, key string) (string, error) {
	elements := strings.Split(field, ",")
	for i, element := range elements {
		if element == "" || element[0] != 'h' && element[0] != 'H' {
			continue
		}
		spread, err := spreadOne(place, element, key)
		if err != nil {
			return "", err
		}
		elements[i] = spread
	}
	return strings.Join(elements, ","), nil
}

func spreadOne(place int, element, key string) (string, error) {
	f := spreadFields[place]
	m := spreadElement.FindStringSubmatch(element)
	if m == nil {
		return "", fmt.Errorf("expected H, a range of it like H(0-29) or a step like H/15")
	}
	first, last := f.first, f.last
	if m[1] != "" {
		first, _ = strconv.Atoi(m[1]) // two digits always are a number
		last, _ = strconv.Atoi(m[2])
	}
	if first < f.first || last > f.end || first > last {
		return "", fmt.Errorf("found a range from %d to %d, expected one within %d to %d", first, last, f.first, f.end)
	}
	size := last - first + 1
	// The field is part of the digest: H H would else move its minutes and hours together.
	sum := sha256.Sum256([]byte(key + "\x00" + f.name))
	draw := binary.BigEndian.Uint64(sum[:])
	if m[3] == "" {
		return strconv.Itoa(first + int(draw%uint64(size))), nil
	}
	step, _ := strconv.Atoi(m[3])
	if step < 1 || step > size {
		return "", fmt.Errorf("found a step of %d, expected 1 to %d", step, size)
	}
	var values []string
	for v := first + int(draw%uint64(step)); v <= last; v += step {
		values = append(values, strconv.Itoa(v))
	}
	return strings.Join(values, ","), nil
}
