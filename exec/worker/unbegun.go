package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/attune-io/attune/exec/child"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// unbegunFile, in the folder of the spool, has the attempts of which the claim recorded that they begin
	// and that have not yet. Its records are of one length: the number of this boot, and then tokens or
	// nothing.
	unbegunFile   = "unbegun"
	unbegunRecord = 36 // bytes: a UUID as text
)

// unbegun notes what has not begun, so that it is not told as lost when this daemon is killed. A note lives as
// long as the kernel does, which needs no wait for the disk: after a reboot none counts, and what was claimed
// is lost like all that ran.
type unbegun struct {
	mu   sync.Mutex
	file *os.File // nil: nothing is noted
	// places are those of the tokens in the file, and free those without one below count.
	places map[string]int64
	free   []int64
	count  int64
}

// open begins a file without a note. Where there can be none nothing is noted.
func (n *unbegun) open(dir string) error {
	boot, err := child.BootID()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(dir, unbegunFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.WriteString(fmt.Sprintf("%-*s", unbegunRecord, boot)); err != nil {
		return errors.Join(err, file.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.file, n.places = file, map[string]int64{}
	return nil
}

// close removes the file, once nothing is held any more.
func (n *unbegun) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file != nil {
		os.Remove(n.file.Name())
		n.file.Close()
		n.file = nil
	}
}

// note says that an attempt has not begun.
func (n *unbegun) note(token string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil
	}
	place := n.count + 1
	if last := len(n.free) - 1; last >= 0 {
		place, n.free = n.free[last], n.free[:last]
	} else {
		n.count++
	}
	n.places[token] = place
	_, err := n.file.WriteAt([]byte(token), place*unbegunRecord)
	return err
}

// begins is called before an attempt begins: when it has returned without an error, nobody takes it for one
// that has not.
func (n *unbegun) begins(token string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	place, noted := n.places[token]
	if !noted || n.file == nil {
		return nil
	}
	var none [unbegunRecord]byte
	if _, err := n.file.WriteAt(none[:], place*unbegunRecord); err != nil {
		return fmt.Errorf("cannot note that it begins: %w", err)
	}
	delete(n.places, token)
	n.free = append(n.free, place)
	return nil
}

// readUnbegun gives the tokens that a killed run had noted.
func readUnbegun(dir string) (tokens []string, err error) {
	text, err := os.ReadFile(filepath.Join(dir, unbegunFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	boot, err := child.BootID()
	if err != nil || len(text) < unbegunRecord || string(text[:unbegunRecord]) != boot {
		return nil, err
	}
	for text = text[unbegunRecord:]; len(text) >= unbegunRecord; text = text[unbegunRecord:] {
		if token := string(text[:unbegunRecord]); uuid.Validate(token) == nil {
			tokens = append(tokens, token)
		}
	}
	return tokens, nil
}

// giveBack gives back to the queue what a killed run had claimed and not begun.
func giveBack(ctx context.Context, s *store.Store, dir string, logger *slog.Logger) error {
	tokens, err := readUnbegun(dir)
	if err != nil {
		logger.Warn("cannot read which attempts of a former run had not begun, they are lost with the others", "component", "worker", "err", err)
		return nil
	}
	if err := s.Release(ctx, tokens); err != nil {
		return fmt.Errorf("cannot give back what a former run had not begun: %w", err)
	}
	if len(tokens) > 0 {
		logger.Info("attempts that a former run had claimed and not begun go back to the queue", "component", "worker", "count", len(tokens))
	}
	return nil
}
