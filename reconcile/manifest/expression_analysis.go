package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// The names of an expression and the fields that are known of them.
var scopeFields = map[string][]string{
	"event":   {"id", "payload", "time", "trigger"},
	"trigger": nil,
	"rule":    {"ref"},
	"pack":    {"config"},
}

// meantNames says what to write for names that other systems have.
var meantNames = map[string]string{
	"payload": "event.payload", "data": "event.payload", "body": "event.payload", "trigger_data": "event.payload",
	"config": "pack.config", "settings": "pack.config", "secrets": "secret", "null": "nil", "None": "nil", "none": "nil",
	"undefined": "nil", "True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "rule_ref": "rule.ref",
	"trigger_ref": "trigger", "AND": "and", "OR": "or", "NOT": "not",
}

// analysis finds, in the tree as its author wrote it, what expr itself would pass over or word in
// terms of Go: unknown names, methods, secrets in the wrong place, loops too deep.
type analysis struct {
	language *language
	known    names
	edits    edits
	locals   []string
	problems []problem
	paths    []path
	secret   string
	nodes    int
}

// maxVisited bounds the walk itself: a ?: b and a < b < c make a tree that holds a or b twice, and so
// one that doubles with each level of nesting.
const maxVisited = 20 * maxExpressionNodes

func (a *analysis) fail(node ast.Node, hint, format string, args ...any) {
	a.problems = append(a.problems, problem{
		at: a.edits.original(node.Location().From), message: fmt.Sprintf(format, args...), hint: hint,
	})
}

func (a *analysis) walk(node ast.Node, depth int) {
	if a.nodes++; a.nodes > maxVisited {
		if a.nodes == maxVisited+1 {
			a.fail(node, "", "it has more than %d parts", maxExpressionNodes)
		}
		return
	}
	if a.nodes == 1 {
		if a.secret = a.secretName(node); a.secret != "" || len(a.problems) > 0 {
			return
		}
	}
	switch n := node.(type) {
	case *ast.IdentifierNode:
		a.member(n)
	case *ast.MemberNode:
		a.member(n)
	case *ast.CallNode:
		a.call(n, depth)
	case *ast.BuiltinNode:
		a.loop(n, depth)
	case *ast.VariableDeclaratorNode:
		a.walk(n.Value, depth)
		a.locals = append(a.locals, n.Name)
		a.walk(n.Expr, depth)
		a.locals = a.locals[:len(a.locals)-1]
	case *ast.BinaryNode:
		a.pattern(n)
		a.span(n)
		a.walk(n.Left, depth)
		a.walk(n.Right, depth)
	default:
		for _, child := range children(node) {
			a.walk(child, depth)
		}
	}
	if _, ok := node.(*ast.MemberNode); ok {
		a.indexes(node, depth)
	}
}

// indexes walks what is computed inside a path: the i of event.payload.list[i].
func (a *analysis) indexes(node ast.Node, depth int) {
	for {
		switch n := node.(type) {
		case *ast.ChainNode:
			node = n.Node
			continue
		case *ast.MemberNode:
			switch n.Property.(type) {
			case *ast.StringNode, *ast.IntegerNode:
			default:
				a.walk(n.Property, depth)
			}
			node = n.Node
			continue
		case *ast.IdentifierNode:
			return // the root, which member has judged
		}
		a.walk(node, depth)
		return
	}
}

// chain takes a path apart: its root, its constant steps, and the node of each step.
func chain(node ast.Node) (root ast.Node, steps []string, nodes []ast.Node) {
	var walk func(ast.Node) bool
	walk = func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.ChainNode:
			return walk(n.Node)
		case *ast.MemberNode:
			if !walk(n.Node) {
				return false
			}
			switch p := n.Property.(type) {
			case *ast.StringNode:
				steps = append(steps, p.Value)
			case *ast.IntegerNode:
				steps = append(steps, strconv.Itoa(p.Value))
			default:
				return false
			}
			nodes = append(nodes, n.Property)
			return true
		}
		root = node
		return true
	}
	walk(node)
	return root, steps, nodes
}

// wholePath gives the path that the tree is nothing but.
func (a *analysis) wholePath(node ast.Node) *path {
	root, _, _ := chain(node)
	if _, ok := root.(*ast.IdentifierNode); !ok || len(a.paths) != 1 {
		return nil
	}
	return &a.paths[0]
}

