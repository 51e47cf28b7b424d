package child

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// fifoPause is between two tries to open a pipe at whose other end somebody is about to be.
	fifoPause = 50 * time.Microsecond
	// bashPipesDocuments is the first version, as major * 100 + minor, whose here-documents come by a pipe.
	bashPipesDocuments = 501
	// documentEnd is the line behind a here-document.
	documentEnd = "_attune_end_of_stdin_"
)

// bashBreed is the parent of shells. A shell cannot be handed descriptors, so each waits at a place: named
// pipes in a folder of the parent's, which are used again when all that had them open is gone.
type bashBreed struct {
	parent *parent
	gone   chan struct{}
	proc   *Process
	folder string
	hello  *os.File
	said   *Capture
	// version is bash's; it is set before anybody asks for it.
	version int

	mu     sync.Mutex
	next   int
	free   []*place
	places map[int]*place // by number
	asked  []int          // how many each request was for
	closed bool
}

// place is where one shell waits: ".c" brings its work, ".0" to ".2" are its streams.
type place struct {
	number   int
	path     string // without the ending
	pid      int    // of the shell that is being forked for it
	begun    bool   // the shell got its work
	out, err *pipeEnd
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
	if err := w.runner.setTag(b.proc.pid, b.proc.id); err != nil {
		return fmt.Errorf("cannot mark it: %w", err)
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
	begins := func(version int, err error) {
		if up != nil { // whoever of its children says so later is not it
			b.version = version
			up <- err
			up = nil
		}
	}
	for in := bufio.NewScanner(b.hello); in.Scan(); {
		f := strings.Fields(in.Text())
		switch {
		case len(f) == 2 && f[0] == "up":
			version, _ := strconv.Atoi(f[1]) // 0 can do nothing
			begins(version, nil)
		case len(f) == 1 && f[0] == "old":
			begins(0, errors.New("it needs bash 5 or newer"))
		case len(f) == 1 && f[0] == "forked":
			b.forked(forked)
			forked = nil
		case len(f) > 0 && f[0] == "pids":
			for pair := range slices.Chunk(f[1:], 2) {
				if at := b.place(pair[0]); at != nil && len(pair) == 2 {
					at.pid, _ = strconv.Atoi(pair[1]) // 0 is nobody's
					forked = append(forked, at)
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
	at := &place{number: b.next, path: filepath.Join(b.folder, strconv.Itoa(b.next))}
	if err := b.furnish(at); err != nil {
		b.remove(at)
		return nil, err
	}
	b.places[at.number] = at
	return at, nil
}

// furnish makes the pipes of a place.
func (b *bashBreed) furnish(at *place) (err error) {
	for _, end := range placeEnds {
		if err := unix.Mkfifo(at.path+end, 0o600); err != nil {
			return err
		}
		if u := b.parent.spec.User; isOther(u) {
			if err := giveFifo(at.path+end, u); err != nil {
				return err
			}
		}
	}
	if at.out, err = lastingEnd(at.path + ".1"); err != nil {
		return err
	}
	at.err, err = lastingEnd(at.path + ".2")
	return err
}

// placeEnds are the endings of the pipes of a place.
var placeEnds = [...]string{".c", ".0", ".1", ".2"}

// lastingEnd opens a pipe at both its ends: nobody waits to open it for writing, and it is read for one child
// after the other.
func lastingEnd(path string) (*pipeEnd, error) {
	fd, err := openFifo(path, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &pipeEnd{fd: fd, lasting: true}, nil
}

// remove removes what there is of a place.
func (b *bashBreed) remove(at *place) {
	for _, end := range placeEnds {
		_ = os.Remove(at.path + end)
	}
	for _, e := range []*pipeEnd{at.out, at.err} {
		if e != nil {
			e.giveUp()
		}
	}
}

// begin notes that the shell at a place gets its work: from here on the place is its own, also when the
// parent ends.
func (b *bashBreed) begin(at *place) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.places[at.number] != at {
		return false
	}
	at.begun = true
	return true
}

// leave makes a place vacant that nobody has open any more.
func (b *bashBreed) leave(at *place) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.drop(at)
		return
	}
	defer b.mu.Unlock()
	at.begun = false
	delete(b.places, at.number)
	b.free = append(b.free, at)
}

// drop gives a place up for good.
func (b *bashBreed) drop(at *place) {
	b.mu.Lock()
	mine := b.places[at.number] == at
	delete(b.places, at.number)
	last := b.closed && len(b.places) == 0
	b.mu.Unlock()
	if mine {
		b.remove(at)
	}
	if last {
		os.RemoveAll(b.folder)
	}
}

func (b *bashBreed) process() *Process { return b.proc }

func (b *bashBreed) close() {
	b.mu.Lock()
	b.closed = true
	idle := b.free
	for _, at := range b.places {
		if !at.begun {
			idle = append(idle, at)
			delete(b.places, at.number)
		}
	}
	b.free = nil
	last := len(b.places) == 0
	b.mu.Unlock()
	if b.proc != nil {
		if err := b.proc.Stop(0); err != nil {
			b.parent.log.Error("warm parent cannot be ended", "err", err)
		}
		// What it forked may still have the other end.
		b.hello.Close()
	}
	for _, at := range idle {
		b.remove(at)
	}
	if last { // else who has begun may not have opened its pipes yet
		os.RemoveAll(b.folder)
	}
}

// bashDoor leads to a shell that waits at a place.
type bashDoor struct {
	breed *bashBreed
	place *place
	p     *Process
	work  []byte
	waits bool // for stdin
}

func (d *bashDoor) hand(s *streams, spec *Spec, variables []string) error {
	work := make([]byte, 0, 2<<10)
	work = append(work, "export"...)
	for _, item := range variables {
		name, value, _ := strings.Cut(item, "=")
		if !isShellName(name) {
			return fmt.Errorf("a shell cannot have a variable named %q", name)
		}
		work = append(append(append(work, ' '), name...), '=')
		work = appendQuoted(work, value)
	}
	work = append(work, "\nBASH_ARGV0="...)
	work = appendQuoted(work, spec.Args[0])
	// 254 is what set -m opened.
	work = append(work, "\nexec 3>&- 254>&-"...)
	for _, out := range []struct {
		number string
		wanted bool
		end    *pipeEnd
		to     **pipeEnd
	}{{"1", spec.Stdout != nil, d.place.out, &s.out}, {"2", spec.Stderr != nil, d.place.err, &s.err}} {
		work = append(append(append(work, ' '), out.number...), '>')
		if !out.wanted {
			work = append(work, os.DevNull...)
			continue
		}
		work = appendQuoted(work, d.place.path+"."+out.number)
		*out.to = out.end
	}
	switch text, ok := d.document(spec.Stdin); {
	case spec.Stdin == nil:
		work = append(work, " <"+os.DevNull+"\n"...)
	case ok:
		work = append(work, " <<'"+documentEnd+"'\n"...)
		work = append(append(work, text...), documentEnd+"\n"...)
	default:
		work = append(appendQuoted(append(work, " <"...), d.place.path+".0"), '\n')
		d.waits = true
	}
	d.work = work
	return nil
}

// document gives the text of stdin where it can come as a here-document.
func (d *bashDoor) document(stdin io.Reader) (text []byte, ok bool) {
	if stdin == nil || !fits(stdin) || d.breed.version < bashPipesDocuments {
		return nil, false
	}
	from, ok := stdin.(io.ReadSeeker)
	if !ok {
		return nil, false
	}
	at, err := from.Seek(0, io.SeekCurrent)
	if err == nil {
		text, err = io.ReadAll(from)
	}
	if err == nil {
		_, err = from.Seek(at, io.SeekStart) // it may be read again
	}
	// It is text of whole lines to bash, which has bytes of its own among the control characters.
	odd := func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }
	if err != nil || len(text) == 0 || text[len(text)-1] != '\n' || bytes.ContainsFunc(text, odd) || bytes.Contains(text, []byte(documentEnd)) {
		return nil, false
	}
	return text, true
}

// writer opens our end of what the shell reads, as soon as the shell is at the other.
func (d *bashDoor) writer(end string) (*pipeEnd, error) {
	began := time.Now()
	for {
		fd, err := openFifo(d.place.path+end, unix.O_WRONLY)
		switch {
		case err == nil:
			return &pipeEnd{fd: fd}, nil
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
	if isStopped(d.p.pid) {
		return errors.New("it was stopped while it waited") // and would not tell
	}
	if !d.breed.begin(d.place) {
		return errGone
	}
	way, err := d.writer(".c")
	if err != nil {
		return err
	}
	n, err := unix.Write(way.fd, d.work)
	if n < len(d.work) && (err == nil || errors.Is(err, unix.EAGAIN)) {
		c := way.asFile()
		c.SetWriteDeadline(time.Now().Add(warmPatience))
		_, err = c.Write(d.work[max(n, 0):])
	}
	if err != nil {
		d.p.kill() // before it takes half for the whole
	}
	way.close()
	if err == nil && d.waits {
		s.stdin, err = d.writer(".0")
	}
	return goneOr(err)
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

// appendQuoted makes one word of any text.
func appendQuoted(to []byte, text string) []byte {
	to = append(to, '\'')
	for {
		before, after, found := strings.Cut(text, "'")
		to = append(to, before...)
		if !found {
			return append(to, '\'')
		}
		to, text = append(to, `'\''`...), after
	}
}
