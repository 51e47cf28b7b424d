package store

import (
	"sync"
	"time"
)

// vigil watches signs of life that others leave in the database, with this process's clock: whoever was
// seen to leave a new one lives for LeaseDuration from then on, also when the database's clock is put
// forward and everything looks old. Only the first look has nothing but the database's clock to go by.
type vigil struct {
	mu     sync.Mutex
	looked time.Time // the last look; zero: none
	seen   map[string]sighting
}

// sign is the last sign of life of one, as it stands in the database.
type sign struct {
	name string
	at   time.Time     // by the database's clock; another value is a new sign
	age  time.Duration // by the database's clock
}

// sighting is a sign, and until when it counts.
type sighting struct {
	at    time.Time
	until time.Time // by this process's clock
}

// look takes in what is there now, forgets who is not, and tells for how long each lives yet.
func (v *vigil) look(now time.Time, signs []sign) map[string]time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	seen, left := make(map[string]sighting, len(signs)), make(map[string]time.Duration, len(signs))
	for _, s := range signs {
		found, known := v.seen[s.name]
		if !known || !found.at.Equal(s.at) {
			age := max(s.age, 0)
			if !v.looked.IsZero() && age > now.Sub(v.looked) {
				age = 0 // it is newer than the last look, so the clock it is counted by has jumped
			}
			found = sighting{at: s.at, until: now.Add(LeaseDuration - age)}
		}
		seen[s.name], left[s.name] = found, found.until.Sub(now)
	}
	v.looked, v.seen = now, seen
	return left
}

// living are those whose last sign still counts.
func (v *vigil) living(now time.Time) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	names := []string{}
	for name, found := range v.seen {
		if now.Before(found.until) {
			names = append(names, name)
		}
	}
	return names
}
