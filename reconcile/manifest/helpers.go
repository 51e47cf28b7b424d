package manifest

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/conf"
)

// What text costs, in bytes for each node of work: reading it takes time, making it takes memory, and
// so what one evaluation can make is bounded to 40 MB.
const (
	textUnit = 32
	madeUnit = 4
)

// spendMade counts what a function made.
func (w *work) spendMade(v any) error {
	if s, ok := v.(string); ok {
		return w.spend(len(s) / madeUnit)
	}
	return w.spend(sizeOf(v))
}

// helper is a function of the language. Its arguments follow the work that they cost.
type helper func(w *work, args []any) (any, error)

// addFunctions makes every function of expr one of ours: with nil for its first argument it gives nil
// (or false), what it costs is counted, and its result does not depend on the order of a map. repeat
// is left out: a text repeated often enough fills the memory before anything counts it.
func addFunctions(config *conf.Config) {
	config.Disabled["repeat"] = true
	for _, b := range builtin.Builtins {
		if !b.Predicate && !config.Disabled[b.Name] {
			addFunction(config, b, wrap(b))
		}
	}
	for name, own := range ownFunctions() {
		f := &builtin.Function{Name: name}
		for _, signature := range own.signatures {
			f.Types = append(f.Types, reflect.TypeOf(signature))
		}
		addFunction(config, f, own.call)
	}
	for name, f := range operatorFunctions() {
		config.Functions[name] = &builtin.Function{Name: name, Func: f}
	}
}

// addFunction registers a function twice: under its name, for the parser and the first check of the
// types, and as $name, which is what the rewritten tree calls.
func addFunction(config *conf.Config, f *builtin.Function, call helper) {
	config.Functions[f.Name] = &builtin.Function{
		Name: f.Name, Types: f.Types, Validate: f.Validate, Deref: f.Deref,
		Func: func(...any) (any, error) { return nil, fmt.Errorf("%s was not bound", f.Name) },
	}
	config.Functions["$"+f.Name] = &builtin.Function{Name: "$" + f.Name, Func: withWork(call)}
}

func withWork(call helper) func(...any) (any, error) {
	return func(args ...any) (any, error) { return call(args[0].(*work), args[1:]) }
}

// wrap makes a helper of a function of expr.
func wrap(b *builtin.Function) helper {
	condition := len(b.Types) > 0 && b.Types[0].NumOut() > 0 && b.Types[0].Out(0).Kind() == reflect.Bool
	return func(w *work, args []any) (any, error) {
		if len(args) > 0 && args[0] == nil {
			if condition {
				return false, nil
			}
			return nil, nil
		}
		cost := 1
		for _, arg := range args {
			cost += sizeOf(arg)
		}
		if b.Name == "uniq" { // it compares each with each
			cost *= cost
		}
		if err := w.spend(cost); err != nil {
			return nil, err
		}
		var result any
		var err error
		switch {
		case b.Func != nil:
			result, err = b.Func(args...)
		case b.Safe != nil:
			result, _, err = b.Safe(args...)
		default:
			result = b.Fast(args[0])
		}
		if err != nil {
			return nil, err
		}
		return result, w.spendMade(result)
	}
}

// sizeOf is what a value counts as work, its members apart.
func sizeOf(v any) int {
	switch v := v.(type) {
	case string:
		return len(v) / textUnit
	case []any:
		return len(v)
	case map[string]any:
		return len(v)
	case nil, bool, int, int64, float64:
		return 0
	}
	if r := reflect.ValueOf(v); r.Kind() == reflect.Slice || r.Kind() == reflect.Map {
		return r.Len()
	}
	return 0
}

type ownFunction struct {
	call       helper
	signatures []any
}

