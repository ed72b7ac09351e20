// SPDX-License-Identifier: Apache-2.0

package opinion

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Question is what an engine decides about.
type Question struct {
	Session session.Session // with its identity
	Service string
	Source  netip.AddrPort // the client's; the port is not part of the question
}

// input is the document that a policy finds as input: part of what docs/policy.md promises. Texts and lists are there
// also where they are empty, so that a rule over them is never undefined.
type input struct {
	Identity identity    `json:"identity"`
	Session  sessionPart `json:"session"`
	Service  string      `json:"service"`
	Source   string      `json:"source"`
	Time     time.Time   `json:"time,omitzero"`
	Node     string      `json:"node"`
}

type identity struct {
	Issuer   string    `json:"issuer"`
	Subject  string    `json:"subject"`
	Name     string    `json:"name"`
	Email    string    `json:"email"`
	Groups   []string  `json:"groups"`
	ACR      string    `json:"acr"`
	AMR      []string  `json:"amr"`
	AuthTime time.Time `json:"auth_time"`
}

type sessionPart struct {
	ID       string    `json:"id"`
	Method   string    `json:"method"`
	Created  time.Time `json:"created"`
	Deadline time.Time `json:"deadline,omitzero"`
}

func newInput(q Question, node string, now time.Time) input {
	id, s := q.Session.Identity, q.Session
	authTime := id.AuthTime
	if authTime.IsZero() {
		// The year 1 is out of range for Rego's times, and a rule that denies what is too old would be undefined:
		// it would not deny.
		authTime = time.Unix(0, 0)
	}
	return input{
		Identity: identity{
			Issuer: id.Issuer, Subject: id.Subject, Name: id.Name, Email: id.Email, ACR: id.ACR,
			Groups: append([]string{}, id.Groups...), AMR: append([]string{}, id.AMR...), AuthTime: authTime.UTC(),
		},
		Session: sessionPart{ID: s.ID.String(), Method: s.Method, Created: s.Created.UTC(), Deadline: s.Deadline.UTC()},
		Service: q.Service,
		Source:  q.Source.Addr().Unmap().WithZone("").String(), // as CEL sees it
		Time:    now.UTC(),
		Node:    node,
	}
}

// body is the request's.
func (in input) body() ([]byte, error) {
	b, err := json.Marshal(struct {
		Input input `json:"input"`
	}{in})
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	return b, nil
}

// key tells questions apart whose answers may differ: by all of the input but the time, and the deadline, which
// moves. So whatever is new about a user is asked anew.
type key [sha256.Size]byte

func (in input) key() (key, error) {
	in.Time, in.Session.Deadline = time.Time{}, time.Time{}
	b, err := in.body()
	return sha256.Sum256(b), err
}
