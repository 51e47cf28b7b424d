package reconcile

import (
	"bytes"
	"io"
	"os"
	"path"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/attune-io/attune/reconcile/manifest"
)

// scriptBound is how much of a script is looked through, in bytes; nothing is said about a longer one.
const scriptBound = 256 << 10

// stdinWords are what a script that reads stdin has in it. Each is generous: what is taken for reading
// though it is none costs a warning that would have helped, the other way round costs trust in warnings.
var stdinWords = map[string]*regexp.Regexp{
	manifest.RuntimeShell: regexp.MustCompile(
		`stdin|\bread\b|\bcat\b|\bjq\b|\bmapfile\b|\breadarray\b|\bselect\b|\btee\b|\bxargs\b|\bsource\b|\bexec\b|\beval\b|` +
			`(?m:^\s*\.\s)|<&|\$\(<|/dev/fd/0|/proc/self/fd/0|\bpython|\bperl\b|\bnode\b|\bruby\b|\bsed\b|\bawk\b|\bgrep\b|\bcurl\b|\bssh\b`),
	manifest.RuntimePython: regexp.MustCompile(`stdin|\binput\s*\(|\bfileinput\b|open\s*\(\s*0\b|\bos\.read\s*\(\s*0\b|/dev/fd/0|\bexec\b|\brunpy\b|\bimportlib\b`),
	manifest.RuntimeNode:   regexp.MustCompile(`stdin|readFileSync\s*\(\s*0\b|/dev/fd/0|createReadStream|import\s*\(`),
}

// imports find the modules that a script of its own pack may get its parameters by.
var imports = map[string]*regexp.Regexp{
	manifest.RuntimePython: regexp.MustCompile(`(?m)^\s*(?:from|import)\s+(\.?[A-Za-z_][A-Za-z0-9_]*)`),
	manifest.RuntimeNode:   regexp.MustCompile(`(?:require\s*\(|from|import)\s*["']([^"']+)["']`),
}

// IgnoresStdin says that a script surely reads nothing from stdin: no word of it does, and it uses no
// other file of its pack that might.
func (p *preflight) IgnoresStdin(pack, script string, r manifest.Runner) bool {
	words := stdinWords[r.RunnerType]
	known := p.packs[pack]
	if words == nil || known == nil {
		return false
	}
	f := known.files[path.Clean(script)]
	if f == nil || f.mark.size == 0 || f.mark.size > scriptBound {
		return false
	}
	text, err := known.folder.text(f)
	if err != nil || words.Match(text) {
		return false
	}
	if find := imports[r.RunnerType]; find != nil {
		for _, m := range find.FindAllSubmatch(text, -1) {
			if known.hasModule(string(m[1])) {
				return false
			}
		}
	}
	return true
}

// hasModule says whether a module may be one of the pack's own files.
func (p *preflightPack) hasModule(name string) bool {
	if strings.HasPrefix(name, ".") {
		return true
	}
	for at := range p.files {
		base := path.Base(at)
		if strings.TrimSuffix(base, path.Ext(base)) == name || strings.Contains("/"+at, "/"+name+"/") {
			return true
		}
	}
	return false
}

// text gives the content of a script up to the bound, without its "#!" line.
func (f *folder) text(one *file) ([]byte, error) {
	root, err := os.OpenRoot(f.real)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	in, err := root.OpenFile(one.source(), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, scriptBound))
	if err != nil {
		return nil, err
	}
	// "#!/usr/bin/env python3" reads nothing.
	if bytes.HasPrefix(text, []byte("#!")) {
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	return text, nil
}