// ownFunctions are those that expr lacks, and those where it does not do what users of templates
// expect.
func ownFunctions() map[string]ownFunction {
	length := ownFunction{lengthOf, []any{func(any) int { return 0 }}}
	toJSON := ownFunction{jsonOf, []any{func(any) string { return "" }}}
	first := func(any) any { return nil }
	return map[string]ownFunction{
		"now": {nil, []any{func() any { return nil }}}, // the rewriter puts the time itself in its place
		"default": {defaultOf, []any{
			func(any, any) any { return nil }, func(any, any, any) any { return nil }, func(any) any { return nil },
		}},
		"len": length, "length": length,
		"json": toJSON, "toJSON": toJSON,
		"string": {textOf, []any{func(any) string { return "" }}},
		"replace": {replaceOf, []any{
			func(string, string, string) string { return "" }, func(string, string, string, int) string { return "" },
		}},
		"join":     {joinOf, []any{func(any) string { return "" }, func(any, string) string { return "" }}},
		"first":    {func(w *work, args []any) (any, error) { return lookupValue(args[0], 0), nil }, []any{first}},
		"last":     {func(w *work, args []any) (any, error) { return lookupValue(args[0], -1), nil }, []any{first}},
		"get":      {getOf, []any{func(any, any) any { return nil }, func(any, any, any) any { return nil }}},
		"keys":     {keysOf, []any{func(any) []any { return nil }}},
		"values":   {valuesOf, []any{func(any) []any { return nil }}},
		"toPairs":  {pairsOf, []any{func(any) []any { return nil }}},
		"cidr":     {cidrOf, []any{func(any, any) bool { return false }}},
		"duration": {durationOf, []any{func(any) any { return nil }}},
	}
}

// operatorFunctions are what the rewriter puts in the place of operators. Their names begin with $$,
// those of functions with $.
func operatorFunctions() map[string]func(...any) (any, error) {
	list := map[string]func(...any) (any, error){
		"$$get":         func(args ...any) (any, error) { return lookupValue(args[0], args[1]), nil },
		"$$object":      objectOf,
		"$$slice":       sliceOf,
		"$$bool":        boolOf,
		"$$negate":      func(args ...any) (any, error) { return arithmetic("-", int64(0), args[0]) },
		"$$less":        ordered(func(c int) bool { return c < 0 }),
		"$$lessOrEqual": ordered(func(c int) bool { return c <= 0 }),
		"$$more":        ordered(func(c int) bool { return c > 0 }),
		"$$moreOrEqual": ordered(func(c int) bool { return c >= 0 }),
		"$$startsWith":  affix(strings.HasPrefix),
		"$$endsWith":    affix(strings.HasSuffix),
		"$$list":        withWork(listOf),
		"$$equal":       withWork(equalOf),
		"$$in":          withWork(inOf),
		"$$contains":    withWork(func(w *work, args []any) (any, error) { return inOf(w, []any{args[1], args[0]}) }),
		"$$matches":     withWork(matchesOf),
	}
	for function, operator := range map[string]string{
		"$$add": "+", "$$subtract": "-", "$$multiply": "*", "$$divide": "/", "$$modulo": "%", "$$power": "**",
	} {
		list[function] = withWork(func(w *work, args []any) (any, error) {
			if err := w.spendMade(args[0]); err != nil { // before the two are joined
				return nil, err
			}
			result, err := arithmetic(operator, args[0], args[1])
			if err != nil {
				return nil, err
			}
			return result, w.spendMade(result)
		})
	}
	return list
}

// objectOf makes an object of event, rule or pack where one stands for itself: {{ event | json }}.
func objectOf(args ...any) (any, error) {
	switch v := args[0].(type) {
	case eventScope:
		return map[string]any{"id": v.ID, "trigger": v.Trigger, "time": v.Time, "payload": v.Payload}, nil
	case ruleScope:
		return map[string]any{"ref": v.Ref}, nil
	case packScope:
		return map[string]any{"config": v.Config}, nil
	}
	return args[0], nil
}

// lookupValue gives a member of an object or an element of a list; nil where there is none, whatever
// the value is.
func lookupValue(from, key any) any {
	switch v := from.(type) {
	case nil:
		return nil
	case map[string]any:
		if name, ok := key.(string); ok {
			return v[name]
		}
		return nil
	case map[any][]any:
		return groupOf(v, key)
	}
	number, ok := numberOf(key)
	if !ok || number.float != math.Trunc(number.float) || math.Abs(number.float) > math.MaxInt32 {
		return nil
	}
	i := int(number.float)
	if text, ok := from.(string); ok {
		runes := []rune(text)
		if i = fromEnd(i, len(runes)); i >= 0 {
			return string(runes[i])
		}
		return nil
	}
	if list, ok := toList(from); ok {
		if i = fromEnd(i, len(list)); i >= 0 {
			return list[i]
		}
	}
	return nil
}

