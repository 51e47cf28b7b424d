package reconcile

import (
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

func TestIgnoresStdin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		runtime, script string
		want            bool
	}{
		"shell by environment":       {manifest.RuntimeShell, "#!/usr/bin/env bash\necho \"$ATTUNE_ACTION_NAME\"\n", true},
		"shell that reads":           {manifest.RuntimeShell, "read -r line\n", false},
		"shell with jq":              {manifest.RuntimeShell, "token=$(jq -r .token)\n", false},
		"shell that sources":         {manifest.RuntimeShell, "set -eu\n. lib.sh\n", false},
		"shell with a redirection":   {manifest.RuntimeShell, "x=$(</dev/stdin)\n", false},
		"readonly is not read":       {manifest.RuntimeShell, "readonly x=1\necho $x\n", true},
		"python by environment":      {manifest.RuntimePython, "#!/usr/bin/env python3\nimport os\nprint(os.environ['X'])\n", true},
		"python that reads":          {manifest.RuntimePython, "import json, sys\njson.load(sys.stdin)\n", false},
		"python with a module":       {manifest.RuntimePython, "from helper import parameters\nprint(parameters())\n", false},
		"python with no such module": {manifest.RuntimePython, "from json import loads\nprint(loads('1'))\n", true},
		"python with a package":      {manifest.RuntimePython, "import tools.x\n", false},
		"node by environment":        {manifest.RuntimeNode, "console.log(process.env.X)\n", true},
		"node that reads":            {manifest.RuntimeNode, "JSON.parse(require('fs').readFileSync(0))\n", false},
		"node with a module":         {manifest.RuntimeNode, "const p = require('./p')\n", false},
		"native":                     {manifest.RuntimeNative, "#!/bin/sh\necho\n", false},
		"empty":                      {manifest.RuntimeShell, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newTree(t)
			f.write("p/pack.yaml", "ref: p\nversion: 1.0.0\n")
			f.write("p/lib/helper.py", "x")
			f.write("p/lib/tools/x.py", "x")
			f.write("p/actions/x", c.script)
			folders, _, _ := bundlesAt([]place{placeOf(f.dir, f.dir, "p")}, time.Now())
			p := newPreflight(nil, folders, time.Now())
			if have := p.IgnoresStdin("p", "actions/x", manifest.Runner{RunnerType: c.runtime}); have != c.want {
				t.Errorf("found %v, expected %v", have, c.want)
			}
			if p.IgnoresStdin("p", "actions/nothing", manifest.Runner{RunnerType: c.runtime}) {
				t.Error("a script that is not there is judged")
			}
		})
	}
}
