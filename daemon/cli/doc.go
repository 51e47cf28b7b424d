// Package cli is the command line: one file for each noun. It parses, asks the daemon through its API,
// and prints. Data goes to stdout and nothing else does; what people need to know beside it goes to
// stderr, with what to do next. Exit codes: 0 done, 1 the thing asked for failed or findings, 2 usage,
// 3 no daemon to talk to; `run` gives the action's own.
package cli
