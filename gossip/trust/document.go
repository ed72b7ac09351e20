// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
)

const (
	format = 1

	// MaxDocument is the largest encoded Document, in bytes.
	MaxDocument = 4 << 20
	// MaxName is the longest name of a node, in bytes.
	MaxName = 64

	maxRoots   = 1024
	maxNodes   = 4096
	maxDenials = 4096
	maxTokens  = 1024
)

// ErrDocument is wrapped by everything that is wrong with the form of a Document.
var ErrDocument = errors.New("not a trust document")

// RootID is the SHA-256 of a root's certificate, in hexadecimal.
type RootID string

// KeyID is the first half of the SHA-256 of a node's public key (SPKI), in hexadecimal.
type KeyID string

// Document is what all nodes know in common. It only grows: see MergeDocuments. Who may sign what:
//
//	Root, Node, Token   by a root: who holds the authority's key may give
//	Denial              by a node: who is accountable may take
//
// What is not signed (Sealed, Knows, Uses, Ready, Retired, Used, Revoked) can hasten or spoil a rotation or a
// token, and admits nobody.
type Document struct {
	Format  int    `json:"format"`
	Cluster RootID `json:"cluster"` // the first root: no document can claim to be of another's cluster
	Version uint64 `json:"version"` // grows with each change; for people
	Roots   []Root `json:"roots"`
	Nodes   []Node `json:"nodes"`

	Denials []Denial `json:"denials,omitempty"`
	Tokens  []Token  `json:"tokens,omitempty"`
}

// Root is one generation of the authority.
//
//	announced ── all Know it, or a bound ──> Ready ── all Use it, and some time, or a bound ──> older ones Retired
//
// Announced it is trusted; Ready all nodes issue under it. Each step is a change of the Document, taken by
// whichever node sees first that it is due.
type Root struct {
	Certificate []byte           `json:"certificate"` // DER, self-signed
	Parent      RootID           `json:"parent,omitempty"`
	Signature   []byte           `json:"signature,omitempty"` // by Parent
	Sealed      map[KeyID][]byte `json:"sealed,omitempty"`    // its private key, to each node
	Knows       []KeyID          `json:"knows,omitempty"`
	Uses        []KeyID          `json:"uses,omitempty"`
	Ready       bool             `json:"ready,omitempty"`
	Retired     bool             `json:"retired,omitempty"`
}

// Node is an entry of the roster: a name, and the key that speaks for it.
type Node struct {
	Name      string            `json:"name"`
	Key       ed25519.PublicKey `json:"key"`
	Seal      []byte            `json:"seal"`            // X25519: what secrets are sealed to
	By        string            `json:"by"`              // the node that admitted it; a claim of whoever signed
	Token     string            `json:"token,omitempty"` // ID of the token that it came with
	Proof     []byte            `json:"proof"`           // by Key: that Name and Seal are its own
	Root      RootID            `json:"root"`            // who signed
	Signature []byte            `json:"signature"`
}

// Denial takes a name or keys off the roster for good. A name can come back with a new key, signed by a root that
// is not of Roots.
type Denial struct {
	Name string  `json:"name,omitempty"` // empty: the keys alone
	Keys []KeyID `json:"keys,omitempty"`
	// What was signed by Roots counts from now on only if it is in Keep: hashes of entries and IDs of roots.
	// Empty: the denial is of a key that was replaced, not of a node that is not trusted.
	Roots []RootID `json:"roots,omitempty"`
	Keep  []string `json:"keep,omitempty"`

	By        string `json:"by"`
	Key       KeyID  `json:"key"` // who signed
	At        int64  `json:"at"`  // seconds since 1970 by the clock of By; for people
	Signature []byte `json:"signature"`
}

// Token is what is known of a join token: enough to honour it, not to use it.
type Token struct {
	ID        string        `json:"id"`      // SHA-256 of its secret, in hexadecimal
	Expires   int64         `json:"expires"` // seconds since 1970
	Uses      int           `json:"uses"`
	Replace   bool          `json:"replace,omitempty"`
	By        string        `json:"by"`
	Root      RootID        `json:"root"`
	Signature []byte        `json:"signature"`
	Used      map[KeyID]int `json:"used,omitempty"` // by the node that honoured it
	Revoked   bool          `json:"revoked,omitempty"`
}

// used is how often a token was honoured, as far as is known here.
func (t *Token) used() int {
	n := 0
	for _, u := range t.Used {
		n += u
	}
	return n
}

// Encode returns the document's JSON. Equal documents that came out of MergeDocuments encode alike.
func (d *Document) Encode() ([]byte, error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes", ErrDocument, len(data))
	}
	return data, nil
}

// DecodeDocument checks the form alone: sizes and counts. Who signed what is checked by whoever merges it.
func DecodeDocument(data []byte) (*Document, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes", ErrDocument, len(data))
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields() // a newer form has a newer number, and dropping fields would lose them for all
	d := new(Document)
	if err := decoder.Decode(d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Document) check() error {
	switch {
	case d.Format != format:
		return fmt.Errorf("%w: format %d, not %d", ErrDocument, d.Format, format)
	case len(d.Cluster) != 64:
		return fmt.Errorf("%w: no cluster", ErrDocument)
	case len(d.Roots) > maxRoots || len(d.Nodes) > maxNodes || len(d.Denials) > maxDenials || len(d.Tokens) > maxTokens:
		return fmt.Errorf("%w: %d roots, %d nodes, %d denials, %d tokens", ErrDocument,
			len(d.Roots), len(d.Nodes), len(d.Denials), len(d.Tokens))
	}
	for _, n := range d.Nodes {
		if !ValidName(n.Name) || len(n.Key) != ed25519.PublicKeySize || len(n.Seal) != sealKeySize {
			return fmt.Errorf("%w: node %q", ErrDocument, n.Name)
		}
	}
	for _, t := range d.Tokens {
		for _, n := range t.Used {
			if n < 0 || n > MaxUses {
				return fmt.Errorf("%w: token used %d times", ErrDocument, n)
			}
		}
	}
	return nil
}

// ValidName says whether a node can be called that: 1 to 64 lower-case letters, digits, '-', '.' and '_', the
// first a letter or a digit.
func ValidName(name string) bool {
	if name == "" || len(name) > MaxName {
		return false
	}
	for i, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '.' && c != '_') {
			return false
		}
	}
	return true
}
