package cli

import (
	"slices"
	"sort"
)

// idSet is a set of ids that were added in ascending order, as ranges: what was queued together has
// neighbouring ids and ends at about the same time, so a million take no more room than ten.
type idSet struct {
	ranges []idRange
	n      int
	turn   int64 // pick goes on after this one
}

type idRange struct{ first, last int64 }

func (s *idSet) len() int { return s.n }

// add adds an id above all that were ever added.
func (s *idSet) add(id int64) {
	s.n++
	if k := len(s.ranges); k > 0 && s.ranges[k-1].last == id-1 {
		s.ranges[k-1].last = id
		return
	}
	s.ranges = append(s.ranges, idRange{id, id})
}

// at finds the range that has an id, or the first one above it.
func (s *idSet) at(id int64) int {
	return sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].last >= id })
}

// remove takes an id out, and says whether it was in.
func (s *idSet) remove(id int64) bool {
	i := s.at(id)
	if i == len(s.ranges) || s.ranges[i].first > id {
		return false
	}
	s.n--
	r := s.ranges[i]
	switch {
	case r.first == r.last:
		s.ranges = slices.Delete(s.ranges, i, i+1)
	case r.first == id:
		s.ranges[i].first++
	case r.last == id:
		s.ranges[i].last--
	default:
		s.ranges[i].last = id - 1
		s.ranges = slices.Insert(s.ranges, i+1, idRange{id + 1, r.last})
	}
	return true
}

// pick gives at most that many ids: all, or else half of them the oldest, which mostly end first, and the
// rest by turns, so that none is forgotten behind others that take long.
func (s *idSet) pick(most int) []int64 {
	if s.n <= most {
		return s.all()
	}
	ids := s.from(0, most/2)
	ids = s.append(ids, max(s.turn, ids[len(ids)-1])+1, most)
	if len(ids) < most { // the end: from the front again the next time
		s.turn = 0
		return ids
	}
	s.turn = ids[len(ids)-1]
	return ids
}

func (s *idSet) all() []int64 { return s.from(0, s.n) }

func (s *idSet) from(id int64, most int) []int64 {
	return s.append(make([]int64, 0, most), id, most)
}

// append appends ids from one on, until there are that many.
func (s *idSet) append(ids []int64, from int64, most int) []int64 {
	for i := s.at(from); i < len(s.ranges) && len(ids) < most; i++ {
		for id := max(from, s.ranges[i].first); id <= s.ranges[i].last && len(ids) < most; id++ {
			ids = append(ids, id)
		}
	}
	return ids
}
