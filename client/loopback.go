// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/page"
)

const (
	loopbackPath = "/signed-in"
	// lingerTime is how long the browser has to fetch the last page.
	lingerTime = 2 * time.Second
)

// loopback is the listener that the browser brings the one-time code to (RFC 8252, section 7.3).
type loopback struct {
	state    string
	listener net.Listener
	server   *http.Server
	arrived  chan arrival // the first request with the right state
}

// arrival is what the browser brought. The page that it sees waits for the outcome.
type arrival struct {
	code    string
	err     error
	outcome chan error
}

func listenLoopback() (*loopback, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser: %w", err)
	}
	lb := &loopback{state: newState(), listener: l, arrived: make(chan arrival)}
	lb.server = &http.Server{Handler: lb, ReadTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	return lb, nil
}

func (lb *loopback) url() string { return "http://" + lb.listener.Addr().String() + loopbackPath }

// wait serves until a browser has brought a code, and complete has made use of it.
func (lb *loopback) wait(ctx context.Context, complete func(code string) error) error {
	served := make(chan error, 1)
	go func() { served <- lb.server.Serve(lb.listener) }()
	var err error
	select {
	case a := <-lb.arrived:
		if err = a.err; err == nil {
			err = complete(a.code)
		}
		a.outcome <- err
	case <-ctx.Done():
		err = ctx.Err()
	case err = <-served:
		return fmt.Errorf("listen for the browser: %w", err)
	}
	lingering, cancel := context.WithTimeout(context.Background(), lingerTime)
	defer cancel()
	_ = lb.server.Shutdown(lingering) // the page is a courtesy
	<-served
	return err
}

func (lb *loopback) close() {
	_ = lb.server.Close() // nothing is left to lose
	_ = lb.listener.Close()
}

// ServeHTTP implements http.Handler.
func (lb *loopback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	// The Host check keeps out pages whose name was made to resolve to this address.
	if r.URL.Path != loopbackPath || r.Method != http.MethodGet || r.Host != lb.listener.Addr().String() {
		http.NotFound(w, r)
		return
	}
	q := r.URL.Query()
	if subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(lb.state)) != 1 {
		page.Write(w, http.StatusBadRequest, "Not signed in", "this page does not belong to the sign-in that runs on this machine", "run `curfew login` again")
		return
	}
	a := arrival{code: q.Get("code"), err: refusal(q), outcome: make(chan error, 1)}
	select {
	case lb.arrived <- a:
	case <-r.Context().Done():
		return
	case <-time.After(lingerTime): // somebody was here before
		page.Write(w, http.StatusConflict, "Not signed in", "this sign-in is used up", "run `curfew login` again")
		return
	}
	if err := <-a.outcome; err != nil {
		hint := ""
		if e := (*api.Error)(nil); errors.As(err, &e) {
			hint = e.Hint
		}
		page.Write(w, http.StatusForbidden, "Not signed in", err.Error(), hint)
		return
	}
	page.Write(w, http.StatusOK, "You are signed in", "you can close this page and go on in your terminal", "")
}

// refusal returns the error that the agent sent the browser with, if it did.
func refusal(q url.Values) error {
	if q.Get("code") != "" {
		return nil
	}
	what := clean(q.Get("error_description"))
	if what == "" {
		what = "the agent gave no reason"
	}
	return &api.Error{Code: api.CodeProviderFailed, Message: what, Hint: "run `curfew login` again; if it stays so, ask the operator"}
}

// clean makes text from a URL fit for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s[:min(len(s), 512)])
}