// groupOf gives a group of groupBy; 2 and 2.0 are one key.
func groupOf(groups map[any][]any, key any) any {
	wanted, isNumber := numberOf(key)
	for k, group := range groups {
		if number, ok := numberOf(k); isNumber && ok && compareNumbers(wanted, number) == 0 {
			return group
		}
		if text, ok := k.(string); ok && key == any(text) {
			return group
		}
		if truth, ok := k.(bool); ok && key == any(truth) {
			return group
		}
	}
	return nil
}

// fromEnd resolves an index that may count from the end; -1 is none.
func fromEnd(i, length int) int {
	if i < 0 {
		i += length
	}
	if i < 0 || i >= length {
		return -1
	}
	return i
}

// toList gives any list as []any.
func toList(v any) ([]any, bool) {
	if list, ok := v.([]any); ok {
		return list, true
	}
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice && r.Kind() != reflect.Array {
		return nil, false
	}
	list := make([]any, r.Len())
	for i := range list {
		list[i] = r.Index(i).Interface()
	}
	return list, true
}

// sliceOf gives a part of a list or a text; nil for what is neither.
func sliceOf(args ...any) (any, error) {
	bound := func(v any, otherwise, length int) (int, error) {
		if v == nil {
			return otherwise, nil
		}
		number, ok := numberOf(v)
		if !ok {
			return 0, fmt.Errorf("found %s, expected a number", show(v))
		}
		i := int(max(math.MinInt32, min(math.MaxInt32, number.float)))
		if i < 0 {
			i += length
		}
		return max(0, min(i, length)), nil
	}
	var runes []rune
	list, isList := toList(args[0])
	text, isText := args[0].(string)
	length := len(list)
	switch {
	case isText:
		runes = []rune(text)
		length = len(runes)
	case !isList:
		return nil, nil
	}
	from, err := bound(args[1], 0, length)
	if err != nil {
		return nil, err
	}
	to, err := bound(args[2], length, length)
	if err != nil {
		return nil, err
	}
	from = min(from, to)
	if isText {
		return string(runes[from:to]), nil
	}
	return list[from:to:to], nil
}

// boolOf makes nil false, for wherever a condition stands.
func boolOf(args ...any) (any, error) {
	switch v := args[0].(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	}
	return nil, fmt.Errorf("found %s, expected true or false", show(args[0]))
}

// listOf is what a loop goes over: nil is the empty list, and the whole loop is paid for before it
// begins.
func listOf(w *work, args []any) (any, error) {
	if args[0] == nil {
		return []any{}, nil
	}
	list, ok := toList(args[0])
	if !ok {
		return nil, fmt.Errorf("found %s, expected a list", show(args[0]))
	}
	perElement, _ := args[1].(int)
	if len(list) > workBudget {
		return nil, errTooMuchWork
	}
	return list, w.spend(len(list) * perElement)
}

// number is a number of either kind; float is always set.
type number struct {
	integer int64
	float   float64
	whole   bool // integer is exact
}

func numberOf(v any) (number, bool) {
	switch v := v.(type) {
	case float64:
		return number{float: v}, true
	case int:
		return number{int64(v), float64(v), true}, true
	case int64:
		return number{v, float64(v), true}, true
	case bool, string, nil:
		return number{}, false
	case time.Duration:
		return number{}, false
	}
	plain, ok := plainNumber(v)
	if !ok {
		return number{}, false
	}
	return numberOf(plain)
}

// ordered compares by order. What is not there is neither less nor more than anything.
func ordered(want func(int) bool) func(...any) (any, error) {
	return func(args ...any) (any, error) {
		if args[0] == nil || args[1] == nil {
			return false, nil
		}
		c, err := compareValues(args[0], args[1])
		if err != nil {
			return nil, err
		}
		return want(c), nil
	}
}

