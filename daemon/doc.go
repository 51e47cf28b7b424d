// Package daemon is the process: it reads the configuration, builds the parts in one straight line,
// runs them, and stops them in an order that is one list with a reason for each place.
//
// The daemon outlives its database: where that is away it keeps the sensors and the running actions,
// serves health and metrics, and goes on when it is back. What ends it is a signal, a part that
// fails for good, or a start that cannot be made; each says why in one line.
package daemon