// member judges a path from its root.
func (a *analysis) member(node ast.Node) {
	root, steps, nodes := chain(node)
	id, ok := root.(*ast.IdentifierNode)
	if !ok || slices.Contains(a.locals, id.Value) {
		return
	}
	if !a.root(id, steps) {
		return
	}
	if fields := scopeFields[id.Value]; len(fields) > 0 && len(steps) > 0 && !slices.Contains(fields, steps[0]) {
		a.unknownField(id.Value, fields, steps, nodes[0])
		return
	}
	if id.Value == "trigger" && len(steps) > 0 {
		a.fail(nodes[0], "write "+meantPayload(steps), "trigger is a text, it has no %s", steps[0])
		return
	}
	a.paths = append(a.paths, path{
		steps: append([]string{id.Value}, steps...), at: a.edits.original(id.Location().From),
	})
}

// meantPayload gives the spelling here of trigger.data.x, trigger.body.x and their like.
func meantPayload(steps []string) string {
	switch steps[0] {
	case "ref", "name", "type", "id":
		return "trigger, which is the trigger's ref"
	case "data", "body", "payload", "event", "parameters":
		steps = steps[1:]
	}
	return path{steps: append([]string{"event", "payload"}, steps...)}.String()
}

func (a *analysis) unknownField(root string, fields, steps []string, node ast.Node) {
	hint := didYouMean(steps[0], fields)
	switch {
	case root == "event" && hint == "":
		hint = "write " + meantPayload(steps)
	case root == "pack" && hint == "":
		hint = "write " + path{steps: append([]string{"pack", "config"}, steps...)}.String()
	}
	a.fail(node, hint, "unknown name %s.%s", root, steps[0])
}

// root judges the first name of a path.
func (a *analysis) root(id *ast.IdentifierNode, steps []string) bool {
	name := id.Value
	_, known := scopeFields[name]
	switch {
	case known && !a.known.noEvent:
		return true
	case known:
		a.fail(id, "write parameters.name", "%s is not known here", name)
	case name == "parameters" && a.known.parameters:
		return true
	case name == "parameters" && a.known.noEvent:
		a.fail(id, "declare parameters, or remove the key", "the action has no parameters")
	case name == "parameters":
		a.fail(id, "write event.payload.name", "parameters are not known before the rule has matched")
	case name == "item" && a.known.item:
		return true
	case name == "item":
		a.fail(id, "add for_each to the rule", "item is only known with for_each")
	case name == "secret" && a.known.secret:
		a.fail(id, `give the parameter as "{{ secret.name }}" or "{{ secret['the-name'] }}" and nothing else`, "a secret cannot be part of an expression")
	case name == "secret":
		a.fail(id, "", "a secret is only known in an action's parameters")
	case a.language.isFunction(name):
		a.fail(id, fmt.Sprintf("write %s(…)", name), "%s is a function", name)
	default:
		a.unknownName(id, steps)
	}
	return false
}

func (a *analysis) unknownName(id *ast.IdentifierNode, steps []string) {
	name := id.Value
	if meant, ok := meantNames[name]; ok {
		if meant == "event.payload" || meant == "pack.config" || meant == "secret" {
			meant = path{steps: append(strings.Split(meant, "."), steps...)}.String()
		}
		a.fail(id, "write "+meant, "unknown name %s", name)
		return
	}
	candidates := slices.Concat(a.locals, []string{"true", "false", "nil"})
	for known := range scopeFields {
		if !a.known.noEvent {
			candidates = append(candidates, known)
		}
	}
	if a.known.parameters {
		candidates = append(candidates, "parameters")
	}
	if a.known.item {
		candidates = append(candidates, "item")
	}
	if a.known.secret {
		candidates = append(candidates, "secret")
	}
	hint := didYouMean(name, candidates)
	if hint == "" && a.known.noEvent && a.known.parameters { // there is nothing else that it could be of
		hint = "write " + path{steps: append([]string{"parameters", name}, steps...)}.String()
	}
	a.fail(id, hint, "unknown name %s", name)
}

