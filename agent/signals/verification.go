// SPDX-License-Identifier: Apache-2.0

package signals

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"sync"

	"github.com/curfew-proxy/curfew/agent/jose"
)

const stateBytes = 16 // of each half of a state

// verifications makes the states of verification requests, and recognises them in verification events (SSF 1.0, section
// 8.1.4). A state is signed with a key that all nodes of a cluster can make of their configuration, so the event
// may come to another node than the one that has asked for it. It is safe for concurrent use.
type verifications struct {
	key []byte

	mu      sync.Mutex // guards waiting
	waiting map[string]*awaited
}

// awaited is a verification event that somebody waits for.
type awaited struct {
	stream  string
	arrived chan struct{}
}

func newVerifications(t *Transmitter) *verifications {
	mac := hmac.New(sha256.New, []byte(t.Access.Token+t.Access.ClientSecret))
	for _, token := range append([]string{"curfew stream verification", t.Issuer, t.Audience}, t.Tokens...) {
		mac.Write([]byte(token + "\x00")) // never fails
	}
	return &verifications{key: mac.Sum(nil), waiting: map[string]*awaited{}}
}

// begin makes a state for the verification of a stream. Arrived is closed when its event comes to this node; done has to
// be called when nobody waits any more.
func (v *verifications) begin(stream string) (state string, arrived <-chan struct{}, done func()) {
	nonce := make([]byte, stateBytes)
	_, _ = rand.Read(nonce) // never fails: crypto/rand aborts the program instead
	state = base64.RawURLEncoding.EncodeToString(append(nonce, v.sign(nonce)...))
	w := &awaited{stream: stream, arrived: make(chan struct{})}
	v.mu.Lock()
	v.waiting[state] = w
	v.mu.Unlock()
	return state, w.arrived, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.waiting, state)
	}
}

func (v *verifications) sign(nonce []byte) []byte {
	mac := hmac.New(sha256.New, v.key)
	mac.Write(nonce) // never fails
	return mac.Sum(nil)[:stateBytes]
}

// arrive checks a verification event. One without a state is the transmitter's own idea. The error is a *refusal.
func (v *verifications) arrive(subject json.RawMessage, payload jose.Claims) error {
	stream, err := streamOf(subject)
	if err != nil {
		return &refusal{codeRequest, err}
	}
	state, err := payload.Text("state")
	if err != nil {
		return &refusal{codeState, err}
	}
	if state == "" {
		return nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(state)
	if err != nil || len(b) != 2*stateBytes || !hmac.Equal(b[stateBytes:], v.sign(b[:stateBytes])) {
		return refuse(codeState, "the state is none that was asked for")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	w := v.waiting[state]
	if w == nil { // another node has asked, or nobody waits any more
		return nil
	}
	if stream != "" && stream != w.stream {
		return refuse(codeRequest, "the event is about another stream than the one that was to be verified")
	}
	delete(v.waiting, state)
	close(w.arrived)
	return nil
}

// streamOf returns the stream that an event is about; "" if it does not say, as before SSF 1.0.
func streamOf(subject json.RawMessage) (string, error) {
	if subject == nil {
		return "", nil
	}
	c, err := jose.ParseClaims(subject)
	if err != nil {
		return "", err
	}
	if format, err := formatOf(c); err != nil || format != "opaque" {
		return "", errors.New("the subject of an event about a stream is not opaque")
	}
	return identifier(c, "id", maxIdentifier)
}
