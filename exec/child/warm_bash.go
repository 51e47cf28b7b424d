package child

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// fifoPause is between two tries to open a pipe at whose other end somebody is about to be.
const fifoPause = 50 * time.Microsecond

// bashBreed is the parent of shells. A shell cannot be handed descriptors, so each waits at a place: named
// pipes in a folder of the parent's, which are used again when all that had them open is gone.
type bashBreed struct {
	parent *parent
	gone   chan struct{}
	proc   *Process
	folder string
	hello  *os.File
	said   *Capture

	mu     sync.Mutex
	next   int
	free   []*place
	places map[int]*place // by number
	asked  []int          // how many each request was for
	closed bool
}

// place is where one shell waits: "c" brings its work, 0 to 2 are its streams.
type place struct {
	number int
	path   string // without the ending
	pid    int    // of the shell that is being forked for it
	ready  chan struct{}
}

func (b *bashBreed) start(ctx context.Context) error {
	w := b.parent.w
	if err := b.makeFolder(); err != nil {
		return err
	}
	hello, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	b.hello, b.said, b.places = hello, NewCapture(warmSaid, nil), map[int]*place{}
	spec := b.parent.spec
	spec.Args = []string{"--noprofile", "--norc", filepath.Join(w.opts.Dir, bashFile), b.folder}
	spec.KeepStdin, spec.Stdout, spec.Stderr = true, NewCapture(warmSaid, nil), b.said
	spec.Files = []*os.File{theirs}
	if b.proc, err = w.runner.Start(ctx, spec); err != nil {
		hello.Close()
		return err
	}
	w.running.Go(func() { b.parent.watch(b.gone, b.proc, b.said) })
	up := make(chan error, 1)
	w.running.Go(func() { b.listen(up) })
	select {
	case err := <-up:
		return err
	case <-b.gone:
		return errGone
	case <-ctx.Done():
		return fmt.Errorf("it is not there after %v", warmUp)
	}
}

// makeFolder makes the folder that nobody but the children's user enters.
func (b *bashBreed) makeFolder() (err error) {
	if b.folder, err = os.MkdirTemp(b.parent.w.opts.Dir, "bash-"); err != nil {
		return err
	}
	return GiveFolder(b.folder, b.parent.spec.User)
}

func (b *bashBreed) listen(up chan<- error) {
	var forked []*place
	for in := bufio.NewScanner(b.hello); in.Scan(); {
		f := strings.Fields(in.Text())
		switch {
		case len(f) == 1 && f[0] == "up":
			up <- nil
		case len(f) == 1 && f[0] == "old":
			up <- errors.New("it needs bash 5 or newer")
		case len(f) == 1 && f[0] == "forked":
			b.forked(forked)
			forked = nil
		case len(f) == 3 && f[0] == "pid":
			if at := b.place(f[1]); at != nil {
				at.pid, _ = strconv.Atoi(f[2]) // 0 is nobody's
				forked = append(forked, at)
			}
		case len(f) == 2 && f[0] == "ready":
			if at := b.place(f[1]); at != nil {
				select {
				case at.ready <- struct{}{}:
				default:
				}
			}
		}
	}
}

func (b *bashBreed) place(number string) *place {
	n, err := strconv.Atoi(number)
	if err != nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.places[n]
}

// forked takes in what was forked since the last time; of places that were asked for and are missing
// nothing is known but that.
func (b *bashBreed) forked(list []*place) {
	b.mu.Lock()
	if len(b.asked) == 0 {
		b.mu.Unlock()
		return
	}
	missing := b.asked[0] - len(list)
	b.asked = b.asked[1:]
	b.mu.Unlock()
	b.parent.miscarry(missing)
	if len(list) == 0 {
		b.parent.fail(b.gone, errUnfit)
	}
	for _, at := range list {
		p, err := b.parent.w.runner.adopt(at.pid, b.proc)
		if err != nil {
			b.parent.log.Warn("warm child is missing", "err", err)
			b.parent.miscarry(1)
			b.drop(at)
			continue
		}
		b.parent.arrive(b.gone, &spare{p: p, door: &bashDoor{breed: b, place: at, p: p}})
	}
}

func (b *bashBreed) fork(n int, _ []string) error {
	line := make([]byte, 0, 4*n)
	for range n {
		at, err := b.vacant()
		if err != nil {
			return fmt.Errorf("cannot make its pipes: %w", err)
		}
		line = append(strconv.AppendInt(line, int64(at.number), 10), ' ')
	}
	line[len(line)-1] = '\n'
	b.mu.Lock()
	b.asked = append(b.asked, n)
	b.mu.Unlock()
	in := b.proc.streams.kept
	err := in.SetWriteDeadline(time.Now().Add(warmPatience))
	if err == nil {
		_, err = in.Write(line)
	}
	return err
}

