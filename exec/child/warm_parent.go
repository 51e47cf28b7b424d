package child

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// breed is what the kinds of parents do in their own ways. What it tells its parent comes by
// parent.arrive, parent.miscarry and parent.fail.
type breed interface {
	// start starts the parent's process and returns when it is there.
	start(ctx context.Context) error
	// fork asks for n more children; scripts are those that it was not told of.
	fork(n int, scripts []string) error
	// close ends the process.
	close()
	// process gives it; nil: there is none.
	process() *Process
}

// parent is one warm parent, over all its processes: one that died is started again.
type parent struct {
	w      *Warm
	key    string
	kind   string
	spec   Spec // of the parent's process
	most   int  // spare children
	log    *slog.Logger
	spares chan *spare

	mu      sync.Mutex
	state   parentState
	breed   breed
	gone    chan struct{} // closed when the process of now has ended
	started chan struct{} // closed when its start is over, however it went
	used    time.Time
	want    int // spare children
	pending int // asked for and not there
	scripts map[string]bool
	fresh   []string // scripts that it was not told of
	retryAt time.Time
	backoff time.Duration
}

// parentState is where a parent stands: absent, then starting, then up; after a failure failed, and
// starting again; ended for good.
type parentState string

const (
	parentAbsent   parentState = "absent"
	parentStarting parentState = "starting"
	parentUp       parentState = "up"
	parentFailed   parentState = "failed"
	parentEnded    parentState = "ended"
)

func newParent(w *Warm, key string, of *Spec) *parent {
	fixed, _ := split(of.Env)
	p := &parent{
		w: w, key: key, kind: of.Warm, most: mostSpares,
		spec: Spec{
			Name: "warm " + of.Warm + " of " + filepath.Base(of.Dir), Path: of.Path, Dir: of.Dir, User: of.User, Env: fixed, parent: true,
		},
		spares: make(chan *spare, 2*max(mostSpares, mostShells)), state: parentAbsent, used: time.Now(), want: 2, scripts: map[string]bool{},
	}
	switch p.kind {
	case WarmBash:
		p.most = mostShells
	case WarmNode:
		p.want, p.most = 1, 1
	}
	p.log = w.logger.With("kind", p.kind, "path", of.Path, "dir", of.Dir)
	return p
}

// ask gives the parent where it can serve, and starts it where it should be. It needs w.mu, which is
// taken before p.mu.
func (p *parent) ask(spec *Spec) (*parent, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = time.Now()
	if script := spec.Args[0]; !p.scripts[script] {
		p.scripts[script] = true
		p.fresh = append(p.fresh, script)
	}
	switch p.state {
	case parentUp:
		return p, ""
	case parentStarting:
		return nil, WarmStarting
	case parentFailed:
		if time.Now().Before(p.retryAt) {
			return nil, WarmFailed
		}
		p.begin()
		return nil, WarmStarting
	case parentAbsent:
		p.begin()
		return nil, WarmStarting
	case parentEnded:
		return nil, WarmBusy
	default:
		panic("child: unknown state of a warm parent: " + string(p.state))
	}
}

// begin starts the parent's process in the background. It needs p.mu and w.mu.
func (p *parent) begin() {
	p.state = parentStarting
	p.gone = make(chan struct{})
	p.started = make(chan struct{})
	p.pending = 0
	var b breed
	switch p.kind {
	case WarmBash:
		b = &bashBreed{parent: p, gone: p.gone}
	case WarmPython:
		b = &pythonBreed{parent: p, gone: p.gone, bare: p.w.bare[p.key]}
	default:
		b = &nodeBreed{parent: p}
	}
	p.breed = b
	p.fresh = nil
	for script := range p.scripts {
		p.fresh = append(p.fresh, script)
	}
	gone, started := p.gone, p.started
	p.w.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), warmUp)
		defer cancel()
		err := b.start(ctx)
		close(started)
		if err != nil {
			p.fail(gone, err)
			return
		}
		p.mu.Lock()
		if p.gone == gone && p.state == parentStarting {
			p.state, p.backoff = parentUp, 0
		}
		p.mu.Unlock()
		p.replenish()
	})
}

// fail is for a parent's process that ended, or is no good; gone says which one is meant.
func (p *parent) fail(gone chan struct{}, why error) {
	p.mu.Lock()
	if p.gone != gone || p.state == parentFailed || p.state == parentEnded {
		p.mu.Unlock()
		return
	}
	p.state = parentFailed
	p.backoff = min(max(warmRetry, 2*p.backoff), warmRetryMost)
	p.retryAt = time.Now().Add(p.backoff)
	b, started := p.breed, p.started
	close(p.gone)
	p.mu.Unlock()
	p.log.Warn("warm parent failed, starts are cold until there is another", "err", why, "retry_after", p.backoff)
	<-started // it gives up when gone is closed; what it started is closed, not missed
	b.close()
	p.empty()
}

