package child

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// nodeBreed has no parent's process: a node knows no fork, so a whole one is started ahead.
type nodeBreed struct{ parent *parent }

func (b *nodeBreed) start(context.Context) error { return nil }

func (b *nodeBreed) fork(n int, _ []string) error {
	gone := b.parent.gone
	for range n {
		if !b.parent.w.nodes.take() {
			b.parent.miscarry(1)
			continue
		}
		b.parent.w.running.Go(func() {
			s, err := b.ahead()
			if err != nil {
				b.parent.w.nodes.give()
				b.parent.miscarry(1)
				b.parent.fail(gone, err)
				return
			}
			b.parent.arrive(gone, s)
		})
	}
	return nil
}

// ahead starts a node that waits.
func (b *nodeBreed) ahead() (*spare, error) {
	r := b.parent.w.runner
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	spec := b.parent.spec
	spec.Args = []string{filepath.Join(b.parent.w.opts.Dir, nodeFile)}
	spec.Files = []*os.File{theirs}
	// Its pipes are made now, and joined with the right readers and writers when it gets its work.
	spec.Stdin, spec.Stdout, spec.Stderr = strings.NewReader(""), new(strings.Builder), io.Discard
	p, err := r.startIdle(spec)
	if err != nil {
		ours.Close()
		return nil, err
	}
	return &spare{p: p, door: &nodeDoor{socketDoor: socketDoor{sock: ours, p: p}, release: b.parent.w.nodes.give}}, nil
}

func (b *nodeBreed) process() *Process { return nil }

func (b *nodeBreed) close() {}

// nodeDoor leads to a node that waits.
type nodeDoor struct {
	socketDoor
	release func()
}

func (d *nodeDoor) open(s *streams) error {
	err := d.socketDoor.open(s)
	if err == nil {
		d.release()
	}
	return err
}

func (d *nodeDoor) shut() {
	d.socketDoor.shut()
	d.release()
}
