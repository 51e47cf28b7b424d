package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverTuned is what makes River fast: as it comes it fetches ten times a second.
func riverTuned(config river.Config, workers int) *river.Config {
	config.FetchCooldown = time.Millisecond
	config.FetchPollInterval = 10 * time.Millisecond
	config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}
	config.Logger = slog.New(slog.DiscardHandler)
	return &config
}

// riverPool makes a database with River's tables.
func riverPool(ctx context.Context, lab *Lab) (*pgxpool.Pool, error) {
	url, err := lab.Database(ctx)
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 8 // as many as ours
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	lab.Defer(pool.Close)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return pool, err
}

type execArgs struct {
	Number int `json:"number"`
}

func (execArgs) Kind() string { return "exec" }

type execWorker struct {
	river.WorkerDefaults[execArgs]
	path string
	done *atomic.Int64
}

// Work runs the script as a plain program would, and keeps what it prints.
func (w *execWorker) Work(ctx context.Context, job *river.Job[execArgs]) error {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "/bin/bash", w.path)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return err
	}
	w.done.Add(1)
	return river.RecordOutput(ctx, out.String())
}

// riverExec runs the script as River jobs.
func riverExec(ctx context.Context, lab *Lab, path string, workers int) (Side, error) {
	pool, err := riverPool(ctx, lab)
	if err != nil {
		return nil, err
	}
	var done atomic.Int64
	register := river.NewWorkers()
	river.AddWorker(register, &execWorker{path: path, done: &done})
	client, err := river.NewClient(riverpgxv5.New(pool), riverTuned(river.Config{Workers: register}, workers))
	if err != nil {
		return nil, err
	}
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	lab.Defer(func() { report(client.Stop(context.Background())) })
	return func(ctx context.Context) (float64, error) {
		before := done.Load()
		begun := time.Now()
		if err := riverInsert(ctx, client, execCount, func(i int) river.JobArgs { return execArgs{i} }); err != nil {
			return 0, err
		}
		if err := riverAwait(ctx, pool); err != nil {
			return 0, err
		}
		took := time.Since(begun)
		if n := done.Load() - before; n != execCount {
			return 0, fmt.Errorf("%d of %d jobs of River's were done", n, execCount)
		}
		return execCount / took.Seconds(), nil
	}, nil
}

func riverInsert(ctx context.Context, client *river.Client[pgx.Tx], n int, args func(int) river.JobArgs) error {
	const batch = 1000
	for i := 0; i < n; {
		list := make([]river.InsertManyParams, 0, batch)
		for ; i < n && len(list) < batch; i++ {
			list = append(list, river.InsertManyParams{Args: args(i)})
		}
		if _, err := client.InsertManyFast(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// riverAwait waits until every job is recorded as completed.
func riverAwait(ctx context.Context, pool *pgxpool.Pool) error {
	return Until(ctx, "River has done all jobs", func(ctx context.Context) (bool, error) {
		var some bool
		err := pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM river_job WHERE finalized_at IS NULL AND state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))").Scan(&some)
		return !some, err
	})
}

type noopArgs struct {
	Number int `json:"number"`
}

func (noopArgs) Kind() string { return "noop" }

type noopWorker struct {
	river.WorkerDefaults[noopArgs]
}

func (*noopWorker) Work(context.Context, *river.Job[noopArgs]) error { return nil }

// riverNoop does jobs that do nothing: inserted first, then the clock.
func riverNoop(ctx context.Context, lab *Lab, count, workers int) (Side, error) {
	pool, err := riverPool(ctx, lab)
	if err != nil {
		return nil, err
	}
	register := river.NewWorkers()
	river.AddWorker(register, &noopWorker{})
	inserter, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Workers: register})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (float64, error) {
		if err := riverInsert(ctx, inserter, count, func(i int) river.JobArgs { return noopArgs{i} }); err != nil {
			return 0, err
		}
		client, err := river.NewClient(riverpgxv5.New(pool), riverTuned(river.Config{Workers: register}, workers))
		if err != nil {
			return 0, err
		}
		begun := time.Now()
		if err := client.Start(ctx); err != nil {
			return 0, err
		}
		err = riverAwait(ctx, pool)
		took := time.Since(begun)
		if stopErr := client.Stop(context.WithoutCancel(ctx)); err == nil {
			err = stopErr
		}
		return float64(count) / took.Seconds(), err
	}, nil
}