// vacant gives a place that nobody is at.
func (b *bashBreed) vacant() (*place, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errGone
	}
	if last := len(b.free) - 1; last >= 0 {
		at := b.free[last]
		b.free = b.free[:last]
		b.places[at.number] = at
		return at, nil
	}
	b.next++
	at := &place{number: b.next, path: filepath.Join(b.folder, strconv.Itoa(b.next)), ready: make(chan struct{}, 1)}
	for _, end := range []string{".c", ".0", ".1", ".2"} {
		if err := unix.Mkfifo(at.path+end, 0o600); err != nil {
			return nil, err
		}
		if u := b.parent.spec.User; isOther(u) {
			if err := giveFifo(at.path+end, u); err != nil {
				return nil, err
			}
		}
	}
	b.places[at.number] = at
	return at, nil
}

// leave makes a place vacant that nobody has open any more.
func (b *bashBreed) leave(at *place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.places, at.number)
	b.free = append(b.free, at)
}

// drop gives a place up for good.
func (b *bashBreed) drop(at *place) {
	b.mu.Lock()
	delete(b.places, at.number)
	b.mu.Unlock()
	for _, end := range []string{".c", ".0", ".1", ".2"} {
		_ = os.Remove(at.path + end)
	}
}

func (b *bashBreed) process() *Process { return b.proc }

func (b *bashBreed) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	if b.proc != nil {
		if err := b.proc.Stop(0); err != nil {
			b.parent.log.Error("warm parent cannot be ended", "err", err)
		}
		// What it forked may still have the other end.
		b.hello.Close()
	}
	os.RemoveAll(b.folder)
}

// bashDoor leads to a shell that waits at a place.
type bashDoor struct {
	breed *bashBreed
	place *place
	p     *Process
}

func (d *bashDoor) hand(s *streams, spec *Spec, variables []string) (err error) {
	var work strings.Builder
	if s.out, err = d.reader(&work, "1", spec.Stdout != nil); err != nil {
		return err
	}
	if s.err, err = d.reader(&work, "2", spec.Stderr != nil); err != nil {
		return err
	}
	for _, item := range variables {
		name, value, _ := strings.Cut(item, "=")
		if !isShellName(name) {
			return fmt.Errorf("a shell cannot have a variable named %q", name)
		}
		work.WriteString("export " + name + "=" + shellQuote(value) + "\n")
	}
	work.WriteString("BASH_ARGV0=" + shellQuote(spec.Args[0]) + "\n")
	c, err := d.writer(".c")
	if err != nil {
		return err
	}
	c.SetWriteDeadline(time.Now().Add(warmPatience))
	_, err = io.WriteString(c, work.String())
	c.Close()
	if err != nil {
		return goneOr(err)
	}
	limit := time.NewTimer(warmPatience)
	defer limit.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-d.place.ready:
			return nil
		case <-limit.C:
			return fmt.Errorf("it did not answer within %v", warmPatience)
		case <-look.C:
			if (&spare{p: d.p}).hasEnded() {
				return errors.New("it ended before it began")
			}
		}
	}
}

// reader opens our end of a stream and says to the shell where the other is.
func (d *bashDoor) reader(work *strings.Builder, number string, wanted bool) (*os.File, error) {
	if !wanted {
		work.WriteString("exec " + number + ">/dev/null\n")
		return nil, nil
	}
	path := d.place.path + "." + number
	work.WriteString("exec " + number + ">" + shellQuote(path) + "\n")
	fd, err := openFifo(path, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("its pipes: %w", err)
	}
	return os.NewFile(uintptr(fd), "pipe"), nil
}

// writer opens our end of what the shell reads, as soon as the shell is at the other.
func (d *bashDoor) writer(end string) (*os.File, error) {
	began := time.Now()
	for {
		fd, err := openFifo(d.place.path+end, unix.O_WRONLY)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), "pipe"), nil
		case !errors.Is(err, unix.ENXIO):
			return nil, fmt.Errorf("its pipes: %w", err)
		case (&spare{p: d.p}).hasEnded():
			return nil, errGone
		case time.Since(began) > warmPatience:
			return nil, fmt.Errorf("it did not answer within %v", warmPatience)
		}
		<-time.After(fifoPause)
	}
}

func (d *bashDoor) open(s *streams) (err error) {
	s.stdin, err = d.writer(".0")
	return err
}

// done gives the place to others, unless something that was left behind has it open.
func (d *bashDoor) done(e Exit) {
	if e.OutputIncomplete {
		d.breed.drop(d.place)
		return
	}
	d.breed.leave(d.place)
}

func (d *bashDoor) shut() { d.breed.drop(d.place) }

// isShellName tells whether bash can have a variable of that name.
func isShellName(name string) bool {
	for i, c := range []byte(name) {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// shellQuote makes one word of any text.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
