package manifest

import (
	"reflect"
	"regexp"
	"slices"

	"github.com/expr-lang/expr/ast"
)

// rewriter replaces the operators of expr by ours, which know nil as "is not there" and count their
// work. It runs after the types were checked.
type rewriter struct{}

// Our functions, by the operator that they replace. Those of worked take the work first.
var (
	operators = map[string]string{
		"<": "$$less", "<=": "$$lessOrEqual", ">": "$$more", ">=": "$$moreOrEqual",
		"startsWith": "$$startsWith", "endsWith": "$$endsWith",
	}
	worked = map[string]string{
		"+": "$$add", "-": "$$subtract", "*": "$$multiply", "/": "$$divide", "%": "$$modulo", "**": "$$power", "^": "$$power",
		"in": "$$in", "contains": "$$contains", "matches": "$$matches",
	}
	logical = []string{"&&", "and", "||", "or"}
	// conditions are the loops whose predicate is a condition.
	conditions = []string{
		"all", "none", "any", "one", "filter", "find", "findIndex", "findLast", "findLastIndex", "count",
	}
)

func nameNode(text string) ast.Node { return &ast.IdentifierNode{Value: text} }

// callNode makes a call of one of our functions at the place of a node.
func callNode(at ast.Node, function string, arguments ...ast.Node) ast.Node {
	n := &ast.CallNode{Callee: nameNode(function), Arguments: arguments}
	n.SetLocation(at.Location())
	n.Callee.SetLocation(at.Location())
	for _, argument := range arguments {
		if argument.Location().To == 0 {
			argument.SetLocation(at.Location())
		}
	}
	return n
}

func (r rewriter) rewrite(node ast.Node) ast.Node {
	switch n := node.(type) {
	case *ast.IdentifierNode:
		if len(scopeFields[n.Value]) > 0 {
			return callNode(n, "$$object", n)
		}
	case *ast.ChainNode:
		return r.rewrite(n.Node) // every step of a path passes over nil by itself
	case *ast.MemberNode:
		return r.member(n)
	case *ast.SliceNode:
		return r.slice(n)
	case *ast.UnaryNode:
		return r.unary(n)
	case *ast.BinaryNode:
		return r.binary(n)
	case *ast.ConditionalNode:
		return placed(n, &ast.ConditionalNode{
			Ternary: n.Ternary, Cond: r.condition(n.Cond), Exp1: r.rewrite(n.Exp1), Exp2: r.rewrite(n.Exp2),
		})
	case *ast.BuiltinNode:
		return r.loop(n)
	case *ast.CallNode:
		return r.call(n)
	case *ast.PredicateNode:
		return placed(n, &ast.PredicateNode{Node: r.rewrite(n.Node)})
	case *ast.VariableDeclaratorNode:
		return placed(n, &ast.VariableDeclaratorNode{Name: n.Name, Value: r.rewrite(n.Value), Expr: r.rewrite(n.Expr)})
	case *ast.SequenceNode:
		return placed(n, &ast.SequenceNode{Nodes: r.all(n.Nodes)})
	case *ast.ArrayNode:
		return placed(n, &ast.ArrayNode{Nodes: r.all(n.Nodes)})
	case *ast.MapNode:
		return placed(n, &ast.MapNode{Pairs: r.all(n.Pairs)})
	case *ast.PairNode:
		return placed(n, &ast.PairNode{Key: r.rewrite(n.Key), Value: r.rewrite(n.Value)})
	}
	return node
}

// placed gives the new node the place of the old one. Nodes are made anew, never changed: expr lets two
// places of a tree share one.
func placed(old, made ast.Node) ast.Node {
	made.SetLocation(old.Location())
	return made
}

func (r rewriter) all(nodes []ast.Node) []ast.Node {
	made := make([]ast.Node, len(nodes))
	for i, n := range nodes {
		made[i] = r.rewrite(n)
	}
	return made
}

// member leaves the fields of our own structs to expr, which reads them fast, and makes every other
// step a lookup that gives nil for what is not there.
func (r rewriter) member(n *ast.MemberNode) ast.Node {
	if id, ok := n.Node.(*ast.IdentifierNode); ok && len(scopeFields[id.Value]) > 0 {
		if property, ok := n.Property.(*ast.StringNode); ok && slices.Contains(scopeFields[id.Value], property.Value) {
			return placed(n, &ast.MemberNode{Node: n.Node, Property: n.Property})
		}
	}
	return callNode(n, "$$get", r.rewrite(n.Node), r.rewrite(n.Property))
}

func (r rewriter) slice(n *ast.SliceNode) ast.Node {
	bounds := [2]ast.Node{&ast.NilNode{}, &ast.NilNode{}}
	for i, bound := range []ast.Node{n.From, n.To} {
		if bound != nil {
			bounds[i] = r.rewrite(bound)
		}
	}
	return callNode(n, "$$slice", r.rewrite(n.Node), bounds[0], bounds[1])
}

