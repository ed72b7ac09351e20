// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/curfew-proxy/curfew/agent/identity"
)

// Sign-ins under way live at the node where they began. A browser or client that comes to another, for they share an
// address, is answered by that node, through this one.

// forwarded is an HTTP request to the sign-in API on its way to the node that it is about. The other node trusts this one
// with whose key the connection proved.
type forwarded struct {
	Method      string      `json:"method"`
	Host        string      `json:"host"`
	URI         string      `json:"uri"`
	Header      http.Header `json:"header"`
	Source      string      `json:"source"`      // host:port
	Certificate []byte      `json:"certificate"` // of the client, DER; may be empty
	Body        []byte      `json:"body"`
}

// answered is the other node's answer.
type answered struct {
	Status int         `json:"status"`
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
}

// maxForwardedBody is more than any request needs that is about a sign-in under way.
const maxForwardedBody = 32 << 10

// forwardedHeaders are what the handlers of sign-ins look at.
var forwardedHeaders = []string{"Cookie", "Content-Type", "Accept", "Origin", "Sec-Fetch-Site"}

// mark is what this node's sign-ins begin with; empty where the node is alone.
func (n *clusterNode) mark() string {
	if n == nil {
		return ""
	}
	return markOf(n.time.Self().Node)
}

func markOf(node string) string {
	sum := sha256.Sum256([]byte(node))
	return hex.EncodeToString(sum[:4])
}

// forward answers what is about a sign-in of another node with that node's answer, and all else by here.
func (n *clusterNode) forward(here http.Handler) http.Handler {
	if n == nil {
		return here
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		node := n.nodeOf(identity.MarkOf(r))
		if node == "" {
			here.ServeHTTP(w, r)
			return
		}
		a, err := n.askToServe(r, node)
		if err != nil {
			n.p.log.Warn("sign-in of another node", "node", node, "path", strings.SplitN(r.URL.Path, "/", 3)[1], "error", err)
			identity.WriteUnreachable(w, r)
			return
		}
		for name, values := range a.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(a.Status)
		_, _ = w.Write(a.Body) // the client may be gone
	})
}

// nodeOf returns the other node with a mark, or "" if there is none: then nobody knows the sign-in, and we say so.
func (n *clusterNode) nodeOf(mark string) string {
	if mark == "" || mark == n.mark() {
		return ""
	}
	for _, m := range n.members.Members() {
		if markOf(m.Name) == mark {
			return m.Name
		}
	}
	return ""
}

func (n *clusterNode) askToServe(r *http.Request, node string) (a answered, err error) {
	f := forwarded{Method: r.Method, Host: r.Host, URI: r.URL.RequestURI(), Header: http.Header{}, Source: r.RemoteAddr}
	for _, name := range forwardedHeaders {
		if values := r.Header.Values(name); len(values) > 0 {
			f.Header[name] = values
		}
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		f.Certificate = r.TLS.PeerCertificates[0].Raw
	}
	if f.Body, err = io.ReadAll(io.LimitReader(r.Body, maxForwardedBody+1)); err != nil || len(f.Body) > maxForwardedBody {
		return a, fmt.Errorf("request of over %d bytes: %w", maxForwardedBody, io.ErrUnexpectedEOF)
	}
	request, err := json.Marshal(f)
	if err != nil {
		return a, err
	}
	answer, err := n.engine.Ask(r.Context(), node, request)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(answer, &a); err != nil || a.Status < 200 || a.Status > 599 {
		return a, fmt.Errorf("answer with status %d: %w", a.Status, err)
	}
	return a, nil
}

// serveForwarded is cluster.Config.Answer: it serves what is about a sign-in of this node, and nothing else.
func (n *clusterNode) serveForwarded(ctx context.Context, _ string, request []byte) ([]byte, error) {
	var f forwarded
	if err := json.Unmarshal(request, &f); err != nil {
		return nil, fmt.Errorf("forwarded request: %w", err)
	}
	r, err := f.request(ctx)
	if err != nil {
		return nil, fmt.Errorf("forwarded request: %w", err)
	}
	here := n.signIn.Load()
	if here == nil || identity.MarkOf(r) != n.mark() {
		return nil, errors.New("forwarded request: it is about no sign-in of this node")
	}
	w := &recorder{header: http.Header{}}
	(*here).ServeHTTP(w, r)
	return json.Marshal(answered{Status: max(w.status, http.StatusOK), Header: w.header, Body: w.body.Bytes()})
}

// recorder keeps an answer.
type recorder struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (f *forwarded) request(ctx context.Context) (*http.Request, error) {
	u, err := url.ParseRequestURI(f.URI)
	if err != nil {
		return nil, err
	}
	r := &http.Request{Method: f.Method, Host: f.Host, URL: u, RequestURI: f.URI, Header: f.Header, RemoteAddr: f.Source, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(f.Body)), ContentLength: int64(len(f.Body)), TLS: &tls.ConnectionState{HandshakeComplete: true}}
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if len(f.Certificate) > 0 {
		cert, err := x509.ParseCertificate(f.Certificate)
		if err != nil {
			return nil, err
		}
		r.TLS.PeerCertificates = []*x509.Certificate{cert}
	}
	return r.WithContext(ctx), nil
}
