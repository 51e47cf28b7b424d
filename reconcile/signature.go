package reconcile

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/attune-io/attune/reconcile/manifest"
	"github.com/attune-io/attune/reconcile/store"
)

const (
	// SignatureFile is the file of a pack that holds its signature.
	SignatureFile = "pack.sig"
	// signatureVersion begins what is signed, so that no other thing that a key signs can be taken for it.
	signatureVersion = "attune pack signature 1"
	// maxSignatureBytes is more than the signature of a pack with the most files takes.
	maxSignatureBytes = 16 << 20
)

// What is asked of packs' signatures.
const (
	SignaturesOff     = "off"
	SignaturesWarn    = "warn"
	SignaturesEnforce = "enforce"
)

// Trust says which packs may come into force, by who could have written them.
type Trust struct {
	// WorldWritable has packs loaded that everybody on the machine may write, with a warning.
	WorldWritable bool
	// Signatures is one of the constants; empty: off.
	Signatures string
	// Keys are those whose signatures count.
	Keys []PublicKey
}

// asks says whether anything is asked of signatures.
func (t *Trust) asks() bool {
	return t.Signatures == SignaturesWarn || t.Signatures == SignaturesEnforce
}

// PublicKey is an Ed25519 key whose signatures count.
type PublicKey struct {
	key ed25519.PublicKey
	// Name is what people call it; it may be empty.
	Name string
}

// ParsePublicKey reads "BASE64 [NAME]": the line that `openssl pkey -pubout` prints between its armour, and
// what its owner is called.
func ParsePublicKey(text string) (PublicKey, error) {
	encoded, name, _ := strings.Cut(strings.TrimSpace(text), " ")
	const expected = "expected an Ed25519 public key such as `attune pack sign` prints, and perhaps a name behind it"
	der, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return PublicKey{}, errors.New(expected)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return PublicKey{}, errors.New(expected)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("found a key of another kind, %s", expected)
	}
	return PublicKey{key, strings.TrimSpace(name)}, nil
}

// Encoded is the key as configurations have it, without the name.
func (k PublicKey) Encoded() string {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		panic("reconcile: cannot encode an Ed25519 key: " + err.Error())
	}
	return base64.StdEncoding.EncodeToString(der)
}

// String names the key to people.
func (k PublicKey) String() string {
	if k.Name != "" {
		return k.Name
	}
	return k.Encoded()
}

// SigningKey signs packs.
type SigningKey struct{ key ed25519.PrivateKey }

// Public is what others need to check its signatures.
func (k SigningKey) Public() PublicKey {
	public, ok := k.key.Public().(ed25519.PublicKey)
	if !ok {
		panic("reconcile: an Ed25519 key without its public half")
	}
	return PublicKey{key: public}
}

// NewSigningKey makes a key and writes it to a new file of mode 0600, as PKCS #8 in PEM.
func NewSigningKey(path string) (SigningKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SigningKey{}, fmt.Errorf("cannot make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return SigningKey{}, fmt.Errorf("cannot encode the key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return SigningKey{}, fmt.Errorf("cannot make a key: %w", err)
	}
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der}), f.Close()); err != nil {
		return SigningKey{}, fmt.Errorf("cannot write the key: %w", err)
	}
	return SigningKey{key}, nil
}

