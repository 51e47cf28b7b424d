package child

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// User is whom a child runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Name     string
	Home     string
}

// LookupUser finds a user by name; the error says what is missing.
func LookupUser(name string) (*User, error) {
	u, err := user.Lookup(name)
	if _, ok := errors.AsType[user.UnknownUserError](err); ok {
		return nil, fmt.Errorf("cannot find user %q: there is no such user on this machine; create it with: useradd --system %s", name, name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find user %q: %v", name, err)
	}
	found := &User{Name: u.Username, Home: u.HomeDir}
	if found.UID, err = id32(u.Uid); err != nil {
		return nil, fmt.Errorf("cannot use user %q: uid: %v", name, err)
	}
	if found.GID, err = id32(u.Gid); err != nil {
		return nil, fmt.Errorf("cannot use user %q: gid: %v", name, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot list the groups of user %q: %v", name, err)
	}
	for _, g := range groups {
		gid, err := id32(g)
		if err != nil {
			return nil, fmt.Errorf("cannot use user %q: group: %v", name, err)
		}
		found.Groups = append(found.Groups, gid)
	}
	return found, nil
}

func id32(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}
