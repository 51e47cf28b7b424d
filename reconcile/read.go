package reconcile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// readTries is how often a file that changes while it is read is read at once again.
const readTries = 3

// errUnstable says that what a scan found is no longer so; the next scan tells what is.
var errUnstable = errors.New("it changes while it is read")

// reading is what was read of a file.
type reading struct {
	mark    mark
	digest  string
	content []byte // where it was asked for, or is small
}

// readFile reads a file of which it is sure that it did not change meanwhile. A pipe that took the
// file's place is not waited for, and a link not followed.
func readFile(d *os.Root, name string, keep bool, limit int64) (*reading, error) {
	for range readTries {
		r, err := readOnce(d, name, keep, limit)
		if !errors.Is(err, errUnstable) {
			return r, err
		}
	}
	return nil, errUnstable
}

func readOnce(d *os.Root, name string, keep bool, limit int64) (*reading, error) {
	f, err := d.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, errUnstable
	}
	content, digest, n, err := digestRead(f, before.Size(), keep, limit)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m := markOf(after)
	if m != markOf(before) || n != m.size {
		return nil, errUnstable
	}
	return &reading{mark: m, digest: digest, content: content}, nil
}

// digestRead reads what is expected to have size bytes, and no more than limit. Scripts are read at
// once; what is larger goes through a buffer, unless its content is asked for.
func digestRead(f io.Reader, size int64, keep bool, limit int64) (content []byte, digest string, n int64, err error) {
	const buffered = 256 << 10 // bytes
	if size <= buffered || keep {
		content = make([]byte, min(size, limit)+1)
		read, err := io.ReadFull(f, content)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, "", 0, err
		}
		// One byte more than expected was asked for: where it came, the size no longer fits.
		return content[:read], digestOf(content[:read]), int64(read), nil
	}
	h := sha256.New()
	n, err = io.CopyBuffer(h, io.LimitReader(f, limit+1), make([]byte, buffered))
	return nil, hex.EncodeToString(h.Sum(nil)), n, err
}

// unreadable says why a file cannot be read, with what an operator needs to mend it. info may be nil.
func unreadable(err error, info fs.FileInfo) string {
	if errors.Is(err, fs.ErrPermission) {
		text := fmt.Sprintf("permission denied to uid %d", os.Geteuid())
		if info != nil {
			text += fmt.Sprintf(" (mode %04o, owner uid %d)", info.Mode().Perm(), ownerOf(info))
		}
		return text
	}
	return plain(err)
}
