package child

import (
	"os/exec"
	"strings"
	"testing"
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
