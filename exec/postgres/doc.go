// Package postgres runs the private PostgreSQL of a daemon that was given no database: a cluster in
// the state directory, reached over a unix socket only, run by an unprivileged user, from the server
// binaries that the machine has.
//
// What it promises: Start either gives a server that answers, or an error that says what to do; a
// cluster is there as a whole or not at all; nothing of an earlier run stands in its way, and nothing of
// a stranger's is touched. A process is taken for a server of this cluster only if it stands in the
// cluster's data directory, whatever a pid file says.
//
// What it refuses: TCP, a cluster of another major version, and to run as root.
//
//	Dir/data         the cluster; PG_VERSION in it decides which binaries serve it
//	Dir/data.new     a cluster that was not finished; removed at the next start
//	Dir/secret       the password of the role attune, 0400
//	Dir/run          the socket, 0700; elsewhere if its path would be too long
//	Dir/postgres.log the server's log, with one older file beside it
package postgres
