// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	tokenPrefix = "curfew-join-1."
	secretSize  = 32

	// MaxUses is how many nodes one token can admit.
	MaxUses = 1000
	// MaxTokenLife is how long a token can be good for.
	MaxTokenLife = 30 * 24 * time.Hour

	maxToken     = 4096
	maxAddresses = 16
	// tokenMemory is for how long a token that expired is told from one that never was.
	tokenMemory = 7 * 24 * time.Hour
)

// ErrTokenForm is wrapped by everything that is wrong with the text of a token.
var ErrTokenForm = errors.New("not a join token")

// JoinToken admits a node. Whoever has it can join, so it is a secret; it is not printed or logged by accident.
type JoinToken struct {
	Cluster RootID   // to be joined
	Roots   []RootID // one of which the member that is asked must show
	Addrs   []string // host:port of members
	secret  [secretSize]byte
}

// tokenJSON is the text form's inside.
type tokenJSON struct {
	Cluster []byte   `json:"c"`
	Roots   [][]byte `json:"r"`
	Addrs   []string `json:"a"`
	Secret  []byte   `json:"s"`
}

// String says which cluster the token is for and hides the rest.
func (k JoinToken) String() string { return fmt.Sprintf("join token for cluster %.8s", k.Cluster) }

// GoString is String.
func (k JoinToken) GoString() string { return k.String() }

// LogValue is String.
func (k JoinToken) LogValue() slog.Value { return slog.StringValue(k.String()) }

// ID is what members know the token by; it is no secret.
func (k JoinToken) ID() string { return tokenID(k.secret[:]) }

func tokenID(secret []byte) string {
	sum := sha256.Sum256(message("token secret", secret))
	return hex.EncodeToString(sum[:])
}

// Text is the token itself, to be shown to the operator once.
func (k JoinToken) Text() string {
	j := tokenJSON{Cluster: unhex(k.Cluster), Addrs: k.Addrs, Secret: k.secret[:]}
	for _, r := range k.Roots {
		j.Roots = append(j.Roots, unhex(r))
	}
	data, _ := json.Marshal(j) // byte slices and strings always encode
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(data)
}

func unhex(id RootID) []byte {
	b, _ := hex.DecodeString(string(id)) // made by EncodeToString
	return b
}

// ParseToken reads a token's text. Errors wrap ErrTokenForm and do not repeat it.
func ParseToken(text string) (JoinToken, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return JoinToken{}, fmt.Errorf("%w: it does not begin with %q", ErrTokenForm, tokenPrefix)
	}
	if len(text) > maxToken {
		return JoinToken{}, fmt.Errorf("%w: %d characters are too many", ErrTokenForm, len(text))
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil {
		return JoinToken{}, fmt.Errorf("%w: it is cut short or mistyped", ErrTokenForm)
	}
	var j tokenJSON
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&j); err != nil || decoder.More() {
		return JoinToken{}, fmt.Errorf("%w: it is cut short or mistyped", ErrTokenForm)
	}
	return j.token()
}

func (j tokenJSON) token() (JoinToken, error) {
	if len(j.Cluster) != sha256.Size || len(j.Secret) != secretSize || len(j.Roots) == 0 || len(j.Roots) > maxAddresses {
		return JoinToken{}, fmt.Errorf("%w: a part of it is missing", ErrTokenForm)
	}
	k := JoinToken{Cluster: RootID(hex.EncodeToString(j.Cluster)), Addrs: j.Addrs, secret: [secretSize]byte(j.Secret)}
	for _, r := range j.Roots {
		if len(r) != sha256.Size {
			return JoinToken{}, fmt.Errorf("%w: a part of it is missing", ErrTokenForm)
		}
		k.Roots = append(k.Roots, RootID(hex.EncodeToString(r)))
	}
	return k, checkAddrs(j.Addrs)
}

