// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultGrace is how long a rotation waits for nodes that are away.
	DefaultGrace = 24 * time.Hour
	// DefaultHaste is how long the rotation after a removal waits for them, for each of its two steps. A node
	// that is away for longer comes back by CatchUp.
	DefaultHaste = 5 * time.Second

	// settle is how long links have to be made anew after the last certificate was.
	settle = 2 * time.Second
)

// Errors of a Trust that is not, or already is, of a cluster.
var (
	ErrNoCluster = errors.New("this node is not of a cluster yet")
	ErrInCluster = errors.New("this node is of a cluster already")
)

// Config says what a Trust needs; Log alone is required.
type Config struct {
	Log      *slog.Logger
	Lifetime time.Duration // of certificates; zero: DefaultLifetime
	Grace    time.Duration // zero: DefaultGrace
	Haste    time.Duration // zero: DefaultHaste
	// OnChange is called after the Document changed, here or by Merge, under no lock: it is to be passed on. It
	// must not block.
	OnChange func()
	// Members returns addresses (host:port) of nodes that are alive, for a node that joins; nil: none.
	Members func() []string
	Now     func() time.Time // wall clock, for certificates and tokens; nil: time.Now
}

// Trust is what this node believes and who it is. It is safe for concurrent use. Readers never wait: they see
// a state that is replaced as a whole, once it is on disk.
type Trust struct {
	dir string
	cfg Config

	now atomic.Pointer[state] // nil: of no cluster

	changedMu sync.Mutex
	changed   chan struct{}

	// changeMu makes changes one after the other and is held while one is written to disk. It guards what
	// follows.
	changeMu sync.Mutex
	sigs     signatures
	since    map[string]time.Time // when this process first saw what a rotation waits for; monotonic
}

// Open reads what this node knows from dir, which must exist and be readable to nobody else. A node of no
// cluster has nothing there yet: then Bootstrap or Join comes next.
func Open(dir string, cfg Config) (*Trust, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("open trust: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("open trust: %s must be a directory with mode 0700, for it holds keys", dir)
	}
	if cfg.Log == nil {
		return nil, errors.New("open trust: no Log")
	}
	t := &Trust{dir: dir, cfg: cfg.withDefaults(), changed: make(chan struct{}), since: make(map[string]time.Time)}
	f, err := load(dir)
	if err != nil || f == nil {
		return t, err
	}
	s, err := t.restore(f)
	if err != nil {
		return nil, fmt.Errorf("open trust: %w", err)
	}
	t.now.Store(s)
	return t, nil
}