// unfit is for what was imported ahead and cannot be forked: the next parent imports nothing.
func (p *parent) unfit(gone chan struct{}, why error) {
	p.w.mu.Lock()
	p.w.bare[p.key] = true
	p.w.mu.Unlock()
	p.fail(gone, why)
}

// end ends the parent for good.
func (p *parent) end(why string) {
	p.mu.Lock()
	if p.state == parentEnded {
		p.mu.Unlock()
		return
	}
	alive := p.state == parentUp || p.state == parentStarting
	p.state = parentEnded
	b, started := p.breed, p.started
	if alive {
		close(p.gone)
	}
	p.mu.Unlock()
	if alive {
		p.log.Debug("warm parent ends", "reason", why)
		<-started
		b.close()
	}
	p.empty()
}

// empty ends the children that wait.
func (p *parent) empty() {
	for {
		select {
		case s := <-p.spares:
			if err := s.discard(); err != nil {
				p.log.Error("warm child cannot be ended", "err", err)
			}
		default:
			return
		}
	}
}

// arrive takes a new spare child in.
func (p *parent) arrive(gone chan struct{}, s *spare) {
	p.mu.Lock()
	ok := p.gone == gone && (p.state == parentUp || p.state == parentStarting)
	if ok {
		p.pending--
		select {
		case p.spares <- s:
		default:
			ok = false
		}
	}
	p.mu.Unlock()
	if !ok {
		_ = s.discard()
	}
}

// miscarry says that n children that were asked for will not come.
func (p *parent) miscarry(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending -= n
}

// take gives a spare child, waiting for one a little; nil and why not.
func (p *parent) take(ctx context.Context) (*spare, string) {
	p.mu.Lock()
	gone, up := p.gone, p.state == parentUp
	p.mu.Unlock()
	if !up {
		return nil, WarmFailed
	}
	select {
	case s := <-p.spares:
		p.replenish()
		return s, ""
	default:
	}
	// There were not enough.
	p.mu.Lock()
	p.want = min(2*p.want, p.most)
	p.mu.Unlock()
	p.replenish()
	if p.kind == WarmNode {
		return nil, WarmBusy // one that is being started is not sooner there than a cold one
	}
	timer := time.NewTimer(warmPatience)
	defer timer.Stop()
	select {
	case s := <-p.spares:
		p.replenish()
		return s, ""
	case <-gone:
		return nil, WarmFailed
	case <-ctx.Done():
		return nil, WarmBusy
	case <-timer.C:
		p.fail(gone, fmt.Errorf("it forked no child within %v", warmPatience))
		return nil, WarmBusy
	}
}

// replenish asks for more children where half of them are used up.
func (p *parent) replenish() {
	p.mu.Lock()
	have := len(p.spares) + p.pending
	if p.state != parentUp || have > p.want/2 {
		p.mu.Unlock()
		return
	}
	n := p.want - have
	p.pending += n
	scripts := p.fresh
	p.fresh = nil
	b, gone := p.breed, p.gone
	p.mu.Unlock()
	if err := b.fork(n, scripts); err != nil {
		p.miscarry(n)
		p.fail(gone, err)
	}
}

// sift throws away children that have ended while they waited, and asks for fewer where few are used.
func (p *parent) sift() {
	for range len(p.spares) {
		select {
		case s := <-p.spares:
			if s.hasEnded() {
				_ = s.discard()
				continue
			}
			select {
			case p.spares <- s:
			default:
				_ = s.discard()
			}
		default:
		}
	}
	p.mu.Lock()
	if time.Since(p.used) > warmTick {
		p.want = max(1, p.want/2)
	}
	p.mu.Unlock()
	p.replenish()
}

func (p *parent) lastUsed() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// process gives the parent's process of now.
func (p *parent) process() *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.breed.process()
}

func (p *parent) isUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == parentUp
}

// watch fails the parent when its process ends by itself; said is what it wrote to stderr.
func (p *parent) watch(gone chan struct{}, proc *Process, said *Capture) {
	select {
	case <-gone:
	case <-proc.Done():
		text, _, _ := said.Text()
		p.fail(gone, fmt.Errorf("it ended: %v: %s", proc.Wait(), lastLine(text)))
	}
}

// errUnfit is what a parent says that cannot fork.
var errUnfit = errors.New("it cannot fork")