func checkAddrs(addrs []string) error {
	if len(addrs) == 0 || len(addrs) > maxAddresses {
		return fmt.Errorf("%w: %d addresses, not 1 to %d", ErrTokenForm, len(addrs), maxAddresses)
	}
	for _, a := range addrs {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("%w: address %q is not host:port", ErrTokenForm, a)
		}
	}
	return nil
}

// TokenOptions says what a token is good for. The zero value is one node, an hour.
type TokenOptions struct {
	Life    time.Duration // zero: an hour
	Uses    int           // zero: one. Members that cannot talk to each other can each honour it as often
	Replace bool          // also for a name that is on the roster with another key: that key is then denied
}

// NewToken makes a token that every member honours once it has this node's Document. addrs are where members can
// be asked.
func (t *Trust) NewToken(addrs []string, o TokenOptions) (JoinToken, error) {
	if o.Life == 0 {
		o.Life = time.Hour
	}
	if o.Uses == 0 {
		o.Uses = 1
	}
	if o.Life < 0 || o.Life > MaxTokenLife || o.Uses < 0 || o.Uses > MaxUses {
		return JoinToken{}, fmt.Errorf("make token: life %v, uses %d: at most %v and %d", o.Life, o.Uses, MaxTokenLife, MaxUses)
	}
	if err := checkAddrs(addrs); err != nil {
		return JoinToken{}, fmt.Errorf("make token: %w", err)
	}
	k := JoinToken{Addrs: addrs}
	_, _ = rand.Read(k.secret[:]) // never fails
	err := t.change(func(s *state) error {
		if len(s.doc.Tokens) >= maxTokens {
			return fmt.Errorf("there are %d tokens; wait until some expire", len(s.doc.Tokens))
		}
		root, key, err := s.signer()
		if err != nil {
			return err
		}
		k.Cluster, k.Roots = s.doc.Cluster, s.view.pins()
		record := Token{ID: k.ID(), Expires: t.cfg.Now().Add(o.Life).Unix(), Uses: o.Uses, Replace: o.Replace, By: s.name, Root: root.id}
		record.Signature = ed25519.Sign(key, record.message(s.doc.Cluster))
		s.doc.Tokens = append(s.doc.Tokens, record)
		return nil
	})
	if err != nil {
		return JoinToken{}, fmt.Errorf("make token: %w", err)
	}
	return k, nil
}

// RevokeToken makes a token worthless, by its ID. An unknown one is no error.
func (t *Trust) RevokeToken(id string) error {
	err := t.change(func(s *state) error {
		for i := range s.doc.Tokens {
			if k := &s.doc.Tokens[i]; k.ID == id && !k.Revoked {
				k.Revoked = true
				return nil
			}
		}
		return errUnchanged
	})
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	return nil
}

// pins are the roots that a joiner may be shown: none whose key a removed node has, who could then have the
// token's secret told to it.
func (v *view) pins() []RootID {
	var ids []RootID
	for id, r := range v.roots {
		if !r.Retired && (id == v.newest.id || !v.tainted(r)) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b RootID) int { // latest first
		if v.roots[a].later(v.roots[b]) {
			return -1
		}
		return 1
	})
	return ids[:min(len(ids), maxAddresses)]
}

// pinned refuses a member that does not show one of the token's roots.
func (k JoinToken) pinned(chain []*x509.Certificate, now time.Time) error {
	if len(chain) != 2 || !slices.Contains(k.Roots, rootID(chain[1].Raw)) {
		return fmt.Errorf("%w: its root is not one of the token's; it may have been rotated since", ErrCluster)
	}
	if _, err := nameIn(chain[0], k.Cluster); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(chain[1])
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return fmt.Errorf("certificate of the member that was asked: %w", err)
	}
	return nil
}

// withoutOld forgets tokens that expired long ago.
func withoutOld(d *Document, now time.Time) *Document {
	limit := now.Add(-tokenMemory).Unix()
	d.Tokens = slices.DeleteFunc(d.Tokens, func(t Token) bool { return t.Expires < limit })
	return d
}