func (c Config) withDefaults() Config {
	orElse := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	orElse(&c.Lifetime, DefaultLifetime)
	orElse(&c.Grace, DefaultGrace)
	orElse(&c.Haste, DefaultHaste)
	if c.OnChange == nil {
		c.OnChange = func() {}
	}
	if c.Members == nil {
		c.Members = func() []string { return nil }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// publishLocked writes a state to disk, then lets everybody see it. The caller holds changeMu.
func (t *Trust) publishLocked(s *state) error {
	f, err := s.file()
	if err != nil {
		return err
	}
	if err := f.save(t.dir); err != nil {
		return err
	}
	t.now.Store(s)
	t.changedMu.Lock()
	defer t.changedMu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
	return nil
}

// change has f edit a copy of the state, whose document is then read anew, written and published. f must return
// errUnchanged if there is nothing to do.
func (t *Trust) change(f func(s *state) error) error {
	t.changeMu.Lock()
	err := t.changeLocked(f)
	t.changeMu.Unlock()
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err == nil {
		t.cfg.OnChange()
	}
	return err
}

var errUnchanged = errors.New("nothing to change")

func (t *Trust) changeLocked(f func(s *state) error) error {
	old := t.now.Load()
	if old == nil {
		return ErrNoCluster
	}
	s := *old
	s.doc = old.doc.clone()
	if err := f(&s); err != nil {
		return err
	}
	s.doc.Version = max(s.doc.Version, old.doc.Version+1)
	return t.sealState(&s)
}

// sealState reads and publishes a state whose document was edited.
func (t *Trust) sealState(s *state) error {
	merged, err := MergeDocuments(s.doc, s.doc) // sorts
	if err != nil {
		return err
	}
	if s.view, s.doc, err = read(merged, &t.sigs); err != nil {
		return err
	}
	return t.publishLocked(s)
}

// Bootstrap makes a new cluster with this node alone in it.
func (t *Trust) Bootstrap(name string) error {
	t.changeMu.Lock()
	defer t.changeMu.Unlock()
	if t.now.Load() != nil {
		return ErrInCluster
	}
	s, err := newState(name)
	if err != nil {
		return err
	}
	der, rootKey, err := newRoot("", t.cfg.Now())
	if err != nil {
		return err
	}
	root := Root{Certificate: der, Ready: true, Sealed: make(map[KeyID][]byte), Knows: []KeyID{s.id}, Uses: []KeyID{s.id}}
	id := root.ID()
	entry := s.entry(id)
	entry.By, entry.Root = name, id
	entry.Signature = ed25519.Sign(rootKey, entry.message(id))
	if root.Sealed[s.id], err = seal(entry.Seal, id, rootKey); err != nil {
		return err
	}
	s.doc = &Document{Format: format, Cluster: id, Version: 1, Roots: []Root{root}, Nodes: []Node{entry}}
	if err := t.settleIn(s); err != nil {
		return err
	}
	t.cfg.Log.Info("cluster made", "cluster", id, "node", name)
	return nil
}

// settleIn gives a node with a document its first certificate, and publishes both. The caller holds changeMu.
func (t *Trust) settleIn(s *state) (err error) {
	if s.view, s.doc, err = read(s.doc, &t.sigs); err != nil {
		return err
	}
	if n := s.view.roster[s.name]; n == nil || n.ID() != s.id {
		return fmt.Errorf("%w: %s", ErrNotOnRoster, s.name)
	}
	if err := t.reissue(s); err != nil {
		return err
	}
	return t.sealState(s)
}

// reissue gives this node a certificate of the issuing root.
func (t *Trust) reissue(s *state) error {
	root := s.view.issuing
	key, err := unseal(s.seal, root.Root, s.id, root.key)
	if err != nil {
		return err
	}
	own, err := issue(s.doc.Cluster, s.name, s.key, root, key, t.cfg.Now(), t.cfg.Lifetime, s.own)
	if err != nil {
		return err
	}
	s.own = own
	for i := range s.doc.Roots {
		if r := &s.doc.Roots[i]; r.ID() == root.id && !slices.Contains(r.Uses, s.id) {
			r.Uses = append(r.Uses, s.id)
		}
	}
	return nil
}

// Name is this node's name; empty: it is of no cluster.
func (t *Trust) Name() string {
	if s := t.now.Load(); s != nil {
		return s.name
	}
	return ""
}

// Cluster names the cluster; empty: none.
func (t *Trust) Cluster() string {
	if s := t.now.Load(); s != nil {
		return string(s.doc.Cluster)
	}
	return ""
}

// Certificate is what this node shows to others: its leaf, then the root that issued it. Others must not change
// it. Returns ErrNoCluster if there is none.
func (t *Trust) Certificate() (*tls.Certificate, error) {
	s := t.now.Load()
	if s == nil {
		return nil, ErrNoCluster
	}
	return s.own, nil
}

// Verify returns the name that a chain proves (leaf first; only the leaf counts), or why it is refused.
func (t *Trust) Verify(chain []*x509.Certificate) (string, error) {
	s := t.now.Load()
	if s == nil {
		return "", ErrNoCluster
	}
	if len(chain) == 0 {
		return "", ErrForm
	}
	return s.view.verify(chain[0], s.doc.Cluster, t.cfg.Now())
}

// Changed returns a channel that is closed at the next change of any answer of Trust.
func (t *Trust) Changed() <-chan struct{} {
	t.changedMu.Lock()
	defer t.changedMu.Unlock()
	return t.changed
}

// ResetKey is 32 bytes that this node alone knows and that last as long as its key.
func (t *Trust) ResetKey() ([32]byte, error) {
	s := t.now.Load()
	if s == nil {
		return [32]byte{}, ErrNoCluster
	}
	key, err := hkdf.Key(sha256.New, s.key.Seed(), nil, "curfew stateless reset", 32)
	if err != nil {
		return [32]byte{}, fmt.Errorf("derive reset key: %w", err)
	}
	return [32]byte(key), nil
}

// Document is what is to be passed on, encoded. It holds no secret. Returns ErrNoCluster if there is none.
func (t *Trust) Document() ([]byte, error) {
	s := t.now.Load()
	if s == nil {
		return nil, ErrNoCluster
	}
	return s.doc.Encode()
}

// Merge takes in another node's Document; news says whether anything in it was. It must have come over a verified
// link: a document proves what it gives, but whoever is not of the cluster shall not hasten its rotations.
func (t *Trust) Merge(data []byte) (news bool, err error) {
	theirs, err := DecodeDocument(data)
	if err != nil {
		return false, fmt.Errorf("merge: %w", err)
	}
	err = t.change(func(s *state) error {
		if theirs.Cluster != s.doc.Cluster {
			return ErrCluster
		}
		_, clean, err := read(theirs, &t.sigs) // first: a forged entry must not push a good one out
		if err != nil {
			return err
		}
		merged, err := MergeDocuments(s.doc, clean)
		if err != nil {
			return err
		}
		merged = withoutOld(merged, t.cfg.Now())
		if same(s.doc, merged) {
			return errUnchanged
		}
		news = true
		s.doc = merged
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("merge: %w", err)
	}
	return news, nil
}

// same compares what documents say; the version says nothing.
func same(a, b *Document) bool {
	x, y := *a, *b
	x.Version, y.Version = 0, 0
	left, err := x.Encode()
	if err != nil {
		return false
	}
	right, err := y.Encode()
	return err == nil && slices.Equal(left, right)
}
