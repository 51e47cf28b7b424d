package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// nodeFile has the id of the node that used the state directory last, for as long as that has not
// left in order.
const nodeFile = "node"

// newNodeID makes an id that no other start shares, on this host or any: "web1-k3v9q2".
func newNodeID(host string) string {
	const letters = 6 // of base 32: with the host's name before them enough to never meet twice
	return host + "-" + strings.ToLower(rand.Text()[:letters])
}

// replaceNode records this node in the state directory and gives the one that never left; empty: there
// is none. It is written before the node is known to the database, so that none is forgotten.
func replaceNode(state, node string) (former string, err error) {
	name := filepath.Join(state, nodeFile)
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read the former node's id: %v", err)
	}
	former = strings.TrimSpace(string(text))
	if err := writeDurably(name, node+"\n"); err != nil {
		return "", fmt.Errorf("cannot record this node's id: %v", err)
	}
	return former, nil
}

// forgetNode says that this node has left in order.
func forgetNode(state string) error {
	if err := os.Remove(filepath.Join(state, nodeFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot forget this node's id: %v", err)
	}
	return nil
}

// writeDurably replaces a file by a rename, so that a crash leaves the old or the new one.
func writeDurably(name, text string) error {
	file, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
