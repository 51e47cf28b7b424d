package seal

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
)

const (
	// prefix begins a sealed value. No name of a secret has a colon.
	prefix = "sealed:"

	// keySize is AES-256's.
	keySize = 32

	// maxFile bounds a key file, in bytes: some hundred keys and their comments.
	maxFile = 64 << 10

	// placeholder stands in the parameters where a sealed value belongs.
	placeholder = "***"
)

// Options say where the keys are.
type Options struct {
	// Path is a file with a key a line, as `openssl rand -base64 32` prints it; the first one seals.
	// Lines that begin with # are comments.
	Path string
	// Create makes the file where it is missing.
	Create bool
	// Guarded says that the folder of the file keeps others out, as that of systemd's credentials
	// does: then the mode of the file does not matter.
	Guarded bool
}

// Keys are the keys of a file. They are safe for concurrent use.
type Keys struct {
	opts Options

	mu     sync.Mutex
	stamp  stamp
	keys   map[string]key
	first  string   // the key that seals
	others []string // those that only open
}

// key is one of the file, in the two forms that it is used in.
type key struct {
	aead    cipher.AEAD
	signing []byte
}

// stamp tells one state of the file from the next.
type stamp struct {
	inode    uint64
	size     int64
	modified time.Time
}

// New reads no file yet: it may be made later, by whoever runs this machine or by the first need.
func New(opts Options) *Keys { return &Keys{opts: opts} }

// IsSealed says whether a text is a sealed value, rather than the name of a secret.
func IsSealed(text string) bool { return strings.HasPrefix(text, prefix) }

// KeyOf names the key of a sealed value; empty: it is none.
func KeyOf(sealed string) string {
	id, _, ok := strings.Cut(strings.TrimPrefix(sealed, prefix), ":")
	if !ok || !IsSealed(sealed) {
		return ""
	}
	return id
}

// Hide takes what the schema calls secret out of the parameters of an action: a placeholder stays, and
// the sealed value goes into secrets, by JSON pointer, beside the names of secrets that are there.
// Neither argument is changed.
func (k *Keys) Hide(action string, schema *manifest.Schema, parameters map[string]any, secrets map[string]string) (map[string]any, map[string]string, error) {
	if len(schema.Secrets()) == 0 {
		return parameters, secrets, nil
	}
	all := make(map[string]string, len(secrets))
	maps.Copy(all, secrets)
	hidden, err := schema.ReplaceSecrets(parameters, func(pointer string, value any) (any, error) {
		if _, named := all[pointer]; named || value == nil {
			return value, nil
		}
		sealed, err := k.seal(action, pointer, value)
		if err != nil {
			return nil, err
		}
		all[pointer] = sealed
		return placeholder, nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encrypt the secret parameters of action %s: %w", action, err)
	}
	return hidden, all, nil
}

// Seal encrypts a value that is no parameter. Open gives it back, to who names the same owner and place.
// No action is called what owner says: refs have no spaces.
func (k *Keys) Seal(owner, place string, value any) (string, error) {
	sealed, err := k.seal(owner, place, value)
	if err != nil {
		return "", fmt.Errorf("cannot encrypt %s of %s: %w", place, owner, err)
	}
	return sealed, nil
}

func (k *Keys) seal(action, pointer string, value any) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(true); err != nil {
		return "", err
	}
	return k.sealWithFirst(action, pointer, value)
}

func (k *Keys) sealWithFirst(action, pointer string, value any) (string, error) {
	plain, err := json.Marshal(value)
	if err != nil {
		return "", errors.New("a value is no JSON") // the error would show it
	}
	aead := k.keys[k.first].aead
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	rand.Read(nonce)
	data := aead.Seal(nonce, nonce, plain, bound(action, pointer))
	return prefix + k.first + ":" + base64.RawStdEncoding.EncodeToString(data), nil
}

// Open gives the value back that Hide has sealed for this place. Numbers keep their digits.
func (k *Keys) Open(action, pointer, sealed string) (any, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(false); err != nil {
		return nil, err
	}
	return k.open(action, pointer, sealed)
}

func (k *Keys) open(action, pointer, sealed string) (any, error) {
	id, text, ok := strings.Cut(strings.TrimPrefix(sealed, prefix), ":")
	data, err := base64.RawStdEncoding.DecodeString(text)
	if !ok || err != nil || !IsSealed(sealed) {
		return nil, errors.New("it is no sealed value")
	}
	known, ok := k.keys[id]
	if !ok {
		return nil, fmt.Errorf("it was encrypted with key %s, which is not in %s; all nodes need one key file (secrets.key_file), and old keys have to stay in it until nothing is encrypted with them", id, k.opts.Path)
	}
	aead := known.aead
	if len(data) < aead.NonceSize() {
		return nil, errors.New("it is no sealed value")
	}
	plain, err := aead.Open(nil, data[:aead.NonceSize()], data[aead.NonceSize():], bound(action, pointer))
	if err != nil {
		return nil, fmt.Errorf("it was changed, or belongs to another action or parameter (key %s)", id)
	}
	decoder := json.NewDecoder(bytes.NewReader(plain))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, errors.New("what was encrypted is no JSON")
	}
	return value, nil
}

