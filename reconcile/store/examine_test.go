package store_test

import (
	"context"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestExamine(t *testing.T) {
	t.Parallel()
	address := storetest.NewURL(t)
	if _, err := storetest.Open(t, address).Maintain(t.Context(), store.Retention{}); err != nil {
		t.Fatal(err)
	}
	e, err := store.Examine(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if e.VersionNumber < 140000 || e.Encoding != "UTF8" || e.ReadOnly || e.Between || !e.HasSchema || !e.OwnsSchema || !e.MayCreate {
		t.Errorf("%+v", e)
	}
	if e.SchemaVersion == 0 || e.SchemaVersion != e.NewestVersion || len(e.MissingPrivileges) > 0 || e.DaysAhead < 1 {
		t.Errorf("%+v", e)
	}
	if e.WALBytes == nil || *e.WALBytes == 0 || e.SizeBytes == 0 || e.Connections < 10 || e.Connected < 1 {
		t.Errorf("%+v", e)
	}
	// One machine has one clock.
	if e.ClockSeconds > time.Minute.Seconds() || e.ClockSeconds < -time.Minute.Seconds() || e.RoundTripSeconds <= 0 {
		t.Errorf("the clock differs by %v s, in %v s", e.ClockSeconds, e.RoundTripSeconds)
	}
}

// What a role lacks is named, where it may not even see how old the schema is.
func TestExamineByAStranger(t *testing.T) {
	t.Parallel()
	address := storetest.NewURL(t)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	name := "stranger_" + u.Path[len(u.Path)-6:]
	storetest.Exec(t, address, "CREATE ROLE "+name+" LOGIN PASSWORD 'x'")
	conn := storetest.Connect(t, address)
	t.Cleanup(func() {
		// Roles are the server's, and outlive the test's database.
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), "DROP OWNED BY "+name+"; DROP ROLE "+name); err != nil {
			t.Error(err)
		}
	})
	storetest.Exec(t, address, "GRANT USAGE ON SCHEMA attune TO "+name+"; GRANT SELECT ON attune.pack TO "+name)
	u.User = url.UserPassword(name, "x")
	e, err := store.Examine(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	if e.Role != name || e.OwnsSchema || e.MayCreate || e.WALBytes != nil {
		t.Errorf("%+v", e)
	}
	if !slices.Contains(e.MissingPrivileges, "pack: DELETE, INSERT, UPDATE") || !slices.Contains(e.MissingPrivileges, "queue: DELETE, INSERT, SELECT, UPDATE") {
		t.Errorf("found %q", e.MissingPrivileges)
	}
}

// A database without the schema, and one that takes no writes, can be examined as well.
func TestExamineWhatOpenRefuses(t *testing.T) {
	t.Parallel()
	address := storetest.NewEmptyURL(t)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Exec(t, address, `ALTER DATABASE "`+u.Path[1:]+`" SET default_transaction_read_only = on`)
	e, err := store.Examine(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	if !e.ReadOnly || e.HasSchema || e.SchemaVersion != 0 || e.NewestVersion == 0 {
		t.Errorf("%+v", e)
	}
}
