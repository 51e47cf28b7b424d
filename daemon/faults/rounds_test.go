//go:build !faults

package faults

// How often faults of chance, and of leaks, are tried.
const (
	cancelRounds = 120
	leakRounds   = 60
)
