package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	noopCount   = 20_000
	noopWorkers = 100
	// noopStock and noopClaim are what a worker pool claims ahead of such short attempts (stockMost for each
	// worker), and how many at once (claimMost).
	noopStock = 16 * noopWorkers
	noopClaim = 400

	// historyCount is what a busy week leaves behind.
	historyCount = 1_000_000

	// manyCount is queued at once; the first and the last manyPart of it are compared.
	manyCount = 100_000
	manyPart  = 20_000
)

func queueBenchmarks() []Benchmark {
	return []Benchmark{
		{
			Name: "queue-noop", Unit: "executions/s", Goal: 2.5,
			What: "executions that do nothing, claimed, started and finished, against River's, tuned",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				q, err := newNoopQueue(ctx, lab)
				if err != nil {
					return nil, nil, err
				}
				baseline, err = riverNoop(ctx, lab, noopCount, noopWorkers)
				return q.side, baseline, err
			},
		},
		{
			Name: "queue-history", Unit: "executions/s", Goal: 0.9,
			What: "executions that do nothing with 1,000,000 rows of history against none",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				full, err := newNoopQueue(ctx, lab)
				if err != nil {
					return nil, nil, err
				}
				if err := full.fillHistory(ctx, lab, historyCount); err != nil {
					return nil, nil, err
				}
				empty, err := newNoopQueue(ctx, lab)
				if err != nil {
					return nil, nil, err
				}
				return full.side, empty.side, nil
			},
		},
		{
			Name: "queue-100k", Unit: "executions/s", Goal: 0.9,
			What: "of 100,000 queued at once, the last 20,000 against the first",
			Prepare: func(ctx context.Context, lab *Lab) (ours, baseline Side, err error) {
				q, err := newNoopQueue(ctx, lab)
				if err != nil {
					return nil, nil, err
				}
				many := &manyQueue{noopQueue: q}
				return many.last, many.first, nil
			},
		},
	}
}

// noopQueue is the store with a node that does what a worker pool does, but for the processes.
type noopQueue struct {
	lab   *Lab
	url   string
	store *store.Store
	ready int64 // the revision whose files would be in place
}

