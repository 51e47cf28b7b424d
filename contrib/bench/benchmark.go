package main

import (
	"context"
	"fmt"
	"io"
	"slices"
)

// leastRounds is how many rounds a result should have: fewer say little about the spread.
const leastRounds = 5

// Side measures one side of a benchmark once, and gives a rate or a time in the benchmark's unit.
type Side func(ctx context.Context) (float64, error)

// Benchmark is a ratio with a goal.
type Benchmark struct {
	Name string
	What string // the two sides in one line
	Unit string // of both sides
	Goal float64
	// AtMost says that less is better: both sides are times, and the ratio may be at most Goal.
	AtMost bool
	// Prepare makes the two sides; what it takes from the lab is given back after the last round.
	Prepare func(ctx context.Context, lab *Lab) (ours, baseline Side, err error)
}

func (b *Benchmark) goal() string {
	if b.AtMost {
		return fmt.Sprintf("<= %g", b.Goal)
	}
	return fmt.Sprintf(">= %g", b.Goal)
}

// Result is what came out: medians over the rounds, and the ratio's least and most.
type Result struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit"`
	Ours     float64 `json:"ours"`
	Baseline float64 `json:"baseline"`
	// Ratio is the median of the rounds' ratios.
	Ratio  float64   `json:"ratio"`
	Least  float64   `json:"ratio_min"`
	Most   float64   `json:"ratio_max"`
	Ratios []float64 `json:"ratios"`
	Goal   string    `json:"goal"`
	Met    bool      `json:"met"`
}

// run runs the rounds. Which side goes first changes each time, so that neither always meets the warmer
// machine; what the first round of all shows is warming up, and is not counted.
func (b *Benchmark) run(ctx context.Context, lab *Lab, rounds int, log io.Writer) (Result, error) {
	scope := lab.scope()
	defer scope.close()
	ours, baseline, err := b.Prepare(ctx, scope)
	if err != nil {
		return Result{}, err
	}
	var left, right, ratios []float64
	for round := range rounds + 1 {
		var figures [2]float64
		for turn := range 2 {
			which := (turn + round) % 2
			if figures[which], err = [2]Side{ours, baseline}[which](ctx); err != nil {
				return Result{}, err
			}
		}
		if figures[1] == 0 {
			return Result{}, fmt.Errorf("the baseline gave 0 %s", b.Unit)
		}
		ratio := figures[0] / figures[1]
		fmt.Fprintf(log, "%s: round %d: %s / %s %s = %.3f\n", b.Name, round, figure(figures[0]), figure(figures[1]), b.Unit, ratio)
		if round == 0 {
			continue
		}
		left, right, ratios = append(left, figures[0]), append(right, figures[1]), append(ratios, ratio)
	}
	r := Result{
		Name: b.Name, Unit: b.Unit, Ours: median(left), Baseline: median(right), Ratio: median(ratios),
		Least: slices.Min(ratios), Most: slices.Max(ratios), Ratios: ratios, Goal: b.goal(),
	}
	r.Met = r.Ratio >= b.Goal
	if b.AtMost {
		r.Met = r.Ratio <= b.Goal
	}
	return r, nil
}

func median(list []float64) float64 { return percentile(list, 0.5) }

// percentile interpolates between the two values that it lies between.
func percentile(list []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	if len(sorted) == 0 {
		return 0
	}
	at := p * float64(len(sorted)-1)
	low := int(at)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
