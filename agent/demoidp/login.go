// SPDX-License-Identifier: Apache-2.0

package demoidp

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
)

const loginPath = "/login"

//go:embed login.html
var loginText string

var loginTemplate = template.Must(template.New("login").Parse(loginText))

func (p *Provider) loginPage(w http.ResponseWriter, r *http.Request) {
	p.writeLogin(w, http.StatusOK, r.URL.Query().Get("id"), "")
}

func (p *Provider) writeLogin(w http.ResponseWriter, status int, id, problem string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	w.WriteHeader(status)
	_ = loginTemplate.Execute(w, map[string]any{ // the browser may be gone
		"ID": id, "Users": p.storage.users(), "Problem": problem,
	})
}

// login takes the form, and sends the browser on. There is no password and nothing to consent
// to: this is a demonstration.
func (p *Provider) login(w http.ResponseWriter, r *http.Request, next func(context.Context, string) string) {
	id := r.PostFormValue("id")
	switch err := p.storage.signIn(id, r.PostFormValue("username")); {
	case errors.Is(err, errNoUser):
		p.writeLogin(w, http.StatusForbidden, id, "There is no such user.")
	case err != nil:
		p.writeLogin(w, http.StatusBadRequest, "", "This sign-in is too old. Start it again.")
	default:
		http.Redirect(w, r, next(r.Context(), id), http.StatusSeeOther)
	}
}

// SignIn does what a user with a browser does, for demonstrations that run by themselves: it
// opens start, signs in as user at the provider, and follows where that leads. client must keep
// cookies and trust the agent's certificate.
func (p *Provider) SignIn(ctx context.Context, client *http.Client, start, user string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	_ = resp.Body.Close() // where it led to is enough
	at := resp.Request.URL
	if at.Host != p.listener.Addr().String() || at.Path != loginPath {
		return fmt.Errorf("sign in: %s does not lead to the demo provider", start)
	}
	form := url.Values{"id": {at.Query().Get("id")}, "username": {user}}
	req, err = http.NewRequestWithContext(ctx, http.MethodPost, p.Issuer()+loginPath, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if resp, err = client.Do(req); err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("sign in: %s answered %s", resp.Request.URL.Host, resp.Status)
	}
	return nil
}