func newNoopQueue(ctx context.Context, lab *Lab) (*noopQueue, error) {
	url, err := lab.Database(ctx)
	if err != nil {
		return nil, err
	}
	s, err := lab.Store(ctx, url)
	if err != nil {
		return nil, err
	}
	if err := putAction(ctx, s); err != nil {
		return nil, err
	}
	catalog, err := s.Catalog(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &noopQueue{lab: lab, url: url, store: s, ready: catalog.Actions["p.hello"].RevisionID}, nil
}

// putAction puts an action into force that is claimed and never started.
func putAction(ctx context.Context, s *store.Store) error {
	schema, errs := manifest.NewSchema(map[string]any{"type": "object"}, true)
	if len(errs) > 0 {
		return fmt.Errorf("the schema: %v", errs)
	}
	a := &manifest.Action{Header: manifest.Header{Ref: "p.hello", Pack: "p", Name: "hello", Enabled: true}}
	a.File, a.RunnerType, a.EntryPoint, a.Parameters = "actions/hello.yaml", manifest.RuntimeShell, "hello.sh", schema
	_, err := s.Apply(ctx, []store.PackChange{{
		Ref: "p", Directory: "/packs", Manifest: &manifest.Pack{Ref: "p", Version: "1.0.0", Enabled: true},
		Revision: &store.NewRevision{
			Version: "1.0.0", Cause: "bench", Digest: "d", Tree: []store.TreeEntry{},
			Content: func(string) ([]byte, error) { return nil, os.ErrNotExist },
		},
		Put: []store.PutComponent{{Spec: a, Digest: "d", FilesDigest: "f"}},
	}})
	return err
}

// side queues, and then counts from the first claim to the last result.
func (q *noopQueue) side(ctx context.Context) (float64, error) {
	if _, err := enqueue(ctx, q.store, "p.hello", noopCount); err != nil {
		return 0, err
	}
	before := cpu(os.Getpid(), q.lab.postmaster)
	begun := time.Now()
	err := q.work(ctx, noopCount, nil)
	took := time.Since(begun)
	fmt.Fprintln(q.lab.log, cpu(os.Getpid(), q.lab.postmaster).sub(before).per(noopCount, "execution"))
	return noopCount / took.Seconds(), err
}

// work runs count executions: one claims for the free slots and a stock, and one commits the outcomes, as many
// as have come together. tell is told how many are done.
func (q *noopQueue) work(ctx context.Context, count int, tell func(done int)) error {
	group, ctx := errgroup.WithContext(ctx)
	reaping, stop := context.WithCancel(ctx)
	group.Go(func() error { return q.reap(reaping) })
	free := make(chan struct{}, noopWorkers+noopStock)
	for range cap(free) {
		free <- struct{}{}
	}
	started := make(chan string, cap(free))
	group.Go(func() error {
		defer close(started)
		for left := count; left > 0; {
			n, err := take(ctx, free, min(left, noopClaim))
			if err != nil {
				return err
			}
			list, err := q.store.Claim(ctx, "bench", n, q.ready)
			if err != nil {
				return err
			}
			for range n - len(list) {
				free <- struct{}{}
			}
			for _, c := range list {
				if !c.Begun {
					return fmt.Errorf("execution %d did not begin with its claim", c.ExecutionID)
				}
				started <- c.Token
			}
			left -= len(list)
		}
		return nil
	})
	group.Go(func() error {
		defer stop()
		done, zero := 0, 0
		for tokens := range batches(started) {
			outcomes := make([]store.Outcome, len(tokens))
			for i, token := range tokens {
				outcomes[i] = store.Outcome{Token: token, Status: store.StatusSucceeded, ExitCode: &zero}
			}
			if _, err := q.store.Finish(ctx, outcomes); err != nil {
				return err
			}
			done += len(tokens)
			if tell != nil {
				tell(done)
			}
			for range tokens {
				free <- struct{}{}
			}
		}
		return nil
	})
	return group.Wait()
}

// reap does what every node does beside its work: it looks for the dead, and vacuums the queue.
func (q *noopQueue) reap(ctx context.Context) error {
	const period = 5 * time.Second
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, _, err := q.store.Reap(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// take waits for so many slots: a claim for a few is hardly cheaper than one for many.
func take(ctx context.Context, free <-chan struct{}, n int) (int, error) {
	for range n {
		select {
		case <-free:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return n, nil
}

// batches gives what has come together, and waits for nobody.
func batches(from <-chan string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for first := range from {
			batch := []string{first}
			for more := true; more; {
				select {
				case next, open := <-from:
					if more = open; open {
						batch = append(batch, next)
					}
				default:
					more = false
				}
			}
			if !yield(batch) {
				return
			}
		}
	}
}

// fillHistory puts executions that ended long ago into today's partitions.
func (q *noopQueue) fillHistory(ctx context.Context, lab *Lab, count int) error {
	conn, err := lab.Connect(ctx, q.url)
	if err != nil {
		return err
	}
	for _, sql := range []string{
		`INSERT INTO attune.execution (action_ref, pack_ref, status, attempt, node, started_at, finished_at, exit_code, parameters)
		SELECT 'p.hello', 'p', 'succeeded', 1, 'bench', now(), now(), 0, '{}' FROM generate_series(1, $1::integer)`,
		`INSERT INTO attune.attempt (execution_id, created_at, number, token, status, node, queued_at, started_at, finished_at, exit_code)
		SELECT id, created_at, 1, gen_random_uuid(), 'succeeded', node, due_at, started_at, finished_at, 0 FROM attune.execution LIMIT $1::integer`,
		`INSERT INTO attune.output (execution_id, created_at, attempt, stream, text, bytes)
		SELECT id, created_at, 1, 'stdout', 'hello', 5 FROM attune.execution LIMIT $1::integer`,
	} {
		if _, err := conn.Exec(ctx, sql, count); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "VACUUM ANALYZE")
	return err
}

// manyQueue runs 100,000 executions once for both sides.
type manyQueue struct {
	*noopQueue
	took        [2]time.Duration // of the first part and of the last; 0: to be measured
	highest     uint64           // bytes of this process's heap
	atBeginning uint64
}

func (m *manyQueue) first(ctx context.Context) (float64, error) { return m.part(ctx, 0) }
func (m *manyQueue) last(ctx context.Context) (float64, error)  { return m.part(ctx, 1) }

// part gives one side, of a run that both sides share.
func (m *manyQueue) part(ctx context.Context, which int) (float64, error) {
	if m.took[which] == 0 {
		if err := m.run(ctx); err != nil {
			return 0, err
		}
	}
	took := m.took[which]
	m.took[which] = 0
	return manyPart / took.Seconds(), nil
}

func (m *manyQueue) run(ctx context.Context) error {
	if _, err := enqueue(ctx, m.store, "p.hello", manyCount); err != nil {
		return err
	}
	m.atBeginning, m.highest = heap(), 0
	begun := time.Now()
	var first, last time.Time
	looked, rest := 0, 0
	err := m.work(ctx, manyCount, func(done int) {
		if first.IsZero() && done >= manyPart {
			first = time.Now()
			m.took[0] = first.Sub(begun) * manyPart / time.Duration(done)
		}
		if last.IsZero() && done >= manyCount-manyPart {
			last, rest = time.Now(), manyCount-done
		}
		if done-looked >= manyPart/10 {
			m.highest, looked = max(m.highest, heap()), done
		}
	})
	m.took[1] = time.Since(last) * manyPart / time.Duration(max(rest, 1))
	fmt.Fprintf(m.lab.log, "queue-100k: heap at the beginning %d MiB, at most %d MiB; resident %s\n", m.atBeginning>>20, m.highest>>20, resident())
	return err
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

// resident is the memory of this process as the kernel tells it.
func resident() string {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(size)
		}
	}
	return "unknown"
}
