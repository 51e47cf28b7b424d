package daemon

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/attune-io/attune/daemon/api"
	"github.com/attune-io/attune/reconcile/manifest"
)

func TestBanner(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	Banner(&out, Ready{
		Version: "1.2.3", Socket: "/run/attune/attune.sock", URL: "http://127.0.0.1:9753", State: "/var/lib/attune",
		Database: "private PostgreSQL 15.18", Command: "./bin/attune", Took: 812345 * time.Microsecond,
		Packs: []api.Pack{
			{Ref: "core", Version: "1.0.0", Components: api.ComponentCounts{Actions: 4, Triggers: 3, Sensors: 1}},
			{Ref: "empty", Version: "0.1.0", Errors: manifest.Errors{{
				Place: manifest.Place{File: "empty/rules/a.yaml", Line: 3, Col: 1}, Severity: manifest.SeverityError,
				Message: "cannot use trigger x.y: it is not known", Hint: `did you mean "x.z"?`,
			}}},
		},
	})
	want := `
Attune 1.2.3 is ready after 812ms.

  core   1.0.0     4 actions, 3 triggers, 1 sensor
  empty  0.1.0     nothing in force

  empty/rules/a.yaml:3:1: cannot use trigger x.y: it is not known; did you mean "x.z"?

  socket    /run/attune/attune.sock
  metrics   http://127.0.0.1:9753/metrics
  state     /var/lib/attune
  database  private PostgreSQL 15.18

Three things to try, in another terminal:

  ./bin/attune run core.echo message=hello  run an action
  ./bin/attune status                       see everything at once
  ./bin/attune execution list               see what the rules made happen

Edit a file of a pack, and the change is live when it is saved. Ctrl-C stops the daemon.

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestCommandName(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ binary, path, directory, want string }{
		{"/usr/bin/attune", "/bin:/usr/bin", "/home/u", "attune"},
		{"/src/bin/attune", "/bin:/usr/bin", "/src", "./bin/attune"},
		{"/opt/x/attune", "/bin:/usr/bin", "/src", "/opt/x/attune"},
	} {
		if got := commandName(test.binary, test.path, test.directory); got != test.want {
			t.Errorf("%+v: found %s", test, got)
		}
	}
}