// ReadSigningKey reads what NewSigningKey or `openssl genpkey -algorithm ed25519` wrote. A file that others than
// its owner may read is refused: whoever read it signs as well.
func ReadSigningKey(path string) (SigningKey, error) {
	fail := func(format string, args ...any) (SigningKey, error) {
		return SigningKey{}, fmt.Errorf("cannot use key %s: "+format, append([]any{path}, args...)...)
	}
	f, err := os.Open(path)
	if err != nil {
		return fail("%s", plain(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail("%s", plain(err))
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fail("others may read it (mode %04o, expected 0600 or 0400); chmod 600 %s", mode, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return fail("%s", plain(err))
	}
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return fail("found no PEM, expected what `attune pack sign --new-key` or `openssl genpkey -algorithm ed25519` writes")
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return fail("it has a passphrase; `openssl pkey -in %s` prints it without, for a pipe or a file of mode 0600", path)
	case block.Type != "PRIVATE KEY":
		return fail("found a %s, expected an Ed25519 PRIVATE KEY as `openssl genpkey -algorithm ed25519` writes", block.Type)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fail("%v", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return fail("found a key of another kind, expected an Ed25519 one")
	}
	return SigningKey{key}, nil
}

// signature is what pack.sig holds. Only Signature is proof; the files are there so that what differs from what
// was signed can be named.
type signature struct {
	Format    string            `json:"format"`
	Pack      string            `json:"pack"`
	Key       string            `json:"key"`
	Signature []byte            `json:"signature"`
	Files     map[string]string `json:"files"`
}

// signedText is what is signed: which pack, and all that its files are.
func signedText(pack string, tree []store.TreeEntry) []byte {
	var b bytes.Buffer
	field(&b, signatureVersion, pack, treeDigest(tree))
	return b.Bytes()
}

// unsigned is a tree without its signature, which cannot sign itself.
func unsigned(tree []store.TreeEntry) []store.TreeEntry {
	return slices.DeleteFunc(slices.Clone(tree), func(e store.TreeEntry) bool { return e.Path == SignatureFile })
}

// entryText writes an entry of a tree for signature.Files, and entryOf reads it.
func entryText(e store.TreeEntry) string {
	switch {
	case e.Link != "":
		return "link " + e.Link
	case e.Executable:
		return "executable " + e.Digest
	default:
		return "file " + e.Digest
	}
}

func entryOf(path, text string) store.TreeEntry {
	switch kind, rest, _ := strings.Cut(text, " "); kind {
	case "link":
		return store.TreeEntry{Path: path, Link: rest}
	default:
		return store.TreeEntry{Path: path, Executable: kind == "executable", Digest: rest}
	}
}

// Sign writes the signature of the pack in a folder into it, and gives the pack's ref.
func Sign(folder string, key SigningKey) (ref string, err error) {
	f, err := packToSign(folder)
	if err != nil {
		return "", fmt.Errorf("cannot sign %s: %w", folder, err)
	}
	tree := unsigned(treeOf(f.files))
	s := signature{Format: signatureVersion, Pack: f.ref, Key: key.Public().Encoded(), Files: map[string]string{}}
	s.Signature = ed25519.Sign(key.key, signedText(f.ref, tree))
	for _, e := range tree {
		s.Files[e.Path] = entryText(e)
	}
	data, err := json.MarshalIndent(&s, "", "  ")
	if err != nil {
		return "", fmt.Errorf("cannot encode the signature of %s: %w", folder, err)
	}
	// It is renamed into place, so that whoever watches never sees half of it.
	temporary := filepath.Join(f.real, "."+SignatureFile+".tmp")
	err = os.WriteFile(temporary, append(data, '\n'), 0o644) //nolint:gosec // it is for everybody
	if err == nil {
		err = os.Rename(temporary, filepath.Join(f.real, SignatureFile))
	}
	if err != nil {
		return "", fmt.Errorf("cannot write the signature of %s: %w", folder, err)
	}
	return f.ref, nil
}

// packToSign gives the pack in a folder as the daemon would see it.
func packToSign(folder string) (*folder, error) {
	places, err := packsAt(folder)
	if err != nil {
		return nil, err
	}
	if len(places) != 1 || !hasPackFile(places[0]) {
		return nil, errors.New("it is no pack: it has no pack.yaml")
	}
	f := scanAt(places[0], time.Now()).folder
	switch {
	case f == nil:
		return nil, errors.New("it is not there")
	case f.held || len(f.problems) > 0:
		for at, why := range f.problems {
			return nil, fmt.Errorf("%s: %s", at, why)
		}
		return nil, f.findings[0]
	}
	return f, nil
}

// PackFolders gives the folder of the pack at a path, or those of the packs in the folder at it.
func PackFolders(path string) ([]string, error) {
	places, err := packsAt(path)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, p := range places {
		if hasPackFile(p) {
			folders = append(folders, p.key)
		}
	}
	if folders == nil {
		return nil, errors.New("it is no pack, and no folder of packs: neither it nor a folder in it has a pack.yaml")
	}
	return folders, nil
}

// Verify says whose signature the pack in a folder has; the error says why none counts.
func (t *Trust) Verify(folder string) (ref string, by PublicKey, err error) {
	f, err := packToSign(folder)
	if err != nil {
		return "", PublicKey{}, fmt.Errorf("cannot verify %s: %w", folder, err)
	}
	by, err = t.verify(f.ref, treeOf(f.files), f.contentOf)
	return f.ref, by, err
}

// VerifyTree is Verify of a revision: content gives what is in a file, by its digest.
func (t *Trust) VerifyTree(ref string, tree []store.TreeEntry, content func(digest string) ([]byte, error)) (PublicKey, error) {
	return t.verify(ref, tree, content)
}

// errUnsigned says that a pack has no signature at all.
var errUnsigned = errors.New("it has no signature")

func (t *Trust) verify(ref string, tree []store.TreeEntry, content contentFunc) (PublicKey, error) {
	s, err := signatureOf(tree, content)
	if err != nil {
		return PublicKey{}, err
	}
	by, err := ParsePublicKey(s.Key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%s cannot be read: its key: %w", SignatureFile, err)
	}
	i := slices.IndexFunc(t.Keys, func(k PublicKey) bool { return k.key.Equal(by.key) })
	if i < 0 {
		return PublicKey{}, fmt.Errorf("it is signed with a key that packs.keys does not have, %s", s.Key)
	}
	return t.Keys[i], s.fits(ref, by, unsigned(tree))
}

func signatureOf(tree []store.TreeEntry, content contentFunc) (*signature, error) {
	i := slices.IndexFunc(tree, func(e store.TreeEntry) bool { return e.Path == SignatureFile })
	if i < 0 {
		return nil, errUnsigned
	}
	if tree[i].Link != "" || tree[i].Size > maxSignatureBytes {
		return nil, fmt.Errorf("%s cannot be read: it is no file of a sensible size", SignatureFile)
	}
	data, err := content(tree[i].Digest)
	if err != nil {
		return nil, err
	}
	s := &signature{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", SignatureFile, err)
	}
	if s.Format != signatureVersion {
		return nil, fmt.Errorf("%s cannot be read: it is in the form %q, expected %q", SignatureFile, s.Format, signatureVersion)
	}
	return s, nil
}

// fits says why the signature is not of the tree. by is the key that it names.
func (s *signature) fits(ref string, by PublicKey, tree []store.TreeEntry) error {
	if ed25519.Verify(by.key, signedText(ref, tree), s.Signature) {
		return nil
	}
	var was []store.TreeEntry
	for _, path := range sortedKeys(s.Files) {
		was = append(was, entryOf(path, s.Files[path]))
	}
	if !ed25519.Verify(by.key, signedText(s.Pack, was), s.Signature) {
		return fmt.Errorf("its signature is broken: %s was changed", SignatureFile)
	}
	if s.Pack != ref {
		return fmt.Errorf("its signature is that of pack %s", s.Pack)
	}
	return &changedError{s.differences(tree)}
}

// changedError says which files are not what was signed.
type changedError struct{ files []string }

func (e *changedError) Error() string {
	const told = 3
	text := "it was changed since it was signed: " + strings.Join(e.files[:min(told, len(e.files))], ", ")
	if more := len(e.files) - told; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// differences names what is not as it was signed.
func (s *signature) differences(tree []store.TreeEntry) []string {
	var found []string
	now := map[string]bool{}
	for _, e := range tree {
		now[e.Path] = true
		switch was, ok := s.Files[e.Path]; {
		case !ok:
			found = append(found, e.Path+" is new")
		case was == entryText(e):
		case strings.TrimPrefix(was, "executable ") == e.Digest || strings.TrimPrefix(was, "file ") == e.Digest:
			found = append(found, e.Path+" has another x bit")
		default:
			found = append(found, e.Path+" differs")
		}
	}
	for _, path := range sortedKeys(s.Files) {
		if !now[path] {
			found = append(found, path+" is gone")
		}
	}
	slices.Sort(found)
	return found
}

// judge checks the signature of a pack that was parsed: under enforce a pack without a good one is held as a whole.
func (t *Trust) judge(f *folder, content map[string][]byte, b *manifest.Bundle) error {
	if !t.asks() {
		return nil
	}
	_, err := t.verify(f.ref, treeOf(f.files), func(digest string) ([]byte, error) {
		if data, ok := content[SignatureFile]; ok && digestOf(data) == digest {
			return data, nil
		}
		return f.contentOf(digest)
	})
	if err == nil || f.held { // what is held has no revision that could be signed
		return nil
	}
	if errors.Is(err, errUnstable) {
		return err
	}
	finding := signatureFinding(f, manifest.SeverityWarning, err)
	if t.Signatures == SignaturesEnforce {
		finding.Severity = manifest.SeverityError
		finding.Hint = "what is in force stays; " + finding.Hint
		b.Pack = nil
	}
	b.Errors = append(b.Errors, finding)
	b.Errors.Sort()
	return nil
}

func signatureFinding(f *folder, severity manifest.Severity, err error) *manifest.Error {
	return &manifest.Error{
		Place: manifest.Place{File: f.ref + "/" + SignatureFile}, Severity: severity, Kind: manifest.KindPack, Ref: f.ref,
		Message: "cannot trust the pack: " + err.Error(), Hint: "sign it with `attune pack sign --key FILE " + f.key + "`, by a key whose public half is in packs.keys, or put back what was signed",
	}
}

// isSigned says that nothing was found against a pack's signature.
func isSigned(ref string, errs manifest.Errors) bool {
	return !slices.ContainsFunc(errs, func(e *manifest.Error) bool { return e.File == ref+"/"+SignatureFile })
}

// lintSignature warns of a signature that is no longer that of the pack, whoever made it, and of what the daemon
// would say of it.
func (t *Trust) lintSignature(f *folder, b *manifest.Bundle) error {
	tree := treeOf(f.files)
	s, err := signatureOf(tree, f.contentOf)
	if err == nil && !f.held && !t.asks() {
		by, parseErr := ParsePublicKey(s.Key)
		if err = parseErr; err == nil {
			err = s.fits(f.ref, by, unsigned(tree))
		}
		if err != nil {
			b.Errors = append(b.Errors, signatureFinding(f, manifest.SeverityWarning, err))
		}
		return nil
	}
	return t.judge(f, nil, b)
}
