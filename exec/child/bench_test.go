package child

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkSpawnTrue sets a start with all that this package adds (group, marks, limits, capture, sweep)
// beside a bare os/exec with the same two pipes, in one run: on a shared machine only their ratio counts.
func BenchmarkSpawnTrue(b *testing.B) {
	r := newTestRunner(b)
	env := NewEnv("", "").List()
	ours := func(b *testing.B) {
		out := NewCapture(1<<10, nil)
		p, err := r.Start(b.Context(), Spec{Name: "true", Path: "/bin/true", Env: env, Dir: "/", Stdout: out, Stderr: NewCapture(1<<10, nil)})
		if err != nil {
			b.Fatal(err)
		}
		if e := p.Wait(); e.Code != 0 {
			b.Fatal(e)
		}
	}
	bare := func(b *testing.B) {
		cmd := exec.Command("/bin/true")
		cmd.Env, cmd.Dir = env, "/"
		var out, err strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &err
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
	for name, run := range map[string]func(*testing.B){"attune": ours, "bare": bare} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				run(b)
			}
		})
		b.Run(name+"-parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					run(b)
				}
			})
		})
	}
}

// BenchmarkScript runs a script as the worker does, four at a time, and tells the CPU time of each run in
// microseconds: of this process, of the children and of warm parents. On a machine that others use too it
// says more than the time that passes.
func BenchmarkScript(b *testing.B) {
	for _, tc := range []struct{ name, kind, text string }{
		{"bash-cold", "", "echo hello\n"},
		{"bash-warm", WarmBash, "echo hello\n"},
		{"python-warm", WarmPython, "import json\nprint(json.dumps({}))\n"},
	} {
		b.Run(tc.name, func(b *testing.B) {
			h := newHothouse(b)
			kind := tc.kind
			if kind == "" {
				kind = WarmBash
			}
			spec := h.script(kind, "x"+ending(kind), tc.text)
			spec.Warm = tc.kind
			for i := range 15 { // as many as an attempt has
				spec.Env = append(spec.Env, fmt.Sprintf("ATTUNE_VARIABLE_%d=/var/lib/attune/%d", i, i))
			}
			run := func() {
				spec := spec
				spec.Stdin, spec.Stdout, spec.Stderr = strings.NewReader("{}\n"), NewCapture(1<<20, nil), NewCapture(1<<20, nil)
				p, err := h.Start(context.Background(), spec)
				if err != nil {
					b.Error(err)
				} else if exit := p.Wait(); exit.Code != 0 {
					b.Error(exit)
				}
			}
			for tc.kind != "" && h.count(WarmStarted) < 20 {
				run()
			}
			before := h.usage()
			b.ResetTimer()
			next := make(chan struct{})
			var workers sync.WaitGroup
			for range 4 {
				workers.Go(func() {
					for range next {
						run()
					}
				})
			}
			for range b.N {
				next <- struct{}{}
			}
			close(next)
			workers.Wait()
			b.StopTimer()
			after := h.usage()
			for i, part := range []string{"self", "children", "parents"} {
				b.ReportMetric(float64((after[i]-before[i]).Microseconds())/float64(b.N), part+"-µs/op")
			}
		})
	}
}

// usage is the CPU time of this process, of the children that it has reaped, and of warm parents and what
// they have reaped.
func (h *hothouse) usage() (u [3]time.Duration) {
	for i, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		if unix.Getrusage(who, &r) == nil {
			u[i] = time.Duration(r.Utime.Nano() + r.Stime.Nano())
		}
	}
	h.Warm.mu.Lock()
	defer h.Warm.mu.Unlock()
	for _, par := range h.parents {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", par.process().PID()))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, ticks := range fields[11:15] { // utime to cstime
			var n int64
			fmt.Sscan(ticks, &n)
			u[2] += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return u
}
