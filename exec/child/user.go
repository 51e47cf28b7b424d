package child

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// User is whom a child runs as.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Name     string
	Home     string
}

// LookupUser finds a user by name or number, "user" or "user:group"; the error says what is missing.
// With a group that is the child's own one, beside the user's others.
func LookupUser(name string) (*User, error) {
	login, group, hasGroup := strings.Cut(name, ":")
	u, err := user.Lookup(login)
	if _, ok := errors.AsType[user.UnknownUserError](err); ok {
		if _, numeric := id32(login); numeric == nil {
			u, err = user.LookupId(login)
		}
	}
	_, unknownName := errors.AsType[user.UnknownUserError](err)
	_, unknownID := errors.AsType[user.UnknownUserIdError](err)
	if unknownName || unknownID {
		return nil, fmt.Errorf("cannot find user %q: there is no such user on this machine; create it with: useradd --system %s", login, login)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot find user %q: %w", login, err)
	}
	found := &User{Name: u.Username, Home: u.HomeDir}
	if found.UID, err = id32(u.Uid); err != nil {
		return nil, fmt.Errorf("cannot use user %q: uid: %v", login, err)
	}
	if found.GID, err = id32(u.Gid); err != nil {
		return nil, fmt.Errorf("cannot use user %q: gid: %v", login, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot list the groups of user %q: %w", login, err)
	}
	for _, g := range groups {
		gid, err := id32(g)
		if err != nil {
			return nil, fmt.Errorf("cannot use user %q: group: %v", login, err)
		}
		found.Groups = append(found.Groups, gid)
	}
	if hasGroup {
		if found.GID, err = lookupGroup(group); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func lookupGroup(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if _, ok := errors.AsType[user.UnknownGroupError](err); ok {
		if _, numeric := id32(name); numeric == nil {
			g, err = user.LookupGroupId(name)
		}
	}
	_, unknownName := errors.AsType[user.UnknownGroupError](err)
	_, unknownID := errors.AsType[user.UnknownGroupIdError](err)
	if unknownName || unknownID {
		return 0, fmt.Errorf("cannot find group %q: there is no such group on this machine; create it with: groupadd --system %s", name, name)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot find group %q: %w", name, err)
	}
	gid, err := id32(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("cannot use group %q: gid: %v", name, err)
	}
	return gid, nil
}

func id32(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// userAge is how long a user that was looked up is taken for the same: a lookup may ask a directory
// over the network.
const userAge = 10 * time.Second

// users remembers who was looked up.
type users struct {
	mu    sync.Mutex
	found map[string]userFound
	// missing are the capabilities without which nobody can be run as another user.
	missing func() []string
}

type userFound struct {
	user *User
	at   time.Time
}

// User finds whom a child is to run as, and refuses where this daemon may not run it so. Empty is the
// daemon's own user, and nil; so is its name.
func (r *Runner) User(name string) (*User, error) {
	if name == "" {
		return nil, nil
	}
	u, err := r.users.lookup(name)
	if err != nil {
		return nil, err
	}
	if int(u.UID) == os.Geteuid() && int(u.GID) == os.Getegid() {
		return nil, nil
	}
	if missing := r.users.missing(); len(missing) > 0 {
		return nil, fmt.Errorf("cannot run it as user %q: the daemon runs as uid %d without %s; run it as root, or give it those (AmbientCapabilities= in its unit)", name, os.Geteuid(), strings.Join(missing, ", "))
	}
	return u, nil
}

func (u *users) lookup(name string) (*User, error) {
	u.mu.Lock()
	known, ok := u.found[name]
	u.mu.Unlock()
	if ok && time.Since(known.at) < userAge {
		return known.user, nil
	}
	found, err := LookupUser(name)
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.found == nil {
		u.found = map[string]userFound{}
	}
	u.found[name] = userFound{found, time.Now()}
	return found, nil
}

// missingCapabilities names what this process lacks to start children as other users, to hand files
// over to them, and to end them and clear up after them.
func missingCapabilities() []string {
	var missing []string
	for _, c := range []struct {
		bit  uint
		name string
	}{
		{unix.CAP_SETUID, "CAP_SETUID"},
		{unix.CAP_SETGID, "CAP_SETGID"},
		{unix.CAP_KILL, "CAP_KILL"},
		{unix.CAP_CHOWN, "CAP_CHOWN"},
		{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	} {
		if !hasCapability(c.bit) {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// hasCapability is true where it cannot be found out: the attempt will tell.
func hasCapability(bit uint) bool {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return true
	}
	return data[bit/32].Effective&(1<<(bit%32)) != 0
}

// hasAmbient tells whether children would inherit capabilities of ours: those that an unprivileged
// daemon was given to run children as others. They are not for the children.
func hasAmbient() bool {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		set, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, c, 0, 0)
		if err != nil {
			return false
		}
		if set == 1 {
			return true
		}
	}
	return false
}

// dropAmbient is for the calling thread alone. What cannot be inherited cannot be ambient.
func dropAmbient() error {
	var data [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&header, &data[0])
}
