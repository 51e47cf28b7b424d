// Package api is the daemon's face to programs: the HTTP routes under /api/v1, the types that go over
// the wire, and the Go client that the command line uses. It is also the only place that listens.
//
// Over the unix socket everything is allowed, for whoever may open the socket is trusted. Over TCP health
// and metrics are for everybody on the machine, webhooks for whoever proves that they may, and every other path
// wants a token, with the scope that the operation declares. Errors are problem documents (RFC 9457) with a stable code. Lists are bare JSON arrays, newest or alphabetical
// first, and are paged by `before`, the last id of the page before.
package api
