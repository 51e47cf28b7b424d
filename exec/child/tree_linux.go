package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sweepPause is the first pause between two looks at a dying tree, sweepPauseMax the longest: a
	// killed process is usually gone within a millisecond.
	sweepPause    = 500 * time.Microsecond
	sweepPauseMax = 20 * time.Millisecond

	// unclearWait is how long processes are waited for that do not show whose they are. They are in the
	// middle of an exec, and the janitor gets those that are held up there for longer.
	unclearWait = 250 * time.Millisecond

	// outlastPause is between two looks at what does not die.
	outlastPause = unclearWait
)

// endTree kills what a dead leader left, and tells whether it is gone. The leader is a zombie still, so its
// group id is its own.
func (r *Runner) endTree(p *Process) (gone bool) {
	p.group.kill()
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	begun := time.Now()
	adopted := map[int]bool{}
	for pause := sweepPause; ; pause = min(2*pause, sweepPauseMax) {
		left, unclear := r.killOrphansOf(p, adopted)
		switch waited := time.Since(begun); {
		case left == 0 && (unclear == 0 || waited > unclearWait):
			return true
		case waited > r.killWait:
			p.outlived = stillThere(adopted)
			r.logger.Error("processes of a child do not end although they were killed", "child", p.spec.Name, "pid", p.pid,
				"left", slices.Sorted(maps.Keys(p.outlived)))
			return false
		}
		<-time.After(pause)
	}
}

// killOrphansOf kills and reaps those of our children that p's tree left behind, and tells how many
// there were. As the leader is dead, the top of everything that is left of its tree is a child of ours
// by now; what is below comes to us as soon as that is killed.
func (r *Runner) killOrphansOf(p *Process, adopted map[int]bool) (left, unclear int) {
	pids, err := r.orphans.pids()
	if err != nil {
		pids, _ = childrenByWalk()
	}
	for _, pid := range r.unknown(pids) {
		if !adopted[pid] && r.isOfAnother(pid, p) {
			continue
		}
		st, err := readStat(pid)
		if err != nil || st.ppid != os.Getpid() {
			continue
		}
		if st.pgrp != p.pid && !adopted[pid] {
			m, sight := r.readMarks(pid)
			if sight == blurred {
				unclear++
			}
			if m.run != r.id || m.child != p.id {
				continue
			}
		}
		left++
		if st.state == 'Z' {
			reapStranger(pid)
			continue
		}
		adopted[pid] = true // as a zombie it has no environment any more
		killChild(pid, st)
	}
	return left, unclear
}

// stillThere gives those of the processes that are children of ours, with their start times.
func stillThere(pids map[int]bool) map[int]uint64 {
	there := map[int]uint64{}
	for pid := range pids {
		if st, err := readStat(pid); err == nil && st.ppid == os.Getpid() {
			there[pid] = st.start
		}
	}
	return there
}

// killOutlived is killOrphansOf for a child that was reaped: its group may be another's by now, so what is left of its
// tree is known by identity and marks alone.
func (r *Runner) killOutlived(p *Process, known map[int]uint64) (left int) {
	for _, st := range r.strangers() {
		if start, ok := known[st.pid]; !ok || start != st.start {
			if m, _ := r.readMarks(st.pid); m.run != r.id || m.child != p.id {
				continue
			}
			known[st.pid] = st.start
		}
		left++
		if st.state == 'Z' {
			reapStranger(st.pid)
			continue
		}
		killChild(st.pid, st)
	}
	return left
}

// isOfAnother tells in no time what readStat and readMarks would tell with files of /proc: that a process is
// in another group than p's and carries the tag of another child. Among them are the spares that warm
// parents fork right now.
func (r *Runner) isOfAnother(pid int, p *Process) bool {
	child, ok := r.readTag(pid)
	if !ok || child == p.id {
		return false
	}
	group, err := unix.Getpgid(pid)
	return err == nil && group != p.pid
}