// Sign gives what equal texts have in common, KEY:MAC, and what nobody without the key can make from a
// guess: by the key that seals first, then by each other one of the file.
func (k *Keys) Sign(text string) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(true); err != nil {
		return nil, err
	}
	signed := make([]string, 0, 1+len(k.others))
	for _, id := range append([]string{k.first}, k.others...) {
		signed = append(signed, id+":"+hex.EncodeToString(sign(k.keys[id].signing, text)))
	}
	return signed, nil
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// Usable says why nothing can be sealed; nil: it can. It makes the file where Options allow it.
func (k *Keys) Usable() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.load(true)
}

// Names lists the keys, the one that seals first; none where they cannot be read.
func (k *Keys) Names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.load(false) != nil {
		return nil
	}
	return append([]string{k.first}, k.others...)
}

// bound is what is authenticated beside the value.
func bound(action, pointer string) []byte { return []byte(action + "\x00" + pointer) }

// Rotating tells the key that seals, and whether there are others, so that something may be sealed by
// one of them.
func (k *Keys) Rotating() (first string, others bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err = k.load(false)
	if errors.Is(err, fs.ErrNotExist) && k.opts.Create {
		return "", false, nil // nothing was sealed yet
	}
	return k.first, len(k.others) > 0, err
}

// Renew seals anew, with the first key, what another one has sealed; changed says whether there was
// any. What no key opens is left as it is.
func (k *Keys) Renew(action string, secrets map[string]string) (renewed map[string]string, changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(false); err != nil {
		return nil, false, err
	}
	renewed = make(map[string]string, len(secrets))
	for pointer, text := range secrets {
		renewed[pointer] = text
		if !IsSealed(text) || strings.HasPrefix(text, prefix+k.first+":") {
			continue
		}
		value, err := k.open(action, pointer, text)
		if err != nil {
			continue
		}
		if renewed[pointer], err = k.sealWithFirst(action, pointer, value); err != nil {
			return nil, false, err
		}
		changed = true
	}
	return renewed, changed, nil
}

// load reads the file where it has changed. It needs k.mu.
func (k *Keys) load(create bool) error {
	info, err := os.Stat(k.opts.Path)
	if errors.Is(err, fs.ErrNotExist) && create && k.opts.Create {
		if err := k.create(); err != nil {
			return err
		}
		info, err = os.Stat(k.opts.Path)
	}
	if err != nil {
		return fmt.Errorf("cannot read the key file: %w", err)
	}
	now := stampOf(info)
	if k.keys != nil && now == k.stamp {
		return nil
	}
	if err := k.read(info); err != nil {
		return fmt.Errorf("cannot use the key file %s: %w", k.opts.Path, err)
	}
	k.stamp = now
	return nil
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), modified: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

func (k *Keys) read(info fs.FileInfo) error {
	const others = 0o007
	switch {
	case !info.Mode().IsRegular():
		return errors.New("it is no regular file")
	case info.Mode().Perm()&others != 0 && !k.opts.Guarded:
		return fmt.Errorf("others may read it (mode %04o); chmod 0600 it", info.Mode().Perm())
	}
	f, err := os.Open(k.opts.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	keys, first, rest, err := parse(io.LimitReader(f, maxFile))
	if err != nil {
		return err
	}
	k.keys, k.first, k.others = keys, first, rest
	return nil
}

// parse reads a key a line.
func parse(r io.Reader) (keys map[string]key, first string, others []string, err error) {
	keys = map[string]key{}
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != keySize {
			return nil, "", nil, fmt.Errorf("line %d: expected a key of %d bytes as base64; make one with: openssl rand -base64 %d", number, keySize, keySize)
		}
		id := nameOf(raw)
		if _, twice := keys[id]; twice {
			continue
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, "", nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, "", nil, err
		}
		// One that encrypts is used for nothing else.
		keys[id] = key{aead: aead, signing: sign(raw, "attune signs")}
		if first == "" {
			first = id
		} else {
			others = append(others, id)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, "", nil, err
	}
	if first == "" {
		return nil, "", nil, errors.New("there is no key in it")
	}
	return keys, first, others, nil
}

// nameOf names a key without telling anything of it.
func nameOf(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// create makes a file with one key. Of several that try at once one wins, and all use its file.
func (k *Keys) create() error {
	var key [keySize]byte
	rand.Read(key[:])
	text := "# Attune encrypts secret parameters with the first key. Without this file they are lost.\n" +
		base64.StdEncoding.EncodeToString(key[:]) + "\n"
	dir := filepath.Dir(k.opts.Path)
	f, err := os.CreateTemp(dir, ".attune.key-")
	if err != nil {
		return fmt.Errorf("cannot make the key file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text) // of mode 0600, as temporary files are
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot make the key file: %w", err)
	}
	// A link, unlike a rename, replaces nothing.
	if err := os.Link(f.Name(), k.opts.Path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot make the key file: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot make the key file: %w", err)
	}
	// A value that outlives its key is lost.
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("cannot make the key file: %w", err)
	}
	return nil
}
