package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is the CPU time that went into each part of a round.
type usage struct{ daemon, children, postgres time.Duration }

func (u usage) sub(v usage) usage {
	return usage{u.daemon - v.daemon, u.children - v.children, u.postgres - v.postgres}
}

// per tells the microseconds of each part per thing that there were n of.
func (u usage) per(n int, what string) string {
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) }
	return fmt.Sprintf("CPU per %s: daemon %.1f µs, its children %.1f µs, PostgreSQL %.1f µs, in all %.1f µs",
		what, each(u.daemon), each(u.children), each(u.postgres), each(u.daemon+u.children+u.postgres))
}

// cpu reads what a daemon, its children and what they have waited for, and the server have used. Of children
// that are there still, warm parents are those that do much.
func cpu(daemon, postmaster int) usage {
	own, waited := ticks(daemon)
	u := usage{daemon: own, children: waited}
	own, waited = ticks(postmaster)
	u.postgres = own + waited
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		fields := statFields(name)
		if len(fields) < 2 {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		switch own, waited := ticks(pid); fields[1] {
		case strconv.Itoa(postmaster):
			u.postgres += own
		case strconv.Itoa(daemon):
			u.children += own + waited
		}
	}
	return u
}

// ticks are the CPU times of a process, and of the children that it has waited for.
func ticks(pid int) (own, waited time.Duration) {
	const utime, perTick = 11, 10 * time.Millisecond // counted from the state; USER_HZ is 100
	fields := statFields(fmt.Sprintf("/proc/%d/stat", pid))
	if len(fields) < utime+4 {
		return 0, 0
	}
	var n [4]int64
	for i := range n {
		n[i], _ = strconv.ParseInt(fields[utime+i], 10, 64)
	}
	return time.Duration(n[0]+n[1]) * perTick, time.Duration(n[2]+n[3]) * perTick
}

// statFields begin with the state.
func statFields(name string) []string {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.Fields(rest)
}
