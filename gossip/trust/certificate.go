// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultLifetime is how long a node's certificate is good for; it is renewed after half of that.
	DefaultLifetime = 30 * 24 * time.Hour

	rootLifetime = 50 * 365 * 24 * time.Hour
	// backdate lets nodes talk whose wall clocks differ.
	backdate = 48 * time.Hour

	scheme = "curfew"
)

// Errors of Verify.
var (
	ErrNotOnRoster = errors.New("certificate of a node that is not on the roster")
	ErrDenied      = errors.New("certificate of a node that was removed")
	ErrForm        = errors.New("not a certificate of a node")
)

// newRoot makes a self-signed root that says which one comes before it; empty: it is the first.
func newRoot(parent RootID, now time.Time) (der []byte, key ed25519.PrivateKey, err error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make root key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serialAt(now, nil),
		Subject:               rootName(parent),
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, public, key); err != nil {
		return nil, nil, fmt.Errorf("make root: %w", err)
	}
	return der, key, nil
}

func rootName(parent RootID) pkix.Name {
	name := pkix.Name{CommonName: "curfew cluster"}
	if parent != "" {
		name.SerialNumber = string(parent)
	}
	return name
}

func parentOf(root *x509.Certificate) RootID { return RootID(root.Subject.SerialNumber) }

// issue makes a node's certificate. The name is where no name of a host is taken from.
func issue(cluster RootID, name string, key ed25519.PrivateKey, root *rootView, rootKey ed25519.PrivateKey,
	now time.Time, life time.Duration, before *tls.Certificate) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: serialAt(now, before),
		URIs:         []*url.URL{nodeURI(cluster, name)},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.cert, key.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return assemble(der, root.Certificate, key)
}

func assemble(der, root []byte, key ed25519.PrivateKey) (*tls.Certificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	if !key.Public().(ed25519.PublicKey).Equal(leaf.PublicKey) {
		return nil, errors.New("own certificate is not of the own key")
	}
	return &tls.Certificate{Certificate: [][]byte{der, root}, PrivateKey: key, Leaf: leaf}, nil
}

// serialAt is the instant of issue in nanoseconds, then 64 random bits; later than that of the certificate before
// even if the clock was set back.
func serialAt(now time.Time, before *tls.Certificate) *big.Int {
	at := uint64(now.UnixNano())
	if before != nil {
		if last := new(big.Int).Rsh(before.Leaf.SerialNumber, 64); last.IsUint64() {
			at = max(at, last.Uint64()+1)
		}
	}
	var b [16]byte
	_, _ = rand.Read(b[8:]) // never fails
	binary.BigEndian.PutUint64(b[:8], at)
	return new(big.Int).SetBytes(b[:])
}

func nodeURI(cluster RootID, name string) *url.URL {
	return &url.URL{Scheme: scheme, Host: string(cluster), Path: "/" + name}
}

// nameIn returns the name in a certificate of this cluster.
func nameIn(leaf *x509.Certificate, cluster RootID) (string, error) {
	if leaf.IsCA || len(leaf.URIs) != 1 || len(leaf.DNSNames) > 0 || leaf.URIs[0].Scheme != scheme {
		return "", ErrForm
	}
	uri := leaf.URIs[0]
	if uri.Host != string(cluster) {
		return "", ErrCluster
	}
	name := strings.TrimPrefix(uri.Path, "/")
	if !ValidName(name) || *uri != *nodeURI(cluster, name) {
		return "", ErrForm
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return "", ErrForm
	}
	return name, nil
}

// verify returns the name that a certificate proves. The roster has the last word: a good signature of a root
// is not enough, since every node that ever was can have made it.
func (v *view) verify(leaf *x509.Certificate, cluster RootID, now time.Time) (string, error) {
	name, err := nameIn(leaf, cluster)
	if err != nil {
		return "", err
	}
	id := spkiID(leaf.RawSubjectPublicKeyInfo)
	if v.denied[id] {
		return "", fmt.Errorf("%w: %s", ErrDenied, name)
	}
	if n := v.members[id]; n == nil || n.Name != name {
		return "", fmt.Errorf("%w: %s", ErrNotOnRoster, name)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: v.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		return "", fmt.Errorf("certificate of %s: %w", name, err)
	}
	return name, nil
}
