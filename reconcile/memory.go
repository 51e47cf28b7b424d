package reconcile

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/attune-io/attune/reconcile/store"
)

// memoryVersion begins the file, so that one of another form is not read. It changes with the form, with
// what a mark holds, and with what is hashed into a tree's digest.
const memoryVersion = "attune memory 3\n"

var errMemory = errors.New("it is not whole")

// memory is what outlives the process, so that a start costs a look at each file and not a reading of
// it: what the last scan found of each pack, and whether that is in force. All of it can be lost; then
// everything is read and parsed again.
//
// The marks of files count for as long as they fit. That a pack is in force counts only while nothing
// else that decides about it changed: the program, its configuration and the interpreters (environment),
// and the pack's row in the database.
type memory struct {
	environment string
	packs       map[string]*remembered // by key
}

// remembered is what is kept of one pack.
type remembered struct {
	folder *folder
	needs  []string
	offer  string
	// row is the identity of the pack's row when the folder was in force with nothing to say about it;
	// empty: it was not.
	row string
}

// rowIdentity tells a row from any other state of it, in this database or in another.
func rowIdentity(row *store.PackRow) string {
	return fmt.Sprintf("%d %d %d", row.ID, row.RevisionID, row.UpdatedAt.UnixNano())
}

// environmentOf is a digest of what decides about packs and is in no file of theirs.
func (o *Options) environmentOf() string {
	config, err := json.Marshal(o.PackConfig)
	if err != nil {
		return "" // nothing equals it: see recall
	}
	h := sha256.New()
	field(h, o.Version, o.Environment, string(config), o.Trust.Signatures)
	for _, key := range o.Trust.Keys {
		field(h, key.Encoded())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// remember reads the memory. One that cannot be read is none.
func (r *Reconciler) remember() {
	r.memory = memory{packs: map[string]*remembered{}}
	if r.opts.Memory == "" {
		return
	}
	data, err := os.ReadFile(r.opts.Memory)
	if err == nil {
		r.memory, err = decodeMemory(data)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.logger.Warn("packs are read anew", "path", r.opts.Memory, "err", err)
		}
		r.memory = memory{packs: map[string]*remembered{}}
		return
	}
	for key, one := range r.memory.packs {
		r.scanner.folders[key] = one.folder
	}
}

// lookAhead looks at the packs that the last process knew while the first catalog is loaded, which takes as long.
// What it gives waits for it.
func (r *Reconciler) lookAhead() (wait func()) {
	if r.catalog != nil || len(r.memory.packs) == 0 {
		return func() {}
	}
	r.relist()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.scanner.lookAhead(r.listing.places)
	}()
	return func() { <-done }
}

// recall makes what is known of a pack that is looked at for the first time.
func (r *Reconciler) recall(v visit) *pack {
	p := &pack{}
	old := r.memory.packs[v.folder.key]
	row := r.catalog.Packs[v.folder.ref]
	if old == nil || row == nil || r.planOnly || r.environment == "" || r.memory.environment != r.environment {
		return p
	}
	p.needs, p.offer = old.needs, old.offer
	if old.row != rowIdentity(row) || old.folder.sum != v.folder.sum || r.listing.twice[v.folder.ref] != "" {
		return p
	}
	if slices.ContainsFunc(r.catalog.Members(v.folder.ref), func(m *store.Record) bool { return m.Sealed != nil }) {
		return p // what its files give is needed once more
	}
	p.folder, p.row, p.errors, p.enabled = v.folder, row, row.Errors, row.ManifestEnabled
	r.tell(v.folder.ref, nil, p.errors)
	return p
}

// keep writes the memory, if something changed since it was written.
func (r *Reconciler) keep() {
	if r.opts.Memory == "" || !r.unkept || r.status.LastScan.IsZero() {
		return
	}
	r.unkept = false
	m := memory{environment: r.environment, packs: make(map[string]*remembered, len(r.packs))}
	for ref, p := range r.packs {
		f := p.folder
		if f == nil || f.held || f.noPack || len(f.problems) > 0 || len(f.findings) > 0 {
			continue
		}
		one := &remembered{folder: f, needs: p.needs, offer: p.offer}
		if !p.stale && p.rest == nil && p.row != nil && p.row.Present && p.row.TreeDigest == f.digest &&
			p.row.Directory == f.directory && !p.errors.HasErrors() && r.listing.twice[ref] == "" && !r.planOnly {
			one.row = rowIdentity(p.row)
		}
		m.packs[f.key] = one
	}
	// It is renamed into place, so that it is never half of one; after a power failure it may be, which
	// its digest tells.
	temporary := r.opts.Memory + ".new"
	err := m.writeFile(temporary)
	if err == nil {
		err = os.Rename(temporary, r.opts.Memory)
	}
	if err != nil {
		r.logger.Warn("the next start reads all packs anew", "path", r.opts.Memory, "err", err)
	}
}

