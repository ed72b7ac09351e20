// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// When a session is renewed.
const (
	tokenPoll  = 2 * time.Second // how often the token is looked at
	renewFirst = time.Second     // after a failure; doubles with each
	renewMax   = time.Minute
	renewGain  = time.Second // a new session that lasts only that much longer gains nothing
)

// renewal keeps a machine signed in.
type renewal struct {
	source TokenSource
	signIn func(ctx context.Context, token string) (api.Session, error)
	report func(api.Session, error)

	used    string    // the token of the session at hand
	ends    time.Time // when that session ends if nothing happens
	due     time.Time // when to sign in with the same token again; zero: that gains nothing
	backoff time.Duration
	told    string // the last error, which is told once
}

// run renews until ctx is done.
func (r *renewal) run(ctx context.Context, token string, sess api.Session) {
	r.took(token, sess)
	poll := time.NewTicker(tokenPoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			r.look(ctx)
		}
	}
}

// look signs in if the token is another than before, or if it is time.
func (r *renewal) look(ctx context.Context) {
	token, err := r.source()
	if err != nil {
		r.tell(err)
		return
	}
	if token == r.used && (r.due.IsZero() || time.Now().Before(r.due)) {
		r.warn()
		return
	}
	sess, err := r.signIn(ctx, token)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.failed(token, err)
	default:
		r.took(token, sess)
		r.report(sess, nil)
	}
}

// took plans ahead from a session that was just made.
func (r *renewal) took(token string, sess api.Session) {
	now := time.Now()
	ends := now.Add(sess.Left.Duration())
	gained := token != r.used || ends.Sub(r.ends) > renewGain
	r.used, r.ends, r.due, r.backoff, r.told = token, ends, time.Time{}, 0, ""
	if gained {
		r.due = now.Add(sess.Left.Duration() * 2 / 3)
	}
}

// failed plans another try. A token that was refused may be taken later: the agent's configuration can change,
// and its issuer come back.
func (r *renewal) failed(token string, err error) {
	r.backoff = min(max(2*r.backoff, renewFirst), renewMax)
	r.used = token
	r.due = time.Now().Add(r.backoff + rand.N(r.backoff/4))
	r.tell(err)
}

// warn says that the session is about to end, or has ended, with its token.
func (r *renewal) warn() {
	if r.due.IsZero() && !time.Now().Before(r.ends) {
		r.tell(&api.Error{Code: api.CodeSessionEnded, Message: "the session has ended with its token, and there is no new one yet",
			Hint: "whoever writes the token must do so before it expires"})
	}
}

// tell reports an error, but not the same again and again.
func (r *renewal) tell(err error) {
	if text := fmt.Sprint(err); text != r.told {
		r.told = text
		r.report(api.Session{}, err)
	}
}
