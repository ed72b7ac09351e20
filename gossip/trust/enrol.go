// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Enrolment is one question and one answer over a connection on which the member has shown its certificate and the
// joiner none:
//
//	joiner                                        member
//	name, keys, token, signature      ──────>     token good? name free? sign, write, tell the others
//	                                  <──────     document, addresses; or why not
//
// The signature is by the joiner's key over all of that and the channel binding: it shows possession, and is of
// no use on any other connection. The joiner finds the authority's key in the document, sealed to it, and
// issues its own certificate.
const (
	enrolTimeout = 10 * time.Second
	maxRequest   = 4 << 10
	maxReply     = MaxDocument*4/3 + 64<<10
	bindingSize  = 32
)

// Reasons why a joiner is refused. They cross the wire as codes.
var (
	ErrTokenUnknown = errors.New("the member does not know this token, or it was revoked, or a removal has made it void")
	ErrTokenExpired = errors.New("the token has expired")
	ErrTokenUsed    = errors.New("the token has been used")
	ErrNameTaken    = errors.New("the name is taken by a node with another key; a token made with 'replace' would replace it")
	ErrRefused      = errors.New("the member refused")
)

var codes = map[string]error{
	"token-unknown": ErrTokenUnknown, "token-expired": ErrTokenExpired, "token-used": ErrTokenUsed,
	"name-taken": ErrNameTaken, "refused": ErrRefused,
}

func codeOf(err error) string {
	for code, reason := range codes {
		if errors.Is(err, reason) {
			return code
		}
	}
	return "refused"
}

// Conn is a connection to a member that is bound to its TLS channel.
type Conn interface {
	net.Conn
	ChannelBinding() []byte // 32 bytes, the same at both ends and on no other connection
}

// Dialer connects to a member at addr without showing a certificate; verify says whether to believe the one that
// the member shows (leaf first, then its root).
type Dialer func(ctx context.Context, addr string, verify func([]*x509.Certificate) error) (Conn, error)

// request is what a joiner says.
type request struct {
	Name      string            `json:"name"`
	Key       ed25519.PublicKey `json:"key"`
	Seal      []byte            `json:"seal"`
	Proof     []byte            `json:"proof"`
	Secret    []byte            `json:"secret,omitempty"` // of the token; none: the node is on the roster
	Signature []byte            `json:"signature"`
}

func (r *request) message(binding []byte) []byte {
	return message("enrol", binding, []byte(r.Name), r.Key, r.Seal, r.Proof, r.Secret)
}

func decodeRequest(data []byte, binding []byte) (*request, error) {
	r := new(request)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: decode request: %w", ErrRefused, err)
	}
	if !ValidName(r.Name) || len(r.Key) != ed25519.PublicKeySize || len(r.Seal) != sealKeySize {
		return nil, fmt.Errorf("%w: name or keys", ErrRefused)
	}
	if len(binding) != bindingSize || !ed25519.Verify(r.Key, r.message(binding), r.Signature) {
		return nil, fmt.Errorf("%w: not signed by the key, on this connection", ErrRefused)
	}
	return r, nil
}

// reply is what a member says.
type reply struct {
	Error    string          `json:"error,omitempty"` // one of codes
	Document json.RawMessage `json:"document,omitempty"`
	Members  []string        `json:"members,omitempty"`
}

func decodeReply(data []byte) (*Document, []string, error) {
	var r reply
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, nil, fmt.Errorf("decode reply: %w", err)
	}
	if r.Error != "" {
		if reason, ok := codes[r.Error]; ok {
			return nil, nil, reason
		}
		return nil, nil, ErrRefused
	}
	if len(r.Members) > maxNodes {
		return nil, nil, errors.New("decode reply: too many members")
	}
	doc, err := DecodeDocument(r.Document)
	return doc, r.Members, err
}

// writeFrame writes a length of 4 bytes, big endian, and the data.
func writeFrame(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func readFrame(r io.Reader, limit int) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > uint32(limit) {
		return nil, fmt.Errorf("read: %d bytes, more than %d", size, limit)
	}
	// A length alone does not have memory set aside.
	data, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if len(data) < int(size) {
		return nil, fmt.Errorf("read: %w", io.ErrUnexpectedEOF)
	}
	return data, nil
}

