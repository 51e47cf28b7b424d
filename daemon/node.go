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

// formerNode gives the node that used the state directory last and never left it; empty: there is none.
func formerNode(state string) (string, error) {
	text, err := os.ReadFile(filepath.Join(state, nodeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("cannot read the former node's id: %v", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// recordNode puts this node in the former one's place. That comes after the former's attempts have been
// ended, or a start that fails in between would forget them, and before this node is known to the
// database, so that it is never forgotten itself.
func recordNode(state, node string) error {
	if err := writeDurably(filepath.Join(state, nodeFile), node+"\n"); err != nil {
		return fmt.Errorf("cannot record this node's id: %v", err)
	}
	return nil
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
