package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

// maxSecret bounds a secret, in bytes: keys and certificates are far shorter, and it goes through a
// pipe to a child.
const maxSecret = 64 << 10

// ownSecrets is how the names of the daemon's own credentials begin, which lie in the same folder under
// systemd: what encrypts parameters and opens the database is no action's to have.
const ownSecrets = "attune."

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
		return "", fmt.Errorf("cannot read secret %s: %w", name, err)
	}
	value = strings.TrimSuffix(value, "\n")
	return strings.TrimSuffix(value, "\r"), nil
}

func (s secrets) read(name string) (string, error) {
	if !secretName.MatchString(name) {
		return "", errors.New("expected a name of letters, digits, dots, dashes and underscores")
	}
	if strings.HasPrefix(name, ownSecrets) {
		return "", fmt.Errorf("names that begin with %q are the daemon's own", ownSecrets)
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

// sealParameters encrypts what the action's schema of now calls secret. Parameters of actions that are
// not known, or have nothing secret, are passed on as they are.
func (d *Daemon) sealParameters(action string, parameters json.RawMessage, secrets map[string]string) (json.RawMessage, map[string]string, error) {
	catalog := d.catalogs.current.Load()
	if catalog == nil {
		return parameters, secrets, nil
	}
	schema := parameterSchema(catalog.Actions[action])
	if len(schema.Secrets()) == 0 || len(parameters) == 0 {
		return parameters, secrets, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(parameters))
	decoder.UseNumber()
	var values map[string]any
	if err := decoder.Decode(&values); err != nil {
		return nil, nil, fmt.Errorf("cannot encrypt the secret parameters of action %s: they are no JSON object", action)
	}
	values, secrets, err := d.keys.Hide(action, schema, values, secrets)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := json.Marshal(values)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode the parameters of action %s: %v", action, err)
	}
	return encoded, secrets, nil
}

// sealStored encrypts what rules gave in clear before a schema called it secret, or before anybody
// encrypted it: before sensors start, which would be told other trigger instances later.
func (d *Daemon) sealStored(ctx context.Context) {
	count, err := d.store.SealParameters(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		d.log.Warn("secret parameters of rules are still stored in clear, it is tried again", "err", err)
	case count > 0:
		d.log.Info("secret parameters of rules encrypted", "rules", count)
	}
}

func parameterSchema(r *store.Record) *manifest.Schema {
	if r == nil {
		return nil
	}
	action, _ := r.Spec.(*manifest.Action)
	if action == nil {
		return nil
	}
	return action.Parameters
}

// reseal encrypts with the first key what older ones have encrypted, if there are older ones.
func (d *Daemon) reseal(ctx context.Context) {
	d.sealStored(ctx)
	first, others, err := d.keys.Rotating()
	if err != nil {
		d.log.Warn("secret parameters cannot be encrypted or read", "err", err)
		return
	}
	if !others {
		return
	}
	count, err := d.store.Reseal(ctx, d.keys.Renew)
	if err != nil {
		if ctx.Err() == nil {
			d.log.Warn("parameters not all encrypted with the new key, it is tried again", "count", count, "err", err)
		}
		return
	}
	if count > 0 || d.resealed != first {
		d.log.Info("nothing is encrypted with older keys any more, they may be removed from the key file", "key", first, "count", count)
	}
	d.resealed = first
}