func (m *memory) writeFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(m.write(f), f.Close())
}

// write gives the form of the file: the version, packs sorted by key, and a digest over all of it. It is never in
// memory as a whole: with ten thousand packs that would be the most that a start takes.
func (m *memory) write(to io.Writer) error {
	sum := sha256.New()
	w := memoryWriter{to: bufio.NewWriterSize(io.MultiWriter(to, sum), 64<<10)}
	w.bytes([]byte(memoryVersion))
	w.text(m.environment)
	w.number(int64(len(m.packs)))
	for _, key := range sortedKeys(m.packs) {
		one := m.packs[key]
		f := one.folder
		w.text(f.key, f.ref, f.directory, f.root, f.real, f.digest, f.sum, one.offer, one.row)
		w.number(int64(len(one.needs)))
		w.text(one.needs...)
		w.number(int64(len(f.files)))
		for i := range f.files {
			w.file(&f.files[i])
		}
		w.number(int64(len(f.dirs)))
		for i := range f.dirs {
			w.text(f.dirs[i].path[len(f.real):])
			w.mark(&f.dirs[i].mark)
		}
	}
	if err := w.to.Flush(); err != nil {
		return err
	}
	_, err := to.Write(sum.Sum(nil))
	return err
}

func decodeMemory(data []byte) (memory, error) {
	end := len(data) - sha256.Size
	if end < len(memoryVersion) || !bytes.HasPrefix(data, []byte(memoryVersion)) {
		return memory{}, errMemory
	}
	if sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return memory{}, errMemory
	}
	r := memoryReader{data: data[len(memoryVersion):end]}
	m := memory{environment: r.text(), packs: map[string]*remembered{}}
	for range r.count() {
		f := &folder{}
		one := &remembered{folder: f}
		for _, to := range []*string{&f.key, &f.ref, &f.directory, &f.root, &f.real, &f.digest, &f.sum, &one.offer, &one.row} {
			*to = r.text()
		}
		for range r.count() {
			one.needs = append(one.needs, r.text())
		}
		f.files = make([]file, r.count())
		for i := range f.files {
			r.file(&f.files[i])
		}
		f.dirs = make([]dir, r.count())
		for i := range f.dirs {
			f.dirs[i] = dir{f.real + r.text(), r.mark()}
		}
		f.problems = map[string]string{}
		m.packs[f.key] = one
	}
	if r.broken || len(r.data) > 0 {
		return memory{}, errMemory
	}
	return m, nil
}

// memoryWriter writes numbers and texts. What goes wrong is told by the end of to.
type memoryWriter struct{ to *bufio.Writer }

func (w *memoryWriter) bytes(data []byte) { _, _ = w.to.Write(data) }

func (w *memoryWriter) number(n int64) {
	w.bytes(binary.AppendVarint(w.to.AvailableBuffer(), n))
}

func (w *memoryWriter) text(texts ...string) {
	for _, text := range texts {
		w.number(int64(len(text)))
		_, _ = w.to.WriteString(text)
	}
}

func (w *memoryWriter) file(f *file) {
	w.text(f.path, f.link, f.to, f.from)
	digest, err := hex.DecodeString(f.digest)
	if err != nil {
		panic("reconcile: a digest that is not hex: " + f.digest)
	}
	w.text(string(digest))
	racy := int64(0)
	if f.racy {
		racy = 1
	}
	w.number(racy)
	w.mark(&f.mark)
}

func (w *memoryWriter) mark(m *mark) {
	for _, n := range []int64{int64(m.dev), int64(m.ino), m.size, m.mtime, m.ctime, int64(m.mode)} {
		w.number(n)
	}
}

// memoryReader reads what memoryWriter wrote. After the first thing that does not fit it gives zeros.
type memoryReader struct {
	data   []byte
	broken bool
}

func (r *memoryReader) number() int64 {
	n, size := binary.Varint(r.data)
	if size <= 0 {
		r.broken, r.data = true, nil
		return 0
	}
	r.data = r.data[size:]
	return n
}

// count is a number of things that follow, each of which takes a byte at least.
func (r *memoryReader) count() int {
	n := r.number()
	if n < 0 || n > int64(len(r.data)) {
		r.broken, r.data = true, nil
		return 0
	}
	return int(n)
}

func (r *memoryReader) text() string {
	n := r.count()
	text := string(r.data[:n])
	r.data = r.data[n:]
	return text
}

func (r *memoryReader) file(f *file) {
	f.path, f.link, f.to, f.from = r.text(), r.text(), r.text(), r.text()
	f.digest = hex.EncodeToString([]byte(r.text()))
	f.racy = r.number() != 0
	f.mark = r.mark()
}

func (r *memoryReader) mark() mark {
	return mark{
		dev: uint64(r.number()), ino: uint64(r.number()), size: r.number(), mtime: r.number(), ctime: r.number(),
		mode: uint32(r.number()),
	}
}
