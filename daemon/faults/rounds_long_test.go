//go:build faults

package faults

// How often faults of chance, and of leaks, are tried.
const (
	cancelRounds = 1000
	leakRounds   = 5000
)
