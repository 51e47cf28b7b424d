package child

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// What a warm parent has forked and cannot be taken in is ended, and not left waiting for work.
func TestAdoptEndsWhatItCannotTakeIn(t *testing.T) {
	t.Parallel()
	r, err := NewRunner(t.Context(), Options{Logger: testLogger(t), NoKeeper: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	parent := start(t, r, sh("sleep 9999"))
	// It has executed a program, so it cannot be given a group of its own.
	forked := exec.CommandContext(t.Context(), "sleep", "9999")
	forked.Env = []string{EnvRunID + "=" + r.RunID(), EnvChildID + "=" + parent.id}
	stranger := exec.CommandContext(t.Context(), "sleep", "9999")
	for _, cmd := range []*exec.Cmd{forked, stranger} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.adopt(forked.Process.Pid, parent); err == nil || !strings.Contains(err.Error(), "group") {
		t.Errorf("found %v", err)
	}
	if _, err := r.adopt(stranger.Process.Pid, parent); err == nil || !strings.Contains(err.Error(), "is not the parent's") {
		t.Errorf("of a stranger, found %v", err)
	}
	_ = forked.Wait()
	if status := forked.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("it ended by %v", forked.ProcessState)
	}
	if err := stranger.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = stranger.Wait()
	if status := stranger.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
		t.Errorf("the stranger ended by %v", stranger.ProcessState)
	}
}

func TestIsAnothers(t *testing.T) {
	t.Parallel()
	if isAnothers(os.Getpid()) {
		t.Error("this process is another's")
	}
	if isAnothers(1<<22 + 1) {
		t.Error("a process that is not there is another's")
	}
	if os.Getuid() != 0 {
		t.Skip("only root starts a process of another user")
	}
	cmd := exec.CommandContext(t.Context(), "sleep", "9999")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !isAnothers(cmd.Process.Pid) {
		t.Error("a process of nobody is not another's")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
