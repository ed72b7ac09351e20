// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/page"
)

// Sign-ins under way are known to one node only, and behind one address there may be many. So everything that such a
// sign-in gives away to be brought back begins with the mark of its node.

// marked returns a fresh secret with a mark.
func marked(mark string) string {
	if mark == "" {
		return newSecret()
	}
	return mark + "." + newSecret()
}

// maxMarkedBody bounds the bodies that are looked into for a mark.
const maxMarkedBody = 16 << 10

// MarkOf returns the mark of the node that a request is about, or "" if it is about none: any can answer it. The body can
// be read again afterwards.
func MarkOf(r *http.Request) string {
	var secret string
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, pathStart):
		secret = strings.TrimPrefix(path, pathStart)
	case strings.HasPrefix(path, pathLogout):
		secret = strings.TrimPrefix(path, pathLogout)
	case path == pathCallback, strings.HasPrefix(path, pathCallback+"/"), strings.HasPrefix(path, pathSignedOut):
		secret = r.URL.Query().Get("state")
	case path == api.PathLoginComplete, path == api.PathDevicePoll:
		secret = secretIn(r)
	}
	mark, _, has := strings.Cut(secret, ".")
	if !has {
		return ""
	}
	return mark
}

// secretIn returns the secret in the body of a request, or "" if that is none that we understand.
func secretIn(r *http.Request) string {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxMarkedBody))
	r.Body = readCloser{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	var said struct {
		Code  string `json:"code"`
		Login string `json:"login"`
	}
	if err != nil || json.Unmarshal(body, &said) != nil {
		return ""
	}
	return said.Code + said.Login // never both
}

type readCloser struct {
	io.Reader
	io.Closer
}

// WriteUnreachable answers a request that is about a sign-in of a node that does not answer.
func WriteUnreachable(w http.ResponseWriter, r *http.Request) {
	e := &api.Error{Code: api.CodeUnavailable, Message: "the node where this sign-in began does not answer", Hint: "run `curfew login` again"}
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		writeError(w, e)
		return
	}
	page.Write(w, statusOf(e.Code), "Not signed in", e.Message, e.Hint)
}
