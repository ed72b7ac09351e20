// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Timeout is how long a request to a provider may take in all.
const Timeout = 10 * time.Second

// idleTimeout closes connections that nobody uses soon: their buffers hold the tokens that went through last.
const idleTimeout = 5 * time.Second

// Limits on what a provider may cost us. Neither go-oidc nor x/oauth2 sets any.
const (
	maxBody = 1 << 20
	maxHead = 64 << 10
)

// ErrTooBig is returned, by whoever reads an answer, where it is beyond the limit of the client.
var ErrTooBig = errors.New("the answer is too big")

var errRedirect = errors.New("the answer is a redirect where none belongs")

// NewHTTPClient returns the client for all requests to a provider or a policy engine: bounded in time and size, without
// redirects. Its certificate is checked against roots, or the system's if that is nil.
func NewHTTPClient(roots *x509.CertPool) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	transport.IdleConnTimeout = idleTimeout
	transport.MaxResponseHeaderBytes = maxHead
	return &http.Client{
		Transport: limitBody{transport},
		Timeout:   Timeout,
		CheckRedirect: func(req *http.Request, _ []*http.Request) error {
			return fmt.Errorf("%w: to %s", errRedirect, req.URL.Host)
		},
	}
}

// Roots returns the certificates in a PEM file for NewHTTPClient, or nil for the system's if it is empty.
// Text without any certificate is an error.
func Roots(pem []byte) (*x509.CertPool, error) {
	if len(pem) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("ca: holds no certificate in PEM")
	}
	return pool, nil
}

type limitBody struct{ next *http.Transport }

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (t limitBody) CloseIdleConnections() { t.next.CloseIdleConnections() }

func (t limitBody) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > maxBody {
		_ = resp.Body.Close() // it is refused anyway
		return nil, ErrTooBig
	}
	resp.Body = &limitedBody{resp.Body, maxBody}
	return resp, nil
}

// limitedBody fails, rather than ends, at the limit: a cut answer must not pass for a whole one.
type limitedBody struct {
	io.ReadCloser
	left int
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		return 0, ErrTooBig
	}
	b.left -= n
	return n, err
}
