package manifest

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/checker"
	"github.com/expr-lang/expr/compiler"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"
)

// Limits on one expression. expr has no clock and cannot be cancelled, so what an expression may cost
// is bounded before it runs, by its size and shape, and while it runs, by counting its work.
const (
	// maxExpression is in bytes. The parser recurses, so that depth costs stack.
	maxExpression = 8 << 10
	// maxExpressionNodes leaves room for a list of some hundred names.
	maxExpressionNodes = 1000
	// maxPredicateDepth: three loops inside each other over one payload take seconds.
	maxPredicateDepth = 2
	// workBudget is in nodes evaluated, about 50 ns each: half a second for the worst expression.
	workBudget = 10_000_000
	// memoryBudget is in elements of the ranges and lists that an expression makes.
	memoryBudget = 100_000
)

// eventScope, ruleScope, packScope and scope are what the names of an expression stand for. Names
// that begin with $ are ours: the parser of users' text never lets one through.
type (
	scope struct {
		Event   eventScope `expr:"event"`
		Trigger string     `expr:"trigger"`
		Rule    ruleScope  `expr:"rule"`
		Pack    packScope  `expr:"pack"`
		Item    any        `expr:"item"`
		// Parameters are those of an execution, for the key of concurrency.
		Parameters any   `expr:"parameters"`
		Now        any   `expr:"$now"`
		Work       *work `expr:"$work"`
	}
	eventScope struct {
		ID      int64          `expr:"id"`
		Trigger string         `expr:"trigger"`
		Time    any            `expr:"time"` // any, so that event.time - "5m" passes the type checker
		Payload map[string]any `expr:"payload"`
	}
	ruleScope struct {
		Ref string `expr:"ref"`
	}
	packScope struct {
		Config map[string]any `expr:"config"`
	}
)

// work counts down what an evaluation may still cost.
type work struct{ left int }

var errTooMuchWork = errors.New("it takes too many steps for this event")

func (w *work) spend(n int) error {
	if w.left -= n; w.left < 0 || n < 0 {
		return errTooMuchWork
	}
	return nil
}

// problem is what is wrong with an expression. at counts characters from the start of its text.
type problem struct {
	at      int
	message string
	hint    string
	warning bool
}

// expression is a compiled expression, safe for concurrent use.
type expression struct {
	source  string
	program *vm.Program
	edits   edits
	// result is the kind of value it gives, as far as that is known before it runs.
	result reflect.Kind
	// paths are the values it reads, in the order of the text.
	paths []path
	// whole is the path that the expression is nothing but; nil where it is more.
	whole *path
	// secret is the name of the secret that the expression is nothing but a reference to.
	secret string
}

// path is a value that an expression reads: its names, and where the text has it.
type path struct {
	steps []string
	at    int
}

func (p path) String() string {
	var b strings.Builder
	for i, step := range p.steps {
		switch {
		case i == 0:
			b.WriteString(step)
		case identifier.MatchString(step):
			b.WriteString("." + step)
		default:
			fmt.Fprintf(&b, "[%s]", literal(step))
		}
	}
	return b.String()
}

// pointer is the JSON pointer of what comes after its first names.
func (p path) pointer(from int) string {
	var b strings.Builder
	for _, step := range p.steps[min(from, len(p.steps)):] {
		b.WriteString("/" + escapePointer(step))
	}
	return b.String()
}

// names says which names an expression may use beside those that every one may.
type names struct {
	item   bool
	secret bool
	// parameters are those of an execution; noEvent is for where there is no event beside them.
	parameters, noEvent bool
}

// compile compiles one expression. All problems that can be told at once are told; with an
// error among them there is no expression.
func (l *language) compile(source string, known names) (*expression, []problem) {
	if strings.TrimSpace(source) == "" {
		return nil, []problem{{message: "it is empty"}}
	}
	if len(source) > maxExpression {
		return nil, []problem{{message: fmt.Sprintf("found %d bytes, expected at most %d", len(source), maxExpression)}}
	}
	if !utf8.ValidString(source) {
		return nil, []problem{{message: "it is not UTF-8"}}
	}
	config := l.config
	text, edits, bad := l.bindFilters(source)
	if bad != nil {
		return nil, []problem{*bad}
	}
	fail := func(err error) (*expression, []problem) { return nil, []problem{edits.problem(err)} }
	tree, err := parser.ParseWithConfig(text, config)
	if err != nil {
		return fail(err)
	}
	a := &analysis{language: l, known: known, edits: edits}
	a.walk(tree.Node, 0)
	whole := a.wholePath(tree.Node)
	if len(a.problems) > 0 {
		return nil, a.problems
	}
	if a.secret != "" {
		return &expression{source: source, secret: a.secret}, nil
	}
	// Checked once as written, so that "a" < 5 is found before it runs, and once as rewritten, because
	// the compiler goes by the types that the checker leaves in the tree.
	result, err := checker.Check(tree, config)
	if err != nil {
		return fail(err)
	}
	r := rewriter{}
	tree.Node = r.rewrite(tree.Node)
	if _, err := checker.Check(tree, config); err != nil {
		return fail(err)
	}
	program, err := compiler.Compile(tree, config)
	if err != nil {
		return fail(err)
	}
	return &expression{
		source: source, program: program, edits: edits, result: result.Kind(), paths: a.paths, whole: whole,
	}, nil
}