// Admit serves one joiner and returns its name, or why it was refused, which the joiner was told as a code. The
// caller closes conn.
func (t *Trust) Admit(ctx context.Context, conn Conn) (string, error) {
	defer bounded(ctx, conn)()
	data, err := readFrame(conn, maxRequest)
	if err != nil {
		return "", fmt.Errorf("admit: %w", err)
	}
	var name string
	r, err := decodeRequest(data, conn.ChannelBinding())
	if err == nil {
		name = r.Name
		err = t.change(func(s *state) error { return t.enrol(s, r) })
	}
	if err != nil {
		t.cfg.Log.Warn("node not admitted", "node", name, "addr", conn.RemoteAddr().String(), "err", err)
		_ = writeFrame(conn, reply{Error: codeOf(err)}) // it is told if it still listens
		return name, fmt.Errorf("admit %s: %w", name, err)
	}
	doc, err := t.Document()
	if err != nil {
		return name, err
	}
	t.cfg.Log.Info("node admitted", "node", name, "addr", conn.RemoteAddr().String())
	if err := writeFrame(conn, reply{Document: doc, Members: t.cfg.Members()}); err != nil {
		return name, fmt.Errorf("admit %s: %w", name, err)
	}
	return name, nil
}

// bounded ends what happens on conn with ctx, or after a while.
func bounded(ctx context.Context, conn Conn) (release func()) {
	_ = conn.SetDeadline(time.Now().Add(enrolTimeout)) // fails on a closed connection only
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// enrol puts a joiner on the roster. Whoever is on it with that key already needs no token.
func (t *Trust) enrol(s *state, r *request) error {
	n := Node{Name: r.Name, Key: r.Key, Seal: r.Seal, Proof: r.Proof, By: s.name}
	if !ed25519.Verify(n.Key, n.claim(s.doc.Cluster), n.Proof) {
		return fmt.Errorf("%w: proof", ErrRefused)
	}
	known := s.view.roster[r.Name]
	if known != nil && known.Key.Equal(r.Key) {
		return errUnchanged
	}
	if s.view.denied[n.ID()] {
		return fmt.Errorf("%w: this key was removed", ErrRefused)
	}
	token, err := s.redeem(r.Secret, t.cfg.Now())
	if err != nil {
		return err
	}
	root, rootKey, err := s.signer()
	if err != nil {
		return err
	}
	if known != nil {
		if !token.Replace || r.Name == s.name {
			return ErrNameTaken
		}
		if err := t.replace(s, known, &n); err != nil {
			return err
		}
	}
	token.Used[s.id]++
	n.Token, n.Root = token.ID, root.id
	n.Signature = ed25519.Sign(rootKey, n.message(s.doc.Cluster))
	s.doc.Nodes = append(s.doc.Nodes, n)
	return s.share(&n)
}

// redeem returns the token of a secret, in the document that is edited.
func (s *state) redeem(secret []byte, now time.Time) (*Token, error) {
	id := tokenID(secret)
	if len(secret) != secretSize || s.view.tokens[id] == nil {
		return nil, ErrTokenUnknown
	}
	i := slices.IndexFunc(s.doc.Tokens, func(t Token) bool { return t.ID == id })
	token := &s.doc.Tokens[i]
	if now.Unix() >= token.Expires {
		return nil, ErrTokenExpired
	}
	if token.used() >= token.Uses {
		return nil, ErrTokenUsed
	}
	if token.Used == nil {
		token.Used = make(map[KeyID]int)
	}
	return token, nil
}

// replace denies the key that a name had. It may be lost with a disk or not: the authority is rotated.
func (t *Trust) replace(s *state, old, by *Node) error {
	next, err := t.nextRoot(s, []KeyID{old.ID()}, by)
	if err != nil {
		return err
	}
	t.deny(s, Denial{Keys: []KeyID{old.ID()}})
	s.doc.Roots = append(s.doc.Roots, next)
	return nil
}

// share seals every root whose key this node has to a node that is new.
func (s *state) share(n *Node) error {
	for _, root := range s.view.roots {
		key, err := unseal(s.seal, root.Root, s.id, root.key)
		if err != nil {
			continue // retired, or not given to this node: others will share it
		}
		r := s.root(root.id)
		if r.Sealed[n.ID()], err = seal(n.Seal, root.id, key); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return nil
}

// Join makes this node one of a cluster, by a token, and returns addresses of members. It asks the token's
// addresses one after the other. Errors can be told apart: ErrTokenExpired, ErrNameTaken and so on.
func (t *Trust) Join(ctx context.Context, token JoinToken, name string, dial Dialer) (members []string, err error) {
	if t.now.Load() != nil {
		return nil, ErrInCluster
	}
	s, err := newState(name)
	if err != nil {
		return nil, err
	}
	pin := func(chain []*x509.Certificate) error { return token.pinned(chain, t.cfg.Now()) }
	err = errors.New("the token has no address")
	for _, addr := range token.Addrs {
		if members, err = t.joinAt(ctx, s, token, addr, dial, pin); err == nil {
			t.cfg.Log.Info("joined", "cluster", token.Cluster, "node", name, "addr", addr)
			return members, nil
		}
		err = fmt.Errorf("join at %s: %w", addr, err)
		if ctx.Err() != nil || final(err) {
			break
		}
	}
	return nil, err
}

// final says that another member would refuse too.
func final(err error) bool {
	return errors.Is(err, ErrTokenExpired) || errors.Is(err, ErrTokenUsed) || errors.Is(err, ErrNameTaken)
}

func (t *Trust) joinAt(ctx context.Context, s *state, token JoinToken, addr string, dial Dialer, pin func([]*x509.Certificate) error) ([]string, error) {
	doc, members, err := ask(ctx, s, token.Cluster, token.secret[:], addr, dial, pin)
	if err != nil {
		return nil, err
	}
	t.changeMu.Lock()
	defer t.changeMu.Unlock()
	if t.now.Load() != nil {
		return nil, ErrInCluster
	}
	s.doc = doc
	return members, t.settleIn(s)
}

// ask sends one request and returns the answer.
func ask(ctx context.Context, s *state, cluster RootID, secret []byte, addr string, dial Dialer, pin func([]*x509.Certificate) error) (*Document, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	conn, err := dial(ctx, addr, pin)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	defer bounded(ctx, conn)()
	n := s.entry(cluster)
	r := &request{Name: n.Name, Key: n.Key, Seal: n.Seal, Proof: n.Proof, Secret: secret}
	r.Signature = ed25519.Sign(s.key, r.message(conn.ChannelBinding()))
	if err := writeFrame(conn, r); err != nil {
		return nil, nil, err
	}
	data, err := readFrame(conn, maxReply)
	if err != nil {
		return nil, nil, err
	}
	doc, members, err := decodeReply(data)
	if err != nil {
		return nil, nil, err
	}
	if doc.Cluster != cluster {
		return nil, nil, ErrCluster
	}
	return doc, members, nil
}

// CatchUp asks a member at addr for its Document. It is for a node that was away while the authority was rotated:
// it and the others do not accept each other's certificates any more, but they still have each other's keys
// on the roster.
func (t *Trust) CatchUp(ctx context.Context, addr string, dial Dialer) error {
	s := t.now.Load()
	if s == nil {
		return ErrNoCluster
	}
	pin := func(chain []*x509.Certificate) error {
		name, err := nameIn(chain[0], s.doc.Cluster)
		if err != nil {
			return err
		}
		if n := s.view.roster[name]; n == nil || n.ID() != spkiID(chain[0].RawSubjectPublicKeyInfo) {
			return fmt.Errorf("%w: %s", ErrNotOnRoster, name)
		}
		return nil
	}
	doc, _, err := ask(ctx, s, s.doc.Cluster, nil, addr, dial, pin)
	if err != nil {
		return fmt.Errorf("catch up at %s: %w", addr, err)
	}
	data, err := doc.Encode()
	if err != nil {
		return fmt.Errorf("catch up at %s: %w", addr, err)
	}
	if _, err := t.Merge(data); err != nil {
		return fmt.Errorf("catch up at %s: %w", addr, err)
	}
	if err := t.change(t.step); err != nil { // a certificate of the new root
		return fmt.Errorf("catch up at %s: %w", addr, err)
	}
	return nil
}
