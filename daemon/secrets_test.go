package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestSecrets(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "token"), "hunter2\n")
	write(filepath.Join(dir, "windows"), "a b \r\n")
	write(filepath.Join(dir, "two_lines"), "a\nb\n\n")
	write(filepath.Join(dir, "empty"), "")
	write(filepath.Join(dir, "large"), strings.Repeat("hunter2", maxSecret))
	write(filepath.Join(dir, "attune.key"), "hunter2")
	write(filepath.Join(outside, "shadow"), "hunter2")
	// Kubernetes puts a secret behind two links, both inside the folder.
	if err := os.Mkdir(filepath.Join(dir, "..2026"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "..2026", "kube"), "v")
	for link, target := range map[string]string{
		"..data": "..2026", "kube": "..data/kube", "escape": filepath.Join(outside, "shadow"), "up": "../shadow",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}

	s := secrets{dir}
	for name, want := range map[string]string{
		"token": "hunter2", "windows": "a b ", "two_lines": "a\nb\n", "empty": "", "kube": "v",
	} {
		if got, err := s.secret(name); err != nil || got != want {
			t.Errorf("%s: found %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{
		"tokn":             "cannot read secret tokn: there is no such file in " + dir + "; did you mean token?",
		"other":            "cannot read secret other: there is no such file in " + dir,
		"attune.key":       `cannot read secret attune.key: names that begin with "attune." are the daemon's own`,
		"folder":           "cannot read secret folder: it is no regular file",
		"fifo":             "cannot read secret fifo: it is no regular file",
		"large":            "cannot read secret large: it is longer than 64KiB",
		"../shadow":        "cannot read secret ../shadow: expected a name",
		"..data":           "cannot read secret ..data: expected a name",
		"":                 "cannot read secret : expected a name",
		"escape":           "cannot read secret escape: ",
		"up":               "cannot read secret up: ",
		"folder/../token":  "cannot read secret folder/../token: expected a name",
		"token\x00.txt":    "cannot read secret token\x00.txt: expected a name",
		filepath.Join(dir): "cannot read secret " + dir + ": expected a name",
	} {
		got, err := s.secret(name)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: found %q, %v; want %s", name, got, err, want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error has the secret: %v", name, err)
		}
	}
	if _, err := (secrets{}).secret("token"); err == nil || err.Error() != "cannot read secret token: there is no folder of secrets: set secrets.directory" {
		t.Errorf("without a folder: found %v", err)
	}
}
