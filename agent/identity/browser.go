// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"net/http"
	"regexp"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/page"
)

// Paths of the pages that the user's browser sees.
const (
	pathStart    = "/start/"
	pathCallback = "/callback"
)

// browserCookie names the cookie that holds a random secret per browser. The __Host- prefix
// makes browsers take it only from this very host, over TLS (RFC 6265bis, section 4.1.3.2).
const browserCookie = "__Host-curfew-browser"

var browserSecret = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// start is the page that `curfew login` opens: it ties the sign-in to this browser and sends it
// on to the provider.
func (h *Handler) start(w http.ResponseWriter, r *http.Request) {
	secret := secretOf(r)
	if secret == "" {
		secret = newSecret()
	}
	to, err := h.cfg.Logins.Open(r.PathValue("token"), secret)
	if err != nil {
		h.failPage(w, err)
		return
	}
	// Lax: the provider's redirect to the callback is a navigation from another site.
	http.SetCookie(w, &http.Cookie{Name: browserCookie, Value: secret, Path: "/", Secure: true,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: int(loginLifetime.Seconds())})
	h.redirect(w, to)
}

// callback is where the provider sends the browser back to.
func (h *Handler) callback(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for _, values := range q {
		if len(values) > 1 { // RFC 6749, section 3.1: parameters must not be repeated
			h.failPage(w, errLoginGone)
			return
		}
	}
	to, err := h.cfg.Logins.Callback(r.Context(), callback{
		provider: r.PathValue("provider"),
		code:     q.Get("code"), state: q.Get("state"), iss: q.Get("iss"), err: jose.Printable(q.Get("error")),
		browser: secretOf(r),
	})
	if err != nil {
		h.failPage(w, err)
		return
	}
	h.redirect(w, to)
}

func (h *Handler) redirect(w http.ResponseWriter, to string) {
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther) // no body: the code in it would be one copy more
}

func secretOf(r *http.Request) string {
	c, err := r.Cookie(browserCookie)
	if err != nil || !browserSecret.MatchString(c.Value) {
		return ""
	}
	return c.Value
}

func (h *Handler) failPage(w http.ResponseWriter, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		h.log.Error("sign-in page failed", "error", err)
		e = &api.Error{Code: api.CodeInternal, Message: "the agent could not do this", Hint: "its log says why"}
	}
	page.Write(w, statusOf(e.Code), "Not signed in", e.Message, e.Hint)
}

func noPage(w http.ResponseWriter, _ *http.Request) {
	page.Write(w, http.StatusNotFound, "Curfew", "there is no page here", "to sign in, run `curfew login` in a terminal")
}
