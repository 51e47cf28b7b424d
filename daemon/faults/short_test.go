//go:build !faults

package faults

// long says that tests may take minutes, and repeat what they otherwise do a few times.
const long = false