func (r rewriter) unary(n *ast.UnaryNode) ast.Node {
	switch n.Operator {
	case "!", "not":
		return placed(n, &ast.UnaryNode{Operator: n.Operator, Node: r.condition(n.Node)})
	case "-":
		if _, literal := n.Node.(*ast.IntegerNode); !literal {
			return callNode(n, "$$negate", r.rewrite(n.Node))
		}
	}
	return placed(n, &ast.UnaryNode{Operator: n.Operator, Node: r.rewrite(n.Node)})
}

func (r rewriter) binary(n *ast.BinaryNode) ast.Node {
	if slices.Contains(logical, n.Operator) {
		return placed(n, &ast.BinaryNode{Operator: n.Operator, Left: r.condition(n.Left), Right: r.condition(n.Right)})
	}
	left, right := r.rewrite(n.Left), r.rewrite(n.Right)
	switch n.Operator {
	case "in":
		right = constantList(right)
	case "matches":
		if text, ok := n.Right.(*ast.StringNode); ok {
			if pattern, err := compilePattern(text.Value); err == nil {
				right = placed(text, &ast.ConstantNode{Value: pattern})
			}
		}
	case "==", "!=":
		return r.equality(n, left, right)
	}
	if function, ok := operators[n.Operator]; ok {
		return callNode(n, function, left, right)
	}
	if function, ok := worked[n.Operator]; ok {
		return callNode(n, function, nameNode("$work"), left, right)
	}
	return placed(n, &ast.BinaryNode{Operator: n.Operator, Left: left, Right: right})
}

// equality leaves a comparison with a literal to expr; comparing two trees counts as work.
func (r rewriter) equality(n *ast.BinaryNode, left, right ast.Node) ast.Node {
	if isLiteral(n.Left) || isLiteral(n.Right) {
		return placed(n, &ast.BinaryNode{Operator: n.Operator, Left: left, Right: right})
	}
	equal := callNode(n, "$$equal", nameNode("$work"), left, right)
	if n.Operator == "!=" {
		return placed(n, &ast.UnaryNode{Operator: "not", Node: equal})
	}
	return equal
}

func isLiteral(node ast.Node) bool {
	switch node.(type) {
	case *ast.NilNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.StringNode:
		return true
	}
	return false
}

// constantList makes a list of literals once, and not at each event.
func constantList(node ast.Node) ast.Node {
	array, ok := node.(*ast.ArrayNode)
	if !ok {
		return node
	}
	list := make([]any, len(array.Nodes))
	for i, item := range array.Nodes {
		switch item := item.(type) {
		case *ast.StringNode:
			list[i] = item.Value
		case *ast.IntegerNode:
			list[i] = payloadNumber(int64(item.Value))
		case *ast.FloatNode:
			list[i] = item.Value
		case *ast.BoolNode:
			list[i] = item.Value
		default:
			return node
		}
	}
	return placed(array, &ast.ConstantNode{Value: list})
}

// condition makes nil false where true or false is wanted. What is known to be one of these is left.
func (r rewriter) condition(n ast.Node) ast.Node {
	made := r.rewrite(n)
	if n.Type().Kind() == reflect.Bool {
		return made
	}
	return callNode(n, "$$bool", made)
}

// loop counts the work of a loop before it begins: the length of the list times the size of what is
// done with each element.
func (r rewriter) loop(n *ast.BuiltinNode) ast.Node {
	arguments := make([]ast.Node, len(n.Arguments))
	cost := 1
	for i, argument := range n.Arguments {
		predicate, ok := argument.(*ast.PredicateNode)
		if !ok {
			arguments[i] = r.rewrite(argument)
			continue
		}
		cost += countNodes(predicate)
		body := r.rewrite(predicate.Node)
		if slices.Contains(conditions, n.Name) {
			body = r.condition(predicate.Node)
		}
		arguments[i] = placed(predicate, &ast.PredicateNode{Node: body})
	}
	if len(arguments) > 0 {
		arguments[0] = callNode(n.Arguments[0], "$$list", nameNode("$work"), arguments[0], &ast.IntegerNode{Value: cost})
	}
	return placed(n, &ast.BuiltinNode{Name: n.Name, Arguments: arguments})
}

// call hands the work to the function.
func (r rewriter) call(n *ast.CallNode) ast.Node {
	callee, ok := n.Callee.(*ast.IdentifierNode)
	if !ok {
		return n
	}
	if callee.Value == "now" {
		return placed(n, nameNode("$now"))
	}
	return callNode(n, "$"+callee.Value, append([]ast.Node{nameNode("$work")}, r.all(n.Arguments)...)...)
}

func compilePattern(text string) (*regexp.Regexp, error) { return regexp.Compile(text) }
