// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/page"
)

// Paths of the pages through which a browser signs out at a provider.
const (
	pathLogout    = "/logout/"
	pathSignedOut = "/signed-out/"
)

const (
	signOutLifetime = 5 * time.Minute // for slow people
	maxSignOuts     = 4096
)

// signOuts are sign-outs at providers that are under way (OpenID Connect RP-Initiated Logout 1.0): the ID token goes to the
// provider in the browser's redirect, and to nobody else. It is safe for concurrent use.
type signOuts struct {
	mu      sync.Mutex
	byToken map[digest]*signOut
	byState map[digest]*signOut
}

type signOut struct {
	provider *Provider
	idToken  []byte // wiped when it was used
	mark     string
	token    digest
	state    digest
	expires  time.Time
}

// begin returns where the user's browser has to go, on the agent; empty if the provider has no page for it.
func (s *signOuts) begin(p *Provider, idToken []byte, mark string) string {
	m := p.meta.Load()
	if m == nil || m.endSession == "" || len(idToken) == 0 {
		return ""
	}
	token := marked(mark)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
	if len(s.byToken) >= maxSignOuts {
		return "" // who signs out a thousand times a minute can do without the page
	}
	if s.byToken == nil {
		s.byToken, s.byState = map[digest]*signOut{}, map[digest]*signOut{}
	}
	out := &signOut{provider: p, idToken: append([]byte(nil), idToken...), mark: mark, token: digestOf(token), expires: time.Now().Add(signOutLifetime)}
	s.byToken[out.token] = out
	return p.page(pathLogout + token)
}

func (s *signOuts) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
}

func (s *signOuts) sweepLocked() {
	now := time.Now()
	for token, out := range s.byToken {
		if now.After(out.expires) {
			clear(out.idToken)
			delete(s.byToken, token)
		}
	}
	for state, out := range s.byState {
		if now.After(out.expires) {
			delete(s.byState, state)
		}
	}
}

// redirect returns the provider's page for a token, which is used up.
func (s *signOuts) redirect(token string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
	out := s.byToken[digestOf(token)]
	if out == nil {
		return "", false
	}
	delete(s.byToken, out.token)
	defer func() { clear(out.idToken); out.idToken = nil }()
	m := out.provider.meta.Load()
	if m == nil || m.endSession == "" { // any more
		return "", false
	}
	to, err := url.Parse(m.endSession)
	if err != nil {
		return "", false // it was checked at discovery
	}
	q := to.Query()
	q.Set("id_token_hint", string(out.idToken))
	q.Set("client_id", m.cfg.ClientID)
	if m.cfg.PostLogoutRedirect {
		state := marked(out.mark)
		out.state = digestOf(state)
		s.byState[out.state] = out
		q.Set("post_logout_redirect_uri", out.provider.page(pathSignedOut+out.provider.Name()))
		q.Set("state", state)
	}
	to.RawQuery = q.Encode()
	return to.String(), true
}

// finish reports whether a state is that of a sign-out at the provider, and uses it up.
func (s *signOuts) finish(provider, state string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
	out := s.byState[digestOf(state)]
	if out == nil || out.provider.Name() != provider {
		return false
	}
	delete(s.byState, out.state)
	return true
}

// leave is the page that `curfew logout --provider` opens: it sends the browser on to the provider.
func (h *Handler) leave(w http.ResponseWriter, r *http.Request) {
	to, ok := h.cfg.Logins.signOuts.redirect(r.PathValue("token"))
	if !ok {
		h.failPage(w, errSignOutGone)
		return
	}
	h.redirect(w, to)
}

// left is where the provider sends the browser when it has signed the user out.
func (h *Handler) left(w http.ResponseWriter, r *http.Request) {
	if !h.cfg.Logins.signOuts.finish(r.PathValue("provider"), r.URL.Query().Get("state")) {
		h.failPage(w, errSignOutGone)
		return
	}
	page.Write(w, http.StatusOK, "Signed out", "you are signed out here and at the identity provider", "")
}

var errSignOutGone = &api.Error{Code: api.CodeLoginInvalid,
	Message: "this sign-out is unknown, finished or too old", Hint: "your session here has ended when `curfew logout` said so"}