func compareValues(a, b any) (int, error) {
	if x, ok := numberOf(a); ok {
		if y, ok := numberOf(b); ok {
			return compareNumbers(x, y), nil
		}
	}
	switch x := a.(type) {
	case string:
		switch y := b.(type) {
		case string:
			return strings.Compare(x, y), nil
		case time.Time, time.Duration:
			c, err := compareValues(b, a)
			return -c, err
		}
	case time.Time:
		if y, ok := timeOf(b); ok {
			return x.Compare(y), nil
		}
	case time.Duration:
		if y, ok := spanOf(b); ok {
			return compareNumbers(number{int64(x), float64(x), true}, number{int64(y), float64(y), true}), nil
		}
	}
	return 0, fmt.Errorf("cannot compare %s with %s by order", show(a), show(b))
}

func compareNumbers(x, y number) int {
	switch {
	case x.whole && y.whole:
		return cmp.Compare(x.integer, y.integer)
	case x.whole && (x.integer > maxExactFloat || x.integer < -maxExactFloat):
		return compareLarge(x.integer, y.float)
	case y.whole && (y.integer > maxExactFloat || y.integer < -maxExactFloat):
		return -compareLarge(y.integer, x.float)
	}
	return cmp.Compare(x.float, y.float)
}

// maxExactFloat is 2^53: beyond it a float64 skips whole numbers.
const maxExactFloat = 1 << 53

// compareLarge compares a whole number that a float64 may not hold with one that is a float64.
func compareLarge(x int64, y float64) int {
	switch {
	case y >= math.MaxInt64:
		return -1
	case y <= math.MinInt64:
		return 1
	}
	whole := math.Trunc(y) // every float64 of this size is whole, and smaller ones are told apart by it
	if c := cmp.Compare(x, int64(whole)); c != 0 {
		return c
	}
	return cmp.Compare(whole, y)
}

// timeOf reads a time, or a text as JSON has times.
func timeOf(v any) (time.Time, bool) {
	switch v := v.(type) {
	case time.Time:
		return v, true
	case string:
		t, err := time.Parse(time.RFC3339Nano, v)
		return t, err == nil
	}
	return time.Time{}, false
}

// spanOf reads a duration, or a text as manifests have durations.
func spanOf(v any) (time.Duration, bool) {
	switch v := v.(type) {
	case time.Duration:
		return v, true
	case string:
		d, err := parseDuration(v)
		return time.Duration(d), err == nil
	}
	return 0, false
}

// arithmetic is + - * / % ** for numbers, + for texts and lists, and + and - for times and durations,
// where a duration may be written as a text: event.time - "5m".
func arithmetic(operator string, a, b any) (any, error) {
	if x, ok := numberOf(a); ok {
		if y, ok := numberOf(b); ok {
			return calculate(operator, x, y)
		}
	}
	if result, ok := calendar(operator, a, b); ok {
		return result, nil
	}
	if operator == "+" {
		if x, ok := a.(string); ok {
			if y, ok := b.(string); ok {
				return x + y, nil
			}
			return nil, fmt.Errorf("cannot add %s to a text; write string(…)", show(b))
		}
		if x, ok := a.([]any); ok {
			if y, ok := b.([]any); ok {
				return slices.Concat(x, y), nil
			}
		}
	}
	return nil, fmt.Errorf("%s does not go with %s and %s", operator, show(a), show(b))
}

// calendar is the arithmetic of times and durations.
func calendar(operator string, a, b any) (any, bool) {
	at, isTime := a.(time.Time)
	span, isSpan := a.(time.Duration)
	switch {
	case isTime && operator == "-":
		if y, ok := b.(time.Time); ok {
			return at.Sub(y), true
		}
		if y, ok := spanOf(b); ok {
			return at.Add(-y), true
		}
	case isTime && operator == "+":
		if y, ok := spanOf(b); ok {
			return at.Add(y), true
		}
	case isSpan && operator == "+":
		if y, ok := b.(time.Time); ok {
			return y.Add(span), true
		}
		if y, ok := spanOf(b); ok {
			return span + y, true
		}
	case isSpan && operator == "-":
		if y, ok := spanOf(b); ok {
			return span - y, true
		}
	case isSpan && (operator == "*" || operator == "/"):
		y, ok := numberOf(b)
		if ok && operator == "*" {
			return time.Duration(float64(span) * y.float), true
		}
		if ok && y.float != 0 {
			return time.Duration(float64(span) / y.float), true
		}
	}
	return nil, false
}

