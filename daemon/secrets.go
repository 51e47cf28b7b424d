package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/attune-io/attune/reconcile/manifest"
)

// maxSecret bounds a secret, in bytes: keys and certificates are far shorter, and it goes through a
// pipe to a child.
const maxSecret = 64 << 10

// secretName leaves no way out of the folder, nor to the dot files that Kubernetes keeps in it.
var secretName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// secrets reads secrets from a folder with a file for each, as systemd's credentials and Kubernetes'
// secrets are. Each is read when it is needed, so that a rotated one counts at once. No error and no
// log line holds a value.
type secrets struct{ directory string }

// secret gives one secret, without the newline that editors put at its end.
func (s secrets) secret(name string) (string, error) {
	value, err := s.read(name)
	if err != nil {
		return "", fmt.Errorf("cannot read secret %s: %v", name, err)
	}
	value = strings.TrimSuffix(value, "\n")
	return strings.TrimSuffix(value, "\r"), nil
}

func (s secrets) read(name string) (string, error) {
	if !secretName.MatchString(name) {
		return "", errors.New("expected a name of letters, digits, dots, dashes and underscores")
	}
	if s.directory == "" {
		return "", errors.New("there is no folder of secrets: set secrets.directory")
	}
	// Inside a root no link leads out of the folder.
	root, err := os.OpenRoot(s.directory)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }() // it was only read
	// Without O_NONBLOCK a FIFO would hold the caller until somebody writes to it.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", s.missing(name)
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("it is no regular file")
	}
	value, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err != nil {
		return "", err
	}
	if len(value) > maxSecret {
		return "", fmt.Errorf("it is longer than %s", formatSize(maxSecret))
	}
	return string(value), nil
}

// missing is the error of a secret that is not there, with the nearest that is.
func (s secrets) missing(name string) error {
	text, near := "there is no such file in "+s.directory, ""
	if entries, err := os.ReadDir(s.directory); err == nil {
		names := make([]string, len(entries))
		for i, e := range entries {
			names[i] = e.Name()
		}
		near = manifest.Nearest(name, names)
	}
	if near != "" {
		text += "; did you mean " + near + "?"
	}
	return errors.New(text)
}
