package manifest

import (
	"maps"
	"slices"
	"strings"
)

// runtimeAliases maps every accepted runner_type to its runtime.
var runtimeAliases = map[string]string{
	"shell": RuntimeShell, "bash": RuntimeShell, "sh": RuntimeShell,
	"python": RuntimePython, "python3": RuntimePython,
	"node": RuntimeNode, "nodejs": RuntimeNode, "node.js": RuntimeNode,
	"native": RuntimeNative, "standalone": RuntimeNative, "binary": RuntimeNative, "builtin": RuntimeNative,
}

// resolveRuntime gives the runtime of a runner_type, and the interpreter where it is the shell.
func resolveRuntime(word string) (runtime, interpreter string, ok bool) {
	runtime, ok = runtimeAliases[word]
	if runtime == RuntimeShell {
		interpreter = "bash"
		if word == "sh" {
			interpreter = "sh"
		}
	}
	return runtime, interpreter, ok
}

func runtimeWords() []string {
	return []string{RuntimeShell, "sh", RuntimePython, RuntimeNode, RuntimeNative}
}

// refusedRunners are the runners of other systems, with what to do instead.
var refusedRunners = map[string]string{
	"http":                "use runner_type python or shell, or let the rule name core.http_request",
	"http-request":        "use runner_type python or shell, or let the rule name core.http_request",
	"docker":              "use runner_type shell and call docker run in the script",
	"container":           "use runner_type shell and call docker run in the script",
	"kubernetes":          "use runner_type shell and call kubectl in the script",
	"orquesta":            "there are no workflows: list the steps under a rule's actions, or write one script",
	"workflow":            "there are no workflows: list the steps under a rule's actions, or write one script",
	"action-chain":        "there are no workflows: list the steps under a rule's actions, or write one script",
	"mistral-v2":          "there are no workflows: list the steps under a rule's actions, or write one script",
	"python-script":       "write python; parameters come as ATTUNE_ACTION_<KEY> and as JSON on stdin",
	"local-shell-script":  "write shell; parameters come as ATTUNE_ACTION_<KEY> and as JSON on stdin",
	"local-shell-cmd":     "write shell, and put the command into a script",
	"run-local":           "write shell, and put the command into a script",
	"remote-shell-script": "write shell, and call ssh in the script",
	"remote-shell-cmd":    "write shell, and call ssh in a script",
	"ssh":                 "write shell, and call ssh in a script",
	"inquirer":            "there is nobody to ask: take the answer as a parameter",
	"announcement":        "let the rule name core.echo",
	"noop":                "let the rule name core.noop",
	"powershell":          "write native, and start the script with #!/usr/bin/env pwsh",
	"ruby":                "write native, and start the script with #!/usr/bin/env ruby",
	"perl":                "write native, and start the script with #!/usr/bin/env perl",
	"php":                 "write native, and start the script with #!/usr/bin/env php",
	"go":                  "write native, and put the compiled program here",
	"python2":             "write python; Python 2 is not supported",
	"deno":                "write native, and start the script with #!/usr/bin/env -S deno run",
}

// wayToGo is the hint for a runner_type that is none.
func wayToGo(word string) string {
	if hint, ok := refusedRunners[strings.ToLower(word)]; ok {
		return hint
	}
	return didYouMean(word, slices.Collect(maps.Keys(runtimeAliases)))
}

// runtimeOfExtension tells the runtime from a script's name; "" where it cannot.
func runtimeOfExtension(extension string) (runtime, interpreter string) {
	switch extension {
	case ".sh":
		return RuntimeShell, "bash"
	case ".py":
		return RuntimePython, ""
	case ".js", ".mjs", ".cjs":
		return RuntimeNode, ""
	default:
		return "", ""
	}
}