// calculate stays with whole numbers where the result is exact.
func calculate(operator string, x, y number) (any, error) {
	exact := x.whole && y.whole
	if !exact && operator == "%" {
		// Numbers of JSON are floats even where they are whole.
		exact = x.float == math.Trunc(x.float) && y.float == math.Trunc(y.float) && math.Abs(x.float) < math.MaxInt64/2 && math.Abs(y.float) < math.MaxInt64/2
		x.integer, y.integer = int64(x.float), int64(y.float)
	}
	if y.float == 0 && (operator == "/" || operator == "%") {
		return nil, fmt.Errorf("cannot divide by zero")
	}
	var result float64
	switch operator {
	case "+":
		if sum := x.integer + y.integer; exact && (sum > x.integer) == (y.integer > 0) {
			return sum, nil
		}
		result = x.float + y.float
	case "-":
		if difference := x.integer - y.integer; exact && (difference < x.integer) == (y.integer > 0) {
			return difference, nil
		}
		result = x.float - y.float
	case "*":
		result = x.float * y.float
		if exact && math.Abs(result) < math.MaxInt64/2 {
			return x.integer * y.integer, nil
		}
	case "/":
		result = x.float / y.float
	case "%":
		if exact {
			return x.integer % y.integer, nil
		}
		result = math.Mod(x.float, y.float)
	case "**":
		result = math.Pow(x.float, y.float)
	}
	if math.IsNaN(result) || math.IsInf(result, 0) {
		return nil, fmt.Errorf("the result of %s is too large", operator)
	}
	return result, nil
}

// equalOf compares two values as JSON does: 1 and 1.0 are one number, at every depth.
func equalOf(w *work, args []any) (any, error) { return equalValues(w, args[0], args[1]) }

func equalValues(w *work, a, b any) (bool, error) {
	if err := w.spend(1 + min(sizeOf(a), sizeOf(b))); err != nil {
		return false, err
	}
	if x, ok := numberOf(a); ok {
		y, ok := numberOf(b)
		return ok && compareNumbers(x, y) == 0, nil
	}
	switch x := a.(type) {
	case nil:
		return b == nil, nil
	case string:
		y, ok := b.(string)
		return ok && x == y, nil
	case bool:
		y, ok := b.(bool)
		return ok && x == y, nil
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false, nil
		}
		for key, item := range x {
			other, ok := y[key]
			if !ok {
				return false, nil
			}
			if equal, err := equalValues(w, item, other); !equal || err != nil {
				return false, err
			}
		}
		return true, nil
	case time.Time:
		y, ok := timeOf(b)
		return ok && x.Equal(y), nil
	case time.Duration:
		y, ok := spanOf(b)
		return ok && x == y, nil
	}
	x, okX := toList(a)
	y, okY := toList(b)
	if !okX || !okY || len(x) != len(y) {
		return false, nil
	}
	for i := range x {
		if equal, err := equalValues(w, x[i], y[i]); !equal || err != nil {
			return false, err
		}
	}
	return true, nil
}

// inOf says whether a value is an element of a list, a key of an object or a part of a text.
func inOf(w *work, args []any) (any, error) {
	needle, in := args[0], args[1]
	switch v := in.(type) {
	case nil:
		return false, nil
	case []any:
		for _, item := range v {
			if equal, err := equalValues(w, needle, item); equal || err != nil {
				return equal, err
			}
		}
		return false, nil
	case map[string]any:
		key, ok := needle.(string)
		if !ok {
			return false, nil
		}
		_, ok = v[key]
		return ok, nil
	case string:
		if needle == nil {
			return false, nil
		}
		part, ok := needle.(string)
		if !ok {
			return nil, fmt.Errorf("found %s, expected a text", show(needle))
		}
		return strings.Contains(v, part), w.spend(sizeOf(v))
	}
	if list, ok := toList(in); ok {
		return inOf(w, []any{needle, list})
	}
	return nil, fmt.Errorf("found %s, expected a list, an object or a text", show(in))
}

