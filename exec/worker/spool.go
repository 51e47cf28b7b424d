package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

const (
	spoolSuffix = ".json"
	spoolNew    = ".new"
)

// spool keeps outcomes on disk, a file for each token. Outputs may say things that are nobody else's
// business, so only the daemon's user reads them.
type spool struct{ dir string }

func (s spool) path(e *ended) (string, error) {
	token, err := uuid.Parse(e.Outcome.Token)
	if err != nil {
		return "", fmt.Errorf("its token is none: %v", err)
	}
	return filepath.Join(s.dir, token.String()+spoolSuffix), nil
}

// write returns when the outcome would survive a power cut.
func (s spool) write(e *ended) error {
	path, err := s.path(e)
	if err != nil {
		return err
	}
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+spoolNew, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path + spoolNew) // on a full disk another may fit in its place
		return err
	}
	if err := os.Rename(path+spoolNew, path); err != nil {
		return err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (s spool) remove(e *ended, log *slog.Logger) {
	if !e.spooled {
		return
	}
	path, err := s.path(e)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("cannot remove an outcome from the spool folder", "err", err)
	}
}

// load reads what is there; what cannot be read is told and left alone.
func (s spool) load(log *slog.Logger) ([]*ended, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the spool folder: %v", err)
	}
	var list []*ended
	for _, entry := range entries {
		path := filepath.Join(s.dir, entry.Name())
		if strings.HasSuffix(entry.Name(), spoolNew) {
			os.Remove(path) // never finished; its attempt is lost
			continue
		}
		if !strings.HasSuffix(entry.Name(), spoolSuffix) {
			continue
		}
		data, err := os.ReadFile(path)
		e := &ended{spooled: true}
		if err == nil {
			err = json.Unmarshal(data, e)
		}
		if err == nil {
			_, err = s.path(e)
		}
		if err == nil && !e.Outcome.Status.IsOutcome() {
			err = fmt.Errorf("%s: %q is no status that an attempt ends with", path, e.Outcome.Status)
		}
		if err != nil {
			log.Warn("cannot read an outcome in the spool folder, it is left there", "err", err)
			continue
		}
		list = append(list, e)
	}
	return list, nil
}
