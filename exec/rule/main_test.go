package rule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
	"github.com/attune-io/attune/reconcile/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// catalogOf makes a catalog of the packs of an archive, whose files are named like those of a packs
// folder. All of it is in force, until a change says otherwise.
func catalogOf(t testing.TB, generation int64, archive string, change ...func(*store.Catalog)) *store.Catalog {
	t.Helper()
	c := &store.Catalog{
		Generation: generation,
		Packs:      map[string]*store.PackRow{},
		Actions:    map[string]*store.Record{},
		Triggers:   map[string]*store.Record{},
		Sensors:    map[string]*store.Record{},
		Rules:      map[string]*store.Record{},
	}
	for folder, files := range packsOf(archive) {
		bundle := manifest.Parse(folder, files)
		if bundle.Errors.HasErrors() {
			t.Fatal(bundle.Errors)
		}
		for _, component := range bundle.Components() {
			r := recordOf(t, component)
			c.Records(r.Kind)[r.Ref] = r
		}
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func packsOf(archive string) map[string]map[string]manifest.File {
	packs := map[string]map[string]manifest.File{}
	for _, f := range txtar.Parse([]byte(archive)).Files {
		folder, name, _ := strings.Cut(f.Name, "/")
		if packs[folder] == nil {
			packs[folder] = map[string]manifest.File{}
		}
		packs[folder][name] = manifest.File{Content: f.Data}
	}
	return packs
}

func recordOf(t testing.TB, component manifest.Component) *store.Record {
	t.Helper()
	data, err := manifest.Encode(component)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	head := component.Head()
	return &store.Record{
		Kind: component.Kind(), Ref: head.Ref, Pack: head.Pack, Enabled: head.Enabled, Present: true,
		ManifestEnabled: head.Enabled, Digest: hex.EncodeToString(sum[:]), Spec: component,
	}
}

// catalogs is a Catalogs whose newest can be replaced.
type catalogs struct {
	newest func() (*store.Catalog, error)
}

func (c catalogs) Catalog(context.Context, int64) (*store.Catalog, error) { return c.newest() }

func fixed(c *store.Catalog) catalogs {
	return catalogs{func() (*store.Catalog, error) { return c, nil }}
}

func noConfig(string) map[string]any { return nil }

// event makes an event of p.t.
func event(payload string) *store.Event {
	return &store.Event{
		ID: 7, CreatedAt: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Trigger: "p.t", Source: "p.s",
		Payload: json.RawMessage(payload),
	}
}

// pack is what most tests begin with.
const pack = `
-- p/pack.yaml --
version: 1.0.0
-- p/triggers/t.yaml --
parameters_schema:
  zone: {type: string, default: north}
-- p/actions/a.yaml --
entry_point: a.sh
priority: 3
parameters:
  message: {type: string, default: hello}
  count: {type: integer, maximum: 10}
  token: {type: string, secret: true}
-- p/actions/b.yaml --
entry_point: b.sh
`

// sleep lets time go by inside a synctest bubble.
func sleep(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's time, which takes none
}
