// Command bench compares Attune with what it must not fall behind: xargs, River, a bare start of a
// process. Every figure is a ratio of two sides that ran one after the other on the same machine, round
// by round, because on a shared machine nothing else means anything.
//
//	go run . -list
//	go run . [-rounds N] [-json] [name …]
//
// It is a module of its own, so that what it compares with stays out of Attune's. It builds the daemon,
// starts a PostgreSQL of its own with fsync and synchronous_commit on, and removes both at its end.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/attune-io/attune/exec/child"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "keeper" { // of the private PostgreSQL
		os.Exit(child.RunKeeper())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// benchmarks are all there are, in the order of the list of goals.
func benchmarks() []Benchmark {
	return slices.Concat(execBenchmarks(), warmBenchmarks(), queueBenchmarks(), latencyBenchmarks(), timerBenchmarks(), commandBenchmarks(), pageBenchmarks(), sensorBenchmarks(), eventBenchmarks(), packBenchmarks())
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	rounds := flags.Int("rounds", leastRounds, "rounds of each benchmark")
	list := flags.Bool("list", false, "list the benchmarks and run none")
	asJSON := flags.Bool("json", false, "print the results as JSON")
	verbose := flags.Bool("v", false, "print each round, and the daemons' logs, on stderr")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen, err := choose(benchmarks(), flags.Args())
	if err != nil {
		return err
	}
	if *list {
		return printList(stdout, chosen)
	}
	if *rounds < 1 {
		return fmt.Errorf("cannot run %d rounds: expected 1 or more", *rounds)
	}
	log := io.Discard
	if *verbose {
		log = stderr
	}
	lab, err := newLab(ctx, log)
	if err != nil {
		return err
	}
	defer lab.close()
	var results []Result
	var errs []error
	for _, b := range chosen {
		fmt.Fprintf(stderr, "%s: %s\n", b.Name, b.What)
		r, err := b.run(ctx, lab, *rounds, log)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", b.Name, err))
			continue
		}
		results = append(results, r)
	}
	if *asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return errors.Join(append(errs, encoder.Encode(results))...)
	}
	return errors.Join(append(errs, printResults(stdout, results))...)
}

// choose gives the benchmarks of these names, or all. A name may end in * for all that begin so.
func choose(all []Benchmark, names []string) ([]Benchmark, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []Benchmark
	for _, name := range names {
		before := len(chosen)
		for _, b := range all {
			prefix, many := strings.CutSuffix(name, "*")
			if b.Name == name || many && strings.HasPrefix(b.Name, prefix) {
				chosen = append(chosen, b)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("there is no benchmark %q; -list names them", name)
		}
	}
	return chosen, nil
}

func printList(w io.Writer, list []Benchmark) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, b := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\n", b.Name, b.goal(), b.What)
	}
	return t.Flush()
}

func printResults(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "name\tours\tbaseline\tunit\tratio [min-max]\tgoal\tmet")
	for _, r := range results {
		met := "no"
		if r.Met {
			met = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f [%.2f-%.2f]\t%s\t%s\n",
			r.Name, figure(r.Ours), figure(r.Baseline), r.Unit, r.Ratio, r.Least, r.Most, r.Goal, met)
	}
	return t.Flush()
}

// figure prints three digits that mean something.
func figure(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