// secretName gives the name if the whole expression is a reference to a secret.
func (a *analysis) secretName(node ast.Node) string {
	root, steps, nodes := chain(node)
	id, ok := root.(*ast.IdentifierNode)
	if !ok || id.Value != "secret" || !a.known.secret {
		return ""
	}
	if _, whole := node.(*ast.IdentifierNode); whole || len(steps) != 1 || len(nodes) != 1 {
		a.fail(node, "write secret.name", "a secret has a name and no parts")
		return ""
	}
	if !isSecretName(steps[0]) {
		a.fail(nodes[0], "use letters, digits, _, - and .", "found %s, expected the name of a secret", quoted(steps[0]))
		return ""
	}
	return steps[0]
}

// isSecretName allows the names of files in one folder, and nothing that leads out of it.
func isSecretName(name string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
	rest := strings.Trim(name, allowed)
	return name != "" && name[0] != '.' && rest == ""
}

func (a *analysis) call(n *ast.CallNode, depth int) {
	for _, argument := range n.Arguments {
		a.walk(argument, depth)
	}
	switch callee := n.Callee.(type) {
	case *ast.IdentifierNode:
		if !a.language.isFunction(callee.Value) {
			a.fail(callee, a.meantFunction(callee.Value), "unknown function %s", callee.Value)
			return
		}
		a.constants(callee.Value, n.Arguments)
	case *ast.MemberNode:
		hint := ""
		if name, ok := callee.Property.(*ast.StringNode); ok {
			if a.language.isFunction(name.Value) {
				hint = fmt.Sprintf("write value | %s", name.Value)
			} else if near := a.meantFunction(name.Value); near != "" {
				hint = near
			}
			if name.Value == "get" {
				hint = "write value.name or value[\"name\"]; a missing one is nil"
			}
		}
		a.fail(callee.Property, hint, "values have no methods")
	default:
		a.fail(n, "", "only functions can be called")
	}
}

func (a *analysis) meantFunction(name string) string {
	switch name {
	case "repeat":
		return "there is none: a text repeated often enough fills the memory"
	case "startsWith", "startswith":
		return "write x startsWith y"
	case "endsWith", "endswith":
		return "write x endsWith y"
	case "env", "lookup", "include":
		return "an expression reads the event, and nothing of the machine"
	}
	if meant, ok := meantFilters[name]; ok {
		return "write " + meant
	}
	return didYouMean(name, a.language.functions)
}

// constants judges arguments that are known already, so that their mistakes show before an event.
func (a *analysis) constants(function string, arguments []ast.Node) {
	if len(arguments) == 0 {
		return
	}
	text, ok := arguments[len(arguments)-1].(*ast.StringNode)
	if !ok {
		return
	}
	switch {
	case function == "cidr" && len(arguments) == 2:
		if _, err := netip.ParsePrefix(text.Value); err != nil {
			a.fail(text, "write it like \"10.0.0.0/8\"", "found %s, expected a range of addresses", quoted(text.Value))
		}
	case function == "duration" && len(arguments) == 1:
		if _, err := parseDuration(text.Value); err != nil {
			a.fail(text, "write it like \"1m30s\"", "found %s, expected a duration", quoted(text.Value))
		}
	}
}

// pattern judges the regular expression of a match.
func (a *analysis) pattern(n *ast.BinaryNode) {
	text, ok := n.Right.(*ast.StringNode)
	if !ok || n.Operator != "matches" {
		return
	}
	if _, err := compilePattern(text.Value); err != nil {
		a.fail(text, "", "found %s, expected a regular expression (RE2, without lookahead): %s", quoted(text.Value),
			strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

// span makes a duration of the text in event.time - "5m": the type checker knows no text to subtract.
func (a *analysis) span(n *ast.BinaryNode) {
	text, ok := n.Right.(*ast.StringNode)
	if !ok || n.Operator != "-" {
		return
	}
	if _, err := parseDuration(text.Value); err == nil {
		n.Right = callNode(text, "duration", text)
	}
}

// loop judges the builtins that go over a list with a predicate. Only they reach this: every other
// builtin is one of our functions.
func (a *analysis) loop(n *ast.BuiltinNode, depth int) {
	for _, argument := range n.Arguments {
		if _, ok := argument.(*ast.PredicateNode); !ok {
			a.walk(argument, depth)
			continue
		}
		if depth >= maxPredicateDepth {
			a.fail(n, "use one loop after the other, or let the action do it", "loops cannot be nested more than %d deep", maxPredicateDepth)
			return
		}
		a.walk(argument, depth+1)
	}
}
