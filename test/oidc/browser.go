// SPDX-License-Identifier: Apache-2.0

//go:build unix

package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Browser is a user with a browser: it follows redirects, keeps cookies, and fills in the
// provider's forms. Not safe for concurrent use.
type Browser struct {
	// User is the name to sign in with; empty means that the user declines.
	User string
	// Code is what the user enters, once, where a page asks for the code of a device.
	Code string
	// Passwords is how often a password was entered.
	Passwords int
	client    *http.Client
	visited   map[string]int
}

// Visited returns how many pages of a host:port the browser has asked for.
func (b *Browser) Visited(host string) int { return b.visited[host] }

// On has the browser make its connections on another host.
func (b *Browser) On(dial func(address string) (net.Conn, error)) {
	b.client.Transport.(*http.Transport).DialContext = func(_ context.Context, _, address string) (net.Conn, error) { return dial(address) }
}

// maxSteps bounds a walk, so that redirects in a circle end it.
const maxSteps = 20

// NewBrowser returns a browser without cookies. roots vouch for https pages.
func NewBrowser(user string, roots *x509.CertPool) *Browser {
	jar, _ := cookiejar.New(nil) // returns no error
	return &Browser{User: user, visited: map[string]int{}, client: &http.Client{
		Jar:           jar,
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Page is where a walk has ended.
type Page struct {
	URL    *url.URL
	Status int // 0 if stop kept it from being fetched
	Header http.Header
	Body   string
}

// Walk opens start and goes on as a user who wants to sign in does, through redirects and forms,
// until a page has neither, or stop says not to fetch the next. stop may be nil.
func (b *Browser) Walk(ctx context.Context, start string, stop func(*url.URL) bool) (Page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return Page{}, err
	}
	for range maxSteps {
		if stop != nil && stop(req.URL) {
			return Page{URL: req.URL}, nil
		}
		page, err := b.fetch(req)
		if err != nil {
			return Page{}, err
		}
		if req, err = b.next(ctx, page); err != nil || req == nil {
			return page, err
		}
	}
	return Page{}, errors.New("too many redirects")
}

func (b *Browser) fetch(req *http.Request) (Page, error) {
	b.visited[req.URL.Host]++
	resp, err := b.client.Do(req)
	if err != nil {
		return Page{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Page{}, err
	}
	return Page{URL: req.URL, Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, nil
}

var (
	formAction  = regexp.MustCompile(`<form[^>]*\baction="([^"]*)"`)
	hiddenInput = regexp.MustCompile(`<input[^>]*type="hidden"[^>]*name="([^"]*)"[^>]*value="([^"]*)"`)
	abortLink   = regexp.MustCompile(`href="([^"]*/abort)"`)
	abortButton = regexp.MustCompile(`<button[^>]*\bname="abort"`)
	codeInput   = regexp.MustCompile(`type="text" name="user_code"`)
)

// next returns what the user does on a page, or nil if there is nothing to do.
func (b *Browser) next(ctx context.Context, page Page) (*http.Request, error) {
	if page.Status >= 300 && page.Status <= 399 {
		return b.follow(ctx, page, page.Header.Get("Location"))
	}
	form := formAction.FindStringSubmatch(page.Body)
	if page.Status != http.StatusOK || form == nil {
		return nil, nil
	}
	if abort := abortLink.FindStringSubmatch(page.Body); abort != nil && b.User == "" {
		return b.follow(ctx, page, html.UnescapeString(abort[1]))
	}
	asksForCode := codeInput.MatchString(page.Body)
	if asksForCode && b.Code == "" {
		return nil, nil
	}
	action, err := page.URL.Parse(html.UnescapeString(form[1]))
	if err != nil {
		return nil, fmt.Errorf("form: %w", err)
	}
	fields := url.Values{"login": {b.User}, "username": {b.User}, "password": {"any"}, "logout": {"yes"}}
	if strings.Contains(page.Body, `type="password"`) {
		b.Passwords++
	}
	for _, input := range hiddenInput.FindAllStringSubmatch(page.Body, -1) {
		fields.Set(html.UnescapeString(input[1]), html.UnescapeString(input[2]))
	}
	if asksForCode {
		fields.Set("user_code", b.Code)
		b.Code = ""
	}
	if b.User == "" && abortButton.MatchString(page.Body) {
		fields.Set("abort", "yes")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, action.String(), strings.NewReader(fields.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", page.URL.Scheme+"://"+page.URL.Host)
	return req, nil
}

func (b *Browser) follow(ctx context.Context, page Page, to string) (*http.Request, error) {
	u, err := page.URL.Parse(to)
	if err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	return http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
}

// SignOut ends the browser's session at the provider, which tells the relying parties through
// the back channel if they have asked for that.
func (b *Browser) SignOut(ctx context.Context, p *Provider) error {
	page, err := b.Walk(ctx, p.Issuer+"/session/end", nil)
	if err == nil && page.Status != http.StatusOK {
		err = fmt.Errorf("the provider answered %d", page.Status)
	}
	return err
}
