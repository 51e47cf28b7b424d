package store_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// patience is how long a test waits for what should come at once: a busy machine is no failure.
const patience = 60 * time.Second

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func header(pack, name string) manifest.Header {
	return manifest.Header{Ref: pack + "." + name, Pack: pack, Name: name, Enabled: true}
}

func action(pack, name string, edit ...func(*manifest.Action)) *manifest.Action {
	a := &manifest.Action{Header: header(pack, name)}
	a.File = "actions/" + name + ".yaml"
	a.RunnerType, a.EntryPoint = manifest.RuntimeShell, name+".sh"
	for _, e := range edit {
		e(a)
	}
	return a
}

func onLostRetry(a *manifest.Action) { a.OnLost = "retry" }

func trigger(pack, name string) *manifest.Trigger {
	tr := &manifest.Trigger{Header: header(pack, name), Type: manifest.TriggerCustom}
	tr.File = "triggers/" + name + ".yaml"
	return tr
}

func sensor(pack, name string, triggers ...string) *manifest.Sensor {
	s := &manifest.Sensor{Header: header(pack, name), TriggerTypes: triggers}
	s.File = "sensors/" + name + ".yaml"
	s.RunnerType, s.EntryPoint = manifest.RuntimeShell, name+".sh"
	return s
}

func rule(pack, name, trigger string, parameters map[string]any) *manifest.Rule {
	r := &manifest.Rule{
		Header:  header(pack, name),
		Trigger: manifest.Use{Ref: trigger, Parameters: parameters},
		Actions: []manifest.Use{{Ref: pack + ".echo"}},
	}
	r.File = "rules/" + name + ".yaml"
	return r
}

// files makes a revision of files by path.
func files(contents map[string]string) *store.NewRevision {
	revision := &store.NewRevision{Version: "1.0.0", Cause: "edit", Changes: []string{"~ everything"}}
	byDigest := map[string]string{}
	for path, content := range contents {
		d := digest([]byte(content))
		byDigest[d] = content
		revision.Tree = append(revision.Tree, store.TreeEntry{Path: path, Digest: d, Size: int64(len(content))})
	}
	revision.Digest = digest(fmt.Append(nil, contents)) // fmt prints maps in the order of their keys
	revision.Content = func(d string) ([]byte, error) {
		content, ok := byDigest[d]
		if !ok {
			return nil, fmt.Errorf("no file %s", d)
		}
		return []byte(content), nil
	}
	return revision
}

// change puts components of one pack into force.
func change(pack string, components ...manifest.Component) store.PackChange {
	c := store.PackChange{
		Ref:       pack,
		Directory: "/packs",
		Manifest:  &manifest.Pack{Ref: pack, Version: "1.0.0", Enabled: true},
		Revision:  files(map[string]string{"pack.yaml": pack}),
	}
	for _, component := range components {
		data, err := manifest.Encode(component)
		if err != nil {
			panic(err)
		}
		c.Put = append(c.Put, store.PutComponent{Spec: component, Digest: digest(data), FilesDigest: "f"})
	}
	return c
}

func apply(t testing.TB, s *store.Store, changes ...store.PackChange) int64 {
	t.Helper()
	generation, err := s.Apply(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

func enqueue(t testing.TB, s *store.Store, executions ...store.NewExecution) []int64 {
	t.Helper()
	ids, err := s.Enqueue(t.Context(), executions)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// times repeats one execution.
func times(n int, e store.NewExecution) []store.NewExecution {
	all := make([]store.NewExecution, n)
	for i := range all {
		all[i] = e
	}
	return all
}

func claim(t testing.TB, s *store.Store, node string, limit int) []store.Claimed {
	t.Helper()
	claimed, err := s.Claim(t.Context(), node, limit)
	if err != nil {
		t.Fatal(err)
	}
	return claimed
}

func start(t testing.TB, s *store.Store, claimed ...store.Claimed) map[string]bool {
	t.Helper()
	held, err := s.Start(t.Context(), tokens(claimed))
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func finish(t testing.TB, s *store.Store, outcomes ...store.Outcome) []bool {
	t.Helper()
	accepted, err := s.Finish(t.Context(), outcomes)
	if err != nil {
		t.Fatal(err)
	}
	return accepted
}

func tokens(claimed []store.Claimed) []string {
	var list []string
	for _, c := range claimed {
		list = append(list, c.Token)
	}
	return list
}

func execution(t testing.TB, s *store.Store, id int64) (*store.Execution, []store.Attempt) {
	t.Helper()
	e, attempts, err := s.Execution(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return e, attempts
}

// sql runs a statement behind the store's back.
func sql(t testing.TB, s *store.Store, text string, args ...any) {
	t.Helper()
	if _, err := s.Pool().Exec(t.Context(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func one[T any](t testing.TB, s *store.Store, text string, args ...any) T {
	t.Helper()
	var value T
	if err := s.Pool().QueryRow(t.Context(), text, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

// matchAll gives each event one match of the rule a.r with n executions.
func matchAll(action string, n int) store.Matcher {
	const rule = "a.r"
	return func(_ context.Context, _ int64, events []store.Event) ([][]store.Match, error) {
		all := make([][]store.Match, len(events))
		for i, e := range events {
			m := store.Match{Rule: rule, Status: store.EnforcementMatched}
			for item := range n {
				m.Executions = append(m.Executions, store.NewExecution{
					Action: action, Rule: rule, Trigger: e.Trigger, EventID: e.ID, Item: item,
					Parameters: e.Payload, RequestedBy: "rule",
				})
			}
			all[i] = []store.Match{m}
		}
		return all, nil
	}
}

func commit(t testing.TB, s *store.Store, match store.Matcher, events ...store.NewEvent) []store.StoredEvent {
	t.Helper()
	stored, err := s.CommitEvents(t.Context(), events, match)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func object(t testing.TB, value any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