// language is the expression language: expr-lang, with these differences.
//   - What is not there is nil, at any depth; nil is false where a condition stands, is neither less nor
//     more than anything, is the empty list of a loop, and comes out of a function that it goes into.
//   - A filter binds to the one value before it, and needs no parentheses where it has no arguments.
//   - in and contains know lists, objects and texts; % knows the floats of JSON; + - < > know times and
//     durations, which may be written as texts: event.time > now() - "5m".
//   - default, length, json, cidr and now are added, repeat is left out, values have no methods.
//
// Making one costs more than compiling
// an expression, so one serves a whole rule; it is not safe for concurrent use.
type language struct {
	config *conf.Config
	// functions are the names that can be called, sorted.
	functions []string
}

func newLanguage() *language {
	config := conf.New(scope{}) // not a pointer: expr reads the fields of a struct without looking them up by name
	config.MaxNodes = maxExpressionNodes
	addFunctions(config)
	for name := range config.Disabled {
		delete(config.Builtins, name)
	}
	l := &language{config: config}
	for name := range config.Functions {
		if !strings.HasPrefix(name, "$") {
			l.functions = append(l.functions, name)
		}
	}
	for name, f := range config.Builtins {
		if f.Predicate {
			l.functions = append(l.functions, name)
		}
	}
	slices.Sort(l.functions)
	return l
}

// isFunction says whether the name can be called.
func (l *language) isFunction(name string) bool {
	_, found := slices.BinarySearch(l.functions, name)
	return found
}

// machine is what one goroutine needs to evaluate.
type machine struct {
	vm    vm.VM
	scope scope
	work  work
}

// machines holds machines between evaluations. It is no state: any machine will do.
type machines struct{ pool sync.Pool }

func (m *machines) get(env *Env) *machine {
	k, ok := m.pool.Get().(*machine)
	if !ok {
		k = &machine{vm: vm.VM{MemoryBudget: memoryBudget}}
	}
	k.scope = scope{
		Event:      eventScope{ID: env.EventID, Trigger: env.Trigger, Time: env.Time, Payload: env.Payload},
		Trigger:    env.Trigger,
		Rule:       ruleScope{Ref: env.Rule},
		Pack:       packScope{Config: env.Config},
		Item:       env.Item,
		Parameters: env.Parameters,
		Now:        env.Now,
		Work:       &k.work,
	}
	return k
}

// put gives a machine back, without the event that it worked on.
func (m *machines) put(k *machine) {
	k.scope = scope{}
	stack := k.vm.Stack[:cap(k.vm.Stack)]
	clear(stack)
	clear(k.vm.Variables)
	m.pool.Put(k)
}

// run evaluates the expression.
func (e *expression) run(k *machine) (any, error) {
	k.work.left = workBudget
	value, err := k.vm.Run(e.program, &k.scope)
	if err != nil {
		return nil, e.failure(err)
	}
	return value, nil
}

// failure words an error of the evaluation, without the picture that expr draws.
func (e *expression) failure(err error) error {
	p := e.edits.problem(err)
	return fmt.Errorf("%s (at %q)", p.message, excerpt(e.source, p.at))
}

// excerpt gives the text around a place, for an error that has no file to point into.
func excerpt(source string, at int) string {
	const around = 24 // characters on either side
	runes := []rune(source)
	at = min(max(at, 0), len(runes))
	from, to := max(0, at-around), min(len(runes), at+around)
	text := string(runes[from:to])
	if from > 0 {
		text = "…" + text
	}
	if to < len(runes) {
		text += "…"
	}
	return text
}

// edits are the insertions that turned an author's text into the text that was parsed.
type edits []edit

type edit struct {
	at   int // character of the author's text before which text was inserted
	text string
}

// original turns a place in the parsed text into one in the author's.
func (list edits) original(at int) int {
	inserted := 0
	for _, e := range list {
		if e.at+inserted >= at {
			break
		}
		inserted += min(utf8.RuneCountInString(e.text), at-inserted-e.at)
	}
	return at - inserted
}

