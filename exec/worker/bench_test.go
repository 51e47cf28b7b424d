package worker

import (
	"encoding/json"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/attune-io/attune/reconcile/store"
)

// BenchmarkExec runs executions of one bash script through a pool of the default size: claimed,
// started, run, captured and finished in the database. Baseline runs the same script by a plain loop
// for each core, as xargs -P would.
func BenchmarkExec(b *testing.B) {
	b.Run("pool", func(b *testing.B) {
		m := newMachine(b)
		m.action("hello", "echo hello\n")
		list := make([]store.NewExecution, b.N)
		for i := range list {
			list[i] = store.NewExecution{Action: "p.hello", Parameters: json.RawMessage(`{"message": "hello"}`)}
		}
		const batch = 1000
		var last int64
		for len(list) > 0 {
			n := min(batch, len(list))
			ids := m.enqueue(list[:n]...)
			last, list = ids[n-1], list[n:]
		}
		b.ResetTimer()
		p := m.run(func(o *Options) {
			o.Workers = 0 // the default
			o.Logger = slog.New(slog.DiscardHandler)
		})
		m.await(last)
		eventually(b, "all are done", func() bool {
			stats, err := m.store.QueueStats(b.Context())
			return err == nil && stats.Depth[store.StatusRequested]+stats.Depth[store.StatusRunning] == 0
		})
		b.StopTimer()
		p.stop()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "executions/s")
	})
	b.Run("baseline", func(b *testing.B) {
		m := newMachine(b)
		m.action("hello", "echo hello\n")
		script := filepath.Join(m.pack, "actions", "hello.sh")
		b.ResetTimer()
		next := make(chan struct{})
		var workers sync.WaitGroup
		for range runtime.NumCPU() {
			workers.Go(func() {
				for range next {
					cmd := exec.Command("bash", script)
					cmd.Stdout = io.Discard
					if err := cmd.Run(); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for range b.N {
			next <- struct{}{}
		}
		close(next)
		workers.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "executions/s")
	})
}