func matchesOf(w *work, args []any) (any, error) {
	if args[0] == nil || args[1] == nil {
		return false, nil
	}
	text, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("found %s, expected a text", show(args[0]))
	}
	pattern, compiled := args[1].(*regexp.Regexp)
	if !compiled {
		source, ok := args[1].(string)
		if !ok {
			return nil, fmt.Errorf("found %s, expected a regular expression", show(args[1]))
		}
		var err error
		if pattern, err = compilePattern(source); err != nil {
			return nil, fmt.Errorf("found %s, expected a regular expression", show(source))
		}
		if err := w.spend(10 * len(source)); err != nil { // compiling costs far more than a node
			return nil, err
		}
	}
	// RE2 takes up to the length of its text times its own, and never more.
	const patternUnit = 8 // bytes of pattern that cost one node for each byte of text
	if err := w.spend(1 + len(text)*(1+len(pattern.String())/patternUnit)); err != nil {
		return nil, err
	}
	return pattern.MatchString(text), nil
}

func affix(has func(string, string) bool) func(...any) (any, error) {
	return func(args ...any) (any, error) {
		if args[0] == nil || args[1] == nil {
			return false, nil
		}
		text, ok := args[0].(string)
		part, okPart := args[1].(string)
		if !ok || !okPart {
			return nil, fmt.Errorf("found %s and %s, expected two texts", show(args[0]), show(args[1]))
		}
		return has(text, part), nil
	}
}

// defaultOf gives its second argument where the first is nil; where a third is true, where the first
// is "", 0, false or empty too.
func defaultOf(_ *work, args []any) (any, error) {
	var otherwise any = ""
	if len(args) > 1 {
		otherwise = args[1]
	}
	if args[0] == nil {
		return otherwise, nil
	}
	if len(args) > 2 && args[2] == true {
		r := reflect.ValueOf(args[0])
		empty := r.IsZero()
		if r.Kind() == reflect.Slice || r.Kind() == reflect.Map {
			empty = r.Len() == 0
		}
		if empty {
			return otherwise, nil
		}
	}
	return args[0], nil
}

func lengthOf(w *work, args []any) (any, error) {
	switch v := args[0].(type) {
	case nil:
		return 0, nil
	case string:
		return utf8.RuneCountInString(v), w.spend(sizeOf(v))
	}
	if r := reflect.ValueOf(args[0]); r.Kind() == reflect.Slice || r.Kind() == reflect.Map {
		return r.Len(), nil
	}
	return nil, fmt.Errorf("found %s, expected a text, a list or an object", show(args[0]))
}

func jsonOf(w *work, args []any) (any, error) {
	value, err := plainValue(args[0])
	if err != nil {
		return nil, err
	}
	text, err := compactJSON(value)
	if err != nil {
		return nil, err
	}
	return string(text), w.spendMade(string(text))
}

func textOf(w *work, args []any) (any, error) {
	if args[0] == nil {
		return nil, nil
	}
	text, err := printValue(args[0])
	if err != nil {
		return nil, err
	}
	return text, w.spendMade(text)
}

func joinOf(w *work, args []any) (any, error) {
	if args[0] == nil {
		return nil, nil
	}
	list, ok := toList(args[0])
	if !ok {
		return nil, fmt.Errorf("found %s, expected a list", show(args[0]))
	}
	separator := ""
	if len(args) > 1 {
		if separator, ok = args[1].(string); !ok && args[1] != nil {
			return nil, fmt.Errorf("found %s, expected a text", show(args[1]))
		}
	}
	if err := w.spend(len(list) * (1 + len(separator)/madeUnit)); err != nil {
		return nil, err
	}
	texts := make([]string, len(list))
	for i, item := range list {
		text, err := printValue(item)
		if err != nil {
			return nil, err
		}
		if err := w.spendMade(text); err != nil {
			return nil, err
		}
		texts[i] = text
	}
	return strings.Join(texts, separator), nil
}