// killChild kills an unreaped child of ours, with its group where it leads one.
func killChild(pid int, st procStat) {
	if st.pgrp == pid {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
}

func reapStranger(pid int) {
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
}

// janitor looks through the orphans from time to time.
func (r *Runner) janitor() {
	defer close(r.janitorDone)
	t := time.NewTicker(janitorPeriod)
	defer t.Stop()
	var before map[int]procStat
	for {
		select {
		case <-r.stopJanitor:
			return
		case <-t.C:
			before = r.tidy(before)
		}
	}
}

// tidy reaps zombies that nobody else is going to reap and kills what belongs to a child that has ended.
// A zombie that was one in the last pass too is nobody's: who started it would have reaped it within
// milliseconds, be it this Runner, another one in this process or os/exec. It gives what it left alone,
// for the next pass.
func (r *Runner) tidy(before map[int]procStat) map[int]procStat {
	left := map[int]procStat{}
	for _, st := range r.strangers() {
		// What lived then and is a zombie now may be waited for at this moment.
		last, again := before[st.pid]
		again = again && last.start == st.start && (last.state == 'Z') == (st.state == 'Z')
		m, sight := r.readMarks(st.pid)
		switch {
		case st.state == 'Z' && again:
			reapStranger(st.pid)
		case m.run == r.id && !r.lives(m.child) && !strings.HasSuffix(m.child, detachMark),
			again && r.isUnmarked(st, m, sight) && !r.mayBelong(st.start):
			r.logger.Warn("killed a process that had outlived its child", "pid", st.pid)
			killChild(st.pid, st)
		default:
			left[st.pid] = st
		}
	}
	return left
}

// strangers are children of this process that this Runner did not start.
func (r *Runner) strangers() []procStat {
	pids, err := childPIDs()
	if err != nil {
		pids, _ = childrenByWalk()
	}
	var list []procStat
	for _, pid := range pids {
		if r.owns(pid) {
			continue
		}
		if st, err := readStat(pid); err == nil && st.ppid == os.Getpid() {
			list = append(list, st)
		}
	}
	return list
}

// isUnmarked tells whether an orphan emptied its environment, left its session and was given to us by
// the kernel. Only the daemon may conclude that such a process is its children's: elsewhere others in the
// same process may have started it. What cannot be seen is left alone; the keeper, for one, hides. But a
// daemon that is not root cannot look into what runs as another user, and that user is enough.
func (r *Runner) isUnmarked(st procStat, m marks, s sight) bool {
	return r.keeper != nil && m == marks{} && st.state != 'Z' && st.session != mySession() &&
		(s == seen || s == hidden && isAnothers(st.pid))
}

// isAnothers tells whether a process runs as another user than this one.
func isAnothers(pid int) bool {
	status, err := readSome("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(status, []byte("\nUid:"))
	fields := strings.Fields(string(rest[:max(bytes.IndexByte(rest, '\n'), 0)]))
	return len(fields) > 0 && fields[0] != strconv.Itoa(os.Getuid())
}

// killUnmarked is for the end of a run, when nothing can belong to anybody.
func (r *Runner) killUnmarked() {
	for _, st := range r.strangers() {
		if m, sight := r.readMarks(st.pid); r.isUnmarked(st, m, sight) && !r.mayBelong(st.start) {
			killChild(st.pid, st)
		}
	}
}

// killer ends all processes of a run, wherever they are: they may be children of anybody by now.
type killer struct {
	run string
	// session of the run's daemon: a process of a Detach child that left it is let live.
	session int
	// spare are processes that must not be killed: this daemon may have been started by a child of the
	// dead run.
	spare map[int]bool
}

// killAll kills until two looks in a row find nothing, for a process that is being forked while we look
// may be missed once. It gives how many it killed.
func (k killer) killAll(ctx context.Context, patience time.Duration) (killed int, err error) {
	begun := time.Now()
	pause := sweepPause
	done := map[int]uint64{}
	for clean := 0; clean < 2; {
		found, unclear, err := k.pass(done)
		waited := time.Since(begun)
		switch {
		case err != nil:
			return len(done), fmt.Errorf("cannot look through the processes: %v", err)
		case found == 0 && (unclear == 0 || waited > unclearWait):
			clean++
		case waited > patience:
			return len(done), fmt.Errorf("cannot end %d processes: %w", found, ErrUnkillable)
		default:
			clean = 0
		}
		select {
		case <-ctx.Done():
			return len(done), ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, sweepPauseMax)
	}
	return len(done), nil
}

func (k killer) pass(done map[int]uint64) (found, unclear int, err error) {
	pids, err := allPIDs()
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range pids {
		if k.spare[pid] {
			continue
		}
		switch ours, again := k.ours(pid); {
		case again:
			unclear++
		case ours && k.kill(pid, done):
			found++
		}
	}
	return found, unclear, nil
}

// kill tells whether there was something to kill. It asks again with the pidfd in hand: between the first
// look and the hold the pid may have become a stranger's.
func (k killer) kill(pid int, done map[int]uint64) bool {
	h, err := OpenProcess(pid, 0)
	if errors.Is(err, os.ErrProcessDone) {
		return false
	}
	if err != nil {
		return k.killWithoutPidfd(pid, done)
	}
	defer h.Close()
	ours, _ := k.ours(pid)
	if !ours || h.Signal(syscall.SIGKILL) != nil {
		return false
	}
	if st, err := readStat(pid); err == nil {
		done[pid] = st.start
	}
	return true
}

// killWithoutPidfd is for kernels before 5.3: the identity is checked as late as possible.
func (k killer) killWithoutPidfd(pid int, done map[int]uint64) bool {
	st, err := readStat(pid)
	if ours, _ := k.ours(pid); err != nil || !ours || unix.Kill(pid, unix.SIGKILL) != nil {
		return false
	}
	done[pid] = st.start
	return true
}

func (k killer) ours(pid int) (ours, unclear bool) {
	m, sight := readMarks(pid)
	if m.run == "" || m.run != k.run {
		return false, sight == blurred
	}
	if !strings.HasSuffix(m.child, detachMark) {
		return true, false
	}
	st, err := readStat(pid)
	return err == nil && st.session == k.session, false
}

// killByIdentity kills one process if it is still the one that was meant.
func killByIdentity(id identity) {
	if id.PID == 0 {
		return
	}
	h, err := OpenProcess(id.PID, id.Start)
	if err != nil {
		return
	}
	defer h.Close()
	if h.Signal(syscall.SIGKILL) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), KillWait)
	defer cancel()
	_ = h.Wait(ctx)
}

func selfAndAncestors() map[int]bool {
	spare := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !spare[pid]; {
		spare[pid] = true
		st, err := readStat(pid)
		if err != nil {
			break
		}
		pid = st.ppid
	}
	return spare
}

func mySession() int {
	sid, err := unix.Getsid(0)
	if err != nil {
		return 0
	}
	return sid
}