var (
	unexpectedToken = regexp.MustCompile(`unexpected token (\w+)(?:\("((?:[^"\\]|\\.)*)"\))?`)
	conversion      = regexp.MustCompile(`interface conversion: interface \{\} is ([^,]+), not (.+)`)
	mismatch        = regexp.MustCompile(`invalid operation: (\S+) \(mismatched types? (.+?)(?: and (.+))?\)`)
	wrongArgument   = regexp.MustCompile(`cannot use (\S+) as argument \(type (\S+)\) to call (\S+)`)
	goPanic         = regexp.MustCompile(`^(reflect|runtime error): .*`)
)

// problem words an error of expr, and places it in the author's text.
func (list edits) problem(err error) problem {
	var located *file.Error
	if !errors.As(err, &located) {
		return problem{message: firstLine(err.Error())}
	}
	p := problem{at: list.original(located.From), message: firstLine(located.Message)}
	if m := unexpectedToken.FindStringSubmatch(p.message); m != nil {
		return p.unexpected(m[1], m[2])
	}
	if m := conversion.FindStringSubmatch(p.message); m != nil {
		p.message = fmt.Sprintf("found %s, expected %s", kindName(m[1]), kindName(m[2]))
	} else if m := mismatch.FindStringSubmatch(p.message); m != nil {
		p.message = fmt.Sprintf("%s does not go with %s", m[1], kindName(m[2]))
		if m[3] != "" {
			p.message += " and " + kindName(m[3])
		}
	} else if m := wrongArgument.FindStringSubmatch(p.message); m != nil {
		p.message = fmt.Sprintf("%s: found %s, expected %s", m[3], kindName(m[1]), kindName(m[2]))
	} else if goPanic.MatchString(p.message) {
		p.message = "a value is of a type that does not go with this"
	}
	switch {
	case strings.HasPrefix(p.message, "unrecognized character: U+007E"):
		p.message, p.hint = "unexpected ~", `texts are joined with +, like "a" + string(event.payload.x)`
	case strings.Contains(p.message, "memory budget exceeded"):
		p.message = "it makes more than " + fmt.Sprint(memoryBudget) + " elements"
	case strings.Contains(p.message, "exceeds maximum allowed nodes"):
		p.message = fmt.Sprintf("it has more than %d parts", maxExpressionNodes)
	}
	return p
}

// unexpected words what a parser did not expect, with the spelling of this language for what other
// languages would have there.
func (p problem) unexpected(kind, token string) problem {
	p.message = "unexpected " + token
	switch {
	case kind == "EOF" || token == "":
		p.message = "it ends too early"
	case kind == "Operator" && token == "=":
		p.hint = "compare with =="
	case token == "is":
		p.hint = "write x != nil for \"is defined\""
	case kind == "Operator" && token == "if":
		p.hint = "write condition ? a : b"
	case kind == "Operator" && token == "|":
		p.hint = "a filter follows a value, like event.payload.x | upper"
	}
	return p
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// kindName names a Go type as people would.
func kindName(t string) string {
	switch strings.TrimSpace(t) {
	case "nil", "<nil>":
		return "nil"
	case "string":
		return "a text"
	case "bool":
		return "true or false"
	case "int", "int64", "float64":
		return "a number"
	case "time.Time":
		return "a time"
	case "time.Duration":
		return "a duration"
	case "map[string]interface {}", "map[string]any":
		return "an object"
	}
	if strings.HasPrefix(t, "[]") {
		return "a list"
	}
	return "another type"
}

// children lists the parts of a node, in the order of the text.
func children(node ast.Node) []ast.Node {
	switch n := node.(type) {
	case *ast.UnaryNode:
		return []ast.Node{n.Node}
	case *ast.BinaryNode:
		return []ast.Node{n.Left, n.Right}
	case *ast.ChainNode:
		return []ast.Node{n.Node}
	case *ast.MemberNode:
		return []ast.Node{n.Node, n.Property}
	case *ast.SliceNode:
		list := []ast.Node{n.Node}
		for _, bound := range []ast.Node{n.From, n.To} {
			if bound != nil {
				list = append(list, bound)
			}
		}
		return list
	case *ast.CallNode:
		return append([]ast.Node{n.Callee}, n.Arguments...)
	case *ast.BuiltinNode:
		return n.Arguments
	case *ast.PredicateNode:
		return []ast.Node{n.Node}
	case *ast.VariableDeclaratorNode:
		return []ast.Node{n.Value, n.Expr}
	case *ast.SequenceNode:
		return n.Nodes
	case *ast.ConditionalNode:
		return []ast.Node{n.Cond, n.Exp1, n.Exp2}
	case *ast.ArrayNode:
		return n.Nodes
	case *ast.MapNode:
		return n.Pairs
	case *ast.PairNode:
		return []ast.Node{n.Key, n.Value}
	}
	return nil
}

// countNodes is what one evaluation of the node costs at most, its loops apart.
func countNodes(node ast.Node) int {
	n := 1
	for _, child := range children(node) {
		n += countNodes(child)
	}
	return n
}