// replaceOf counts what it will make before it does: every character replaced by a whole payload would
// fill the memory.
func replaceOf(w *work, args []any) (any, error) {
	if args[0] == nil {
		return nil, nil
	}
	var texts [3]string
	for i := range texts {
		var ok bool
		if texts[i], ok = args[i].(string); !ok {
			return nil, fmt.Errorf("found %s, expected a text", show(args[i]))
		}
	}
	count := strings.Count(texts[0], texts[1])
	if len(args) > 3 {
		if limit, ok := numberOf(args[3]); ok && limit.float >= 0 {
			count = int(min(float64(count), limit.float))
		}
	}
	if size := float64(len(texts[0])) + float64(count)*float64(len(texts[2])); size > workBudget*madeUnit {
		return nil, errTooMuchWork
	}
	made := strings.Replace(texts[0], texts[1], texts[2], count)
	return made, w.spendMade(made)
}

func getOf(_ *work, args []any) (any, error) {
	value := lookupValue(args[0], args[1])
	if value == nil && len(args) > 2 {
		return args[2], nil
	}
	return value, nil
}

// members gives the keys of an object in their order.
func members(w *work, v any) (map[string]any, []string, error) {
	if v == nil {
		return nil, nil, nil
	}
	plain, err := plainValue(v)
	if err != nil {
		return nil, nil, err
	}
	m, ok := plain.(map[string]any)
	if !ok {
		return nil, nil, fmt.Errorf("found %s, expected an object", show(v))
	}
	return m, sortedKeys(m), w.spend(len(m))
}

func keysOf(w *work, args []any) (any, error) {
	_, keys, err := members(w, args[0])
	list := make([]any, len(keys))
	for i, key := range keys {
		list[i] = key
	}
	return list, err
}

func valuesOf(w *work, args []any) (any, error) {
	m, keys, err := members(w, args[0])
	list := make([]any, len(keys))
	for i, key := range keys {
		list[i] = m[key]
	}
	return list, err
}

func pairsOf(w *work, args []any) (any, error) {
	m, keys, err := members(w, args[0])
	list := make([]any, len(keys))
	for i, key := range keys {
		list[i] = []any{key, m[key]}
	}
	return list, err
}

// cidrOf says whether an address, with or without a port, is in one of the ranges.
func cidrOf(w *work, args []any) (any, error) {
	text, ok := args[0].(string)
	if args[0] == nil {
		return false, nil
	}
	if !ok {
		return nil, fmt.Errorf("found %s, expected an address", show(args[0]))
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, fmt.Errorf("found %s, expected an address", show(text))
		}
		address = withPort.Addr()
	}
	ranges, ok := toList(args[1])
	if !ok {
		ranges = []any{args[1]}
	}
	if err := w.spend(len(ranges)); err != nil {
		return nil, err
	}
	for _, r := range ranges {
		prefix, err := netip.ParsePrefix(fmt.Sprint(r))
		if err != nil {
			return nil, fmt.Errorf("found %s, expected a range of addresses like \"10.0.0.0/8\"", show(r))
		}
		if prefix.Contains(address.Unmap().WithZone("")) {
			return true, nil
		}
	}
	return false, nil
}

// durationOf reads a duration as manifests have it: seconds, or "1m30s".
func durationOf(_ *work, args []any) (any, error) {
	switch v := args[0].(type) {
	case nil, time.Duration:
		return v, nil
	case string:
		d, err := parseDuration(v)
		if err != nil {
			return nil, fmt.Errorf("found %s, expected a duration like \"1m30s\"", show(v))
		}
		return time.Duration(d), nil
	}
	seconds, ok := numberOf(args[0])
	if !ok || math.Abs(seconds.float) > math.MaxInt64/float64(time.Second) {
		return nil, fmt.Errorf("found %s, expected a duration", show(args[0]))
	}
	return time.Duration(seconds.float * float64(time.Second)), nil
}

// show describes a value in the error of an evaluation.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "nil"
	case time.Time:
		return "a time"
	case time.Duration:
		return "the duration " + v.String()
	case []any:
		return "a list"
	}
	if _, ok := toList(v); ok {
		return "a list"
	}
	return describe(v)
}
