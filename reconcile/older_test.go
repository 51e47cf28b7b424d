package reconcile

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

// TestAnApplyThatTheDatabaseForgets has the server replaced by an older copy right after a commit, before anybody
// has read it back: what was applied is found missing, although the catalog is what it was before.
func TestAnApplyThatTheDatabaseForgets(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pack("one")
	b.start()
	b.stop()
	b.store.Close()
	address, err := url.Parse(b.url)
	b.do(err)
	name := strings.TrimPrefix(address.Path, "/")
	admin := storetest.NewEmptyURL(t)
	storetest.Exec(t, admin, fmt.Sprintf("CREATE DATABASE %s_copy TEMPLATE %[1]s", name))
	t.Cleanup(func() {
		conn, err := storetest.TryConnect(context.Background(), admin)
		b.do(err)
		defer conn.Close(context.Background())
		for _, left := range []string{"gone", "copy"} {
			_, err = conn.Exec(context.Background(), fmt.Sprintf("DROP DATABASE IF EXISTS %s_%s WITH (FORCE)", name, left))
			b.do(err)
		}
	})

	b.store = storetest.Open(t, b.url)
	swapped := false
	b.options = func(o *Options) {
		o.Applied = func(int64, []string) {
			if swapped {
				return
			}
			swapped = true
			for _, sql := range []string{
				"ALTER DATABASE %s ALLOW_CONNECTIONS false",
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'",
				"ALTER DATABASE %s RENAME TO %[1]s_gone",
				"ALTER DATABASE %s_copy RENAME TO %[1]s",
			} {
				storetest.Exec(t, admin, fmt.Sprintf(sql, name))
			}
		}
	}
	b.start()
	b.write("one/actions/act.yaml", "name: act\nlabel: Edited\nrunner_type: shell\nentry_point: act.sh\nparameters:\n  text: {type: string}\n")
	awaitCondition(t, "the copy in place of the database", func() bool { return strings.Contains(b.log.String(), "catalog is read later") }, b.log.String)
	b.reload()
	b.await("the edit", func(c *store.Catalog) bool { return c.Actions["one.act"].Spec.Head().Label == "Edited" })
}
