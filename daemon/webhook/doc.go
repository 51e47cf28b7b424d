// Package webhook takes events over HTTP from senders that nobody at Attune knows: it is the one door
// that is open without a token of the API.
//
// What it promises:
//
//   - 202 says that the event is committed, and names it. A delivery that comes again, by its id, is
//     answered in the same way and stored once.
//   - A request is believed only where the trigger's own check holds: the signature of a provider over
//     the bytes as they were sent, with its time where the provider signs one, or the trigger's token.
//     Comparisons take the same time whatever differs. An empty secret is no secret: it lets nobody in.
//   - What is refused tells nothing. An unknown trigger, one that is switched off, one of another type,
//     a missing and a wrong signature get one answer, and get it at the same time after their last
//     byte; the reason is for the log and the metrics alone.
//   - No sender, however slow or loud, keeps the others out: a body has its size and its time, and a
//     sender, which is an address, has its share of requests and of those that are under way.
//   - Secrets are in no event: what proves a request is left out of the headers that rules see.
//
// What it refuses beside that: requests of browsers. A page that somebody visits must not fire a
// trigger on the visitor's machine, and no sender of webhooks is a browser.
//
// The address of a sender is that of the connection; where that is this machine itself, it is what the
// proxy here appended to X-Forwarded-For.
package webhook
