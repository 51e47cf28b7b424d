package manifest

import "sync"

// Compiler compiles rules. What two of them have in common, such as a condition that a thousand rules
// share, it compiles once. It is safe for concurrent use.
type Compiler struct {
	mu       sync.Mutex
	language *language
	// known are expressions by their text: compiling is far dearer than remembering.
	known    map[knownKey]*expression
	machines *machines
}

type knownKey struct {
	source string
	names  names
}

// maxKnown bounds what a compiler remembers; a full one starts anew, which is simpler than being clever.
const maxKnown = 50_000

// NewCompiler makes a compiler that has compiled nothing yet.
func NewCompiler() *Compiler {
	return &Compiler{language: newLanguage(), known: map[knownKey]*expression{}, machines: &machines{}}
}

// compile compiles one expression, or remembers it. What is wrong is never remembered: its author is
// about to change it.
func (l *Compiler) compile(source string, known names) (*expression, []problem) {
	key := knownKey{source, known}
	if e := l.known[key]; e != nil {
		return e, nil
	}
	e, problems := l.language.compile(source, known)
	if e != nil && len(problems) == 0 {
		if len(l.known) >= maxKnown {
			clear(l.known)
		}
		l.known[key] = e
	}
	return e, problems
}

// term compiles a part of a condition.
func (l *Compiler) term(source string) (*expression, []problem) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.compile(source, names{})
}
