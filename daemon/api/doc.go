// Package api is the daemon's face to programs: the HTTP routes under /api/v1, the types that go over
// the wire, and the Go client that the command line uses. It is also the only place that listens.
//
// Over the unix socket everything is allowed, for whoever may open the socket is trusted. Over TCP only
// health, metrics and webhooks are served; every other path answers 403 and says where to go. Errors are
// problem documents (RFC 9457) with a stable code. Lists are bare JSON arrays, newest or alphabetical
// first, and are paged by `before`, the last id of the page before.
package api
