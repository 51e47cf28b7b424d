package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// Severity tells an error, which keeps a component from being accepted, from a warning.
type Severity string

// The two severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Error is one finding in a pack's files. Its text is "file:line:col: message; hint".
type Error struct {
	Place
	Severity Severity `json:"severity"`
	// Ref is the pack or component concerned, as far as it could be read; it may be empty.
	Ref     string `json:"ref,omitempty"`
	Kind    Kind   `json:"kind,omitempty"`
	Message string `json:"message"`
	// Hint says what to write instead or what to do.
	Hint string `json:"hint,omitempty"`
}

// Error gives the finding as one line.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.String())
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString("; ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// String gives "file:line:col", without the parts that are unknown.
func (p Place) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	default:
		return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
	}
}

// Errors are the findings of a scan.
type Errors []*Error

// Error gives the findings one a line, a warning marked as one.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, finding := range e {
		lines[i] = finding.Error()
		if finding.Severity == SeverityWarning {
			lines[i] = "warning: " + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}

// Sort orders by file, line, column and message, so that the same files always tell the same.
func (e Errors) Sort() {
	slices.SortFunc(e, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Col, b.Col),
			cmp.Compare(a.Message, b.Message),
			cmp.Compare(a.Hint, b.Hint),
			cmp.Compare(a.Severity, b.Severity),
			cmp.Compare(a.Ref, b.Ref),
			cmp.Compare(a.Kind, b.Kind),
		)
	})
}

// HasErrors says whether any finding is more than a warning.
func (e Errors) HasErrors() bool {
	return slices.ContainsFunc(e, func(f *Error) bool { return f.Severity == SeverityError })
}

// maxFindings bounds what one file may say, so that a file of nonsense buries neither the log nor
// the findings of its neighbours.
const maxFindings = 100

// limit drops repetitions (an anchor that is used twice tells its mistake twice) and, beyond
// maxFindings, the rest: warnings before errors, so that a refusal never goes without its reason.
func (e Errors) limit() Errors {
	e.Sort()
	e = slices.CompactFunc(e, func(a, b *Error) bool { return *a == *b })
	if len(e) <= maxFindings {
		return e
	}
	rest := len(e) - maxFindings
	kept := slices.Clone(e)
	slices.SortStableFunc(kept, func(a, b *Error) int { return cmp.Compare(a.Severity, b.Severity) })
	last := *kept[maxFindings]
	kept = append(kept[:maxFindings:maxFindings], &Error{
		Place: Place{File: last.File}, Severity: SeverityWarning, Ref: last.Ref, Kind: last.Kind,
		Message: fmt.Sprintf("cannot list all findings of this file: %d more", rest),
	})
	kept.Sort()
	return kept
}

// Nearest gives the candidate that was probably meant by word, or "" where none is near. Of two
// that are equally near, the first in alphabetical order wins.
func Nearest(word string, candidates []string) string {
	const longest = 64 // bytes; beyond it nothing is a slip of the finger, and the cost is quadratic
	if word == "" || len(word) > longest {
		return ""
	}
	best, bestDistance := "", nearEnough(word)+1
	for _, candidate := range slices.Sorted(slices.Values(candidates)) {
		if len(candidate) > longest {
			continue
		}
		if strings.EqualFold(word, candidate) {
			return candidate
		}
		if d := editDistance(word, candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// nearEnough is how many slips a word of this length may hold and still be taken for another.
func nearEnough(word string) int {
	switch n := utf8.RuneCountInString(word); {
	case n <= 2:
		return 0
	case n <= 5:
		return 1
	case n <= 8:
		return 2
	default:
		return 3
	}
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours, each as one.
func editDistance(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, previous, current := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := range x {
		current[0] = i + 1
		for j := range y {
			cost := 1
			if x[i] == y[j] {
				cost = 0
			}
			current[j+1] = min(previous[j+1]+1, current[j]+1, previous[j]+cost)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				current[j+1] = min(current[j+1], before[j-1]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(y)]
}

// didYouMean gives the hint for a word that is none of the candidates: the nearest, or else all of
// them where they are few enough to read.
func didYouMean(word string, candidates []string) string {
	if near := Nearest(word, candidates); near != "" {
		return "did you mean " + strconv.Quote(near) + "?"
	}
	return ""
}

// quoted shows a word of a manifest in a message, cut where it is long.
func quoted(s string) string {
	const longest = 60 // runes
	if utf8.RuneCountInString(s) > longest {
		return strconv.Quote(string([]rune(s)[:longest])) + "…"
	}
	return strconv.Quote(s)
}

// andList joins words as a sentence does: "a, b and c".
func andList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// orList joins words as a sentence does: "a, b or c".
func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
