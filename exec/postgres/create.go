package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/attune-io/attune/exec/child"
)

// tuning is what a new cluster's postgresql.conf ends with: modest, as the daemon shares the machine
// with the work, and free to be changed.
const tuning = `
# Attune's own, written once when the cluster was made; change them as you like.
# What Attune needs fixed (socket, no TCP, fsync, logging) it sets on each start, above this file.
max_connections = 50
shared_buffers = 64MB
wal_buffers = 4MB
min_wal_size = 80MB
max_wal_size = 512MB
checkpoint_timeout = 15min
autovacuum_naptime = 15s
max_wal_senders = 0
wal_level = minimal
jit = off
timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
`

// create makes a cluster with its database. It is built under another name and renamed when it is
// complete and on disk, so a crash in between leaves nothing that looks like a cluster.
func (c *Cluster) create(ctx context.Context) error {
	c.opts.Progress("creating the database cluster")
	c.logger.Info("creating the database cluster", "data_dir", c.layout.data, "version", c.bin.version)
	fresh := c.layout.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	args := []string{
		"-D", fresh, "-U", role,
		"--auth=scram-sha-256", "--pwfile=" + c.layout.secretFile,
		"--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions",
	}
	if c.opts.Unsafe {
		args = append(args, "--no-sync")
	}
	if err := c.tool(ctx, "initdb", args, ""); err != nil {
		return err
	}
	if err := appendFile(filepath.Join(fresh, "postgresql.conf"), tuning); err != nil {
		return err
	}
	// A server of one session makes the database: no socket, no port, nobody else can be there yet.
	single := []string{"--single", "-D", fresh, "-c", "fsync=off", "-c", "log_min_messages=warning", "postgres"}
	if err := c.tool(ctx, "postgres", single, "CREATE DATABASE "+database+"\n"); err != nil {
		return err
	}
	if err := c.syncData(ctx, fresh); err != nil {
		return err
	}
	if err := os.Remove(c.layout.data); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // it may be there, empty
	}
	if err := os.Rename(fresh, c.layout.data); err != nil {
		return err
	}
	return syncDir(c.layout.dir)
}

// syncData puts all of a new cluster on disk at once, which is cheaper than each write by itself.
func (c *Cluster) syncData(ctx context.Context, dir string) error {
	if c.opts.Unsafe {
		return nil
	}
	return c.tool(ctx, "initdb", []string{"-D", dir, "--sync-only"}, "")
}

// tool runs one of the server's programs as the server's user.
func (c *Cluster) tool(ctx context.Context, name string, args []string, stdin string) error {
	out := child.NewCapture(logTail, child.NewMask([]string{c.secret}))
	p, err := c.opts.Runner.Start(ctx, child.Spec{
		Name:   name,
		Path:   filepath.Join(c.bin.dir, name),
		Args:   args,
		Env:    c.env(),
		Dir:    c.layout.dir,
		Stdin:  strings.NewReader(stdin),
		Stdout: out,
		Stderr: out,
		User:   c.layout.user,
	})
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s was interrupted: %w", name, ctx.Err()), p.Stop(0))
	}
	if exit := p.Wait(); exit.Code != 0 {
		text, _, _ := out.Text()
		return fmt.Errorf("%s failed (%v): %s", name, exit, strings.Join(strings.Fields(text), " "))
	}
	return nil
}

func appendFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
