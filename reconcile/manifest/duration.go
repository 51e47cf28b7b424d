package manifest

import (
	"errors"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span as manifests write it: seconds, or "1m30s". Its JSON form is a number of
// seconds, which is also what a manifest may say, so that a model reads its own output back.
type Duration time.Duration

// String gives the form that people write, "1m30s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON gives the exact number of seconds, to the nanosecond.
func (d Duration) MarshalJSON() ([]byte, error) {
	sign, ns := "", uint64(d)
	if d < 0 {
		sign, ns = "-", -uint64(d)
	}
	const second = uint64(time.Second)
	text := sign + strconv.FormatUint(ns/second, 10)
	if fraction := ns % second; fraction != 0 {
		digits := strconv.FormatUint(second+fraction, 10)[1:] // the leading 1 keeps the zeros
		text += "." + strings.TrimRight(digits, "0")
	}
	return []byte(text), nil
}

// UnmarshalJSON reads a number of seconds, or a text as a manifest has it.
func (d *Duration) UnmarshalJSON(data []byte) error {
	text := string(data)
	if text == "null" {
		return nil
	}
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	parsed, err := parseDuration(text)
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// errTooLong is what parseDuration says of a span that nanoseconds in 64 bits cannot hold.
var errTooLong = errors.New("cannot read duration: more than 292 years")

var durationDays = regexp.MustCompile(`^(\d{1,6})d(.*)$`)

// parseDuration reads "90", "0.5", "1m30s" or "30d"; a number is seconds.
func parseDuration(text string) (Duration, error) {
	if decimalFloat.MatchString(text) {
		return seconds(text)
	}
	days := time.Duration(0)
	rest := text
	if m := durationDays.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > math.MaxInt64/int(24*time.Hour) {
			return 0, errTooLong
		}
		days, rest = time.Duration(n)*24*time.Hour, m[2]
	}
	if rest == "" && days > 0 {
		return Duration(days), nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || days > 0 && d < 0 {
		return 0, errorf("cannot read duration %s: expected seconds or a duration like 1m30s", quoted(text))
	}
	if days > math.MaxInt64-max(d, 0) {
		return 0, errTooLong
	}
	return Duration(days + d), nil
}

// seconds reads a decimal number of seconds exactly: a float64 would lose the nanoseconds of long
// spans, and then what was stored would differ from what was written.
func seconds(text string) (Duration, error) {
	const longest = 64 // characters; an exponent like 1e999999999 would take minutes to expand
	approximate, err := strconv.ParseFloat(text, 64)
	if err == nil && math.Abs(approximate) < 1e-9 {
		return 0, nil
	}
	if err != nil || len(text) > longest || math.Abs(approximate) > math.MaxInt64/1e9 || longExponent(text) {
		return 0, errTooLong
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, errorf("cannot read duration %s: expected seconds", quoted(text))
	}
	r.Mul(r, new(big.Rat).SetInt64(int64(time.Second)))
	ns := new(big.Int).Quo(r.Num(), r.Denom())
	if !ns.IsInt64() {
		return 0, errTooLong
	}
	return Duration(ns.Int64()), nil
}

// longExponent says whether the number has an exponent of more than two digits.
func longExponent(text string) bool {
	_, exponent, found := strings.Cut(strings.ToLower(text), "e")
	return found && len(strings.TrimLeft(exponent, "+-0")) > 2
}
