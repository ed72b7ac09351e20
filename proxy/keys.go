// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
)

// suite is what a TLS 1.3 cipher suite means for the record layer.
type suite struct {
	keyLen int
	hash   func() hash.Hash
}

// suites are those of tls13Leg; ChaCha20-Poly1305, which the standard library does not export,
// stays with crypto/tls.
var suites = map[uint16]*suite{
	tls.TLS_AES_128_GCM_SHA256: {16, sha256.New},
	tls.TLS_AES_256_GCM_SHA384: {32, sha512.New384},
}

// trafficKeys protect one direction of a TLS 1.3 connection (RFC 8446, sections 5.2, 5.3, 7.2).
type trafficKeys struct {
	suite  *suite
	secret []byte
	aead   cipher.AEAD
	iv     [12]byte
	seq    uint64
}

func newTrafficKeys(s *suite, secret []byte) (trafficKeys, error) {
	if len(secret) != s.hash().Size() {
		return trafficKeys{}, fmt.Errorf("traffic secret of %d bytes", len(secret))
	}
	k := trafficKeys{suite: s, secret: secret}
	k.derive()
	return k, nil
}

// derive sets key, IV and sequence number from the secret (section 7.3).
func (k *trafficKeys) derive() {
	block, err := aes.NewCipher(k.expand("key", k.suite.keyLen))
	if err == nil {
		k.aead, err = cipher.NewGCM(block)
	}
	if err != nil {
		panic(err) // both depend on the key's length only
	}
	copy(k.iv[:], k.expand("iv", len(k.iv)))
	k.seq = 0
}

// update goes to the next generation of keys (section 7.2).
func (k *trafficKeys) update() {
	k.secret = k.expand("traffic upd", len(k.secret))
	k.derive()
}

// expand is HKDF-Expand-Label with an empty context (section 7.1).
func (k *trafficKeys) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := make([]byte, 0, 2+1+len(label)+1)
	info = binary.BigEndian.AppendUint16(info, uint16(n))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	out, err := hkdf.Expand(k.suite.hash, k.secret, string(info), n)
	if err != nil {
		panic(err) // for more than 255 times the hash's length only
	}
	return out
}

// nonce returns the nonce of the next record and counts it.
func (k *trafficKeys) nonce() (n [12]byte) {
	n = k.iv
	low := binary.BigEndian.Uint64(n[4:])
	binary.BigEndian.PutUint64(n[4:], low^k.seq)
	k.seq++
	return n
}

// open decrypts a whole record in place and returns its inner plaintext.
func (k *trafficKeys) open(record []byte) ([]byte, error) {
	nonce := k.nonce()
	body := record[recordHeader:]
	return k.aead.Open(body[:0], nonce[:], body, record[:recordHeader])
}

// seal makes a record of a span, in place: a header before it, its type and tag behind it.
func (k *trafficKeys) seal(mem []byte, s span, typ byte) {
	record := mem[s.off-recordHeader : s.off+s.n+recordTail]
	n := s.n + recordTail
	record[0], record[1], record[2], record[3], record[4] = typeApplication, 3, 3, byte(n>>8), byte(n)
	body := record[recordHeader:]
	body[s.n] = typ
	nonce := k.nonce()
	k.aead.Seal(body[:0], nonce[:], body[:s.n+1], record[:recordHeader])
}

// secrets catches the traffic secrets of one handshake. crypto/tls tells them to nobody but its
// key log, so that is where they are taken from; they are never logged.
type secrets struct{ client, server []byte }

// Write implements io.Writer for tls.Config.KeyLogWriter: one call for each line of the NSS key
// log format, "LABEL client-random secret".
func (s *secrets) Write(line []byte) (int, error) {
	label, rest, _ := bytes.Cut(line, []byte(" "))
	_, text, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
	var to *[]byte
	switch string(label) {
	case "CLIENT_TRAFFIC_SECRET_0":
		to = &s.client
	case "SERVER_TRAFFIC_SECRET_0":
		to = &s.server
	default:
		return len(line), nil
	}
	*to = make([]byte, hex.DecodedLen(len(text)))
	_, err := hex.Decode(*to, text)
	return len(line), err
}

// takeOver returns the leg that goes on where a handshake over in has ended: ours where it knows
// the suite, else conn itself. It must be called before conn reads or writes payload.
func (s *secrets) takeOver(conn *tls.Conn, in *recordConn, client bool) (leg, error) {
	state := conn.ConnectionState()
	suite := suites[state.CipherSuite]
	if state.Version != tls.VersionTLS13 || suite == nil {
		return &stdLeg{conn: conn, in: in}, nil
	}
	if s.client == nil || s.server == nil {
		return nil, errors.New("crypto/tls did not log its traffic secrets")
	}
	theirs, ours := s.client, s.server
	if client {
		theirs, ours = ours, theirs
	}
	l := &tls13Leg{sock: in.sock, client: client, carry: in.release()}
	var err error
	if l.in, err = newTrafficKeys(suite, theirs); err != nil {
		return nil, fmt.Errorf("derive keys: %w", err)
	}
	if l.out, err = newTrafficKeys(suite, ours); err != nil {
		return nil, fmt.Errorf("derive keys: %w", err)
	}
	return l, nil
}
