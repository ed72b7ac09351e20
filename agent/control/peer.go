// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"slices"
	"strconv"

	"github.com/curfew-proxy/curfew/agent/api"
)

// errNoCredentials: the platform or the connection cannot tell who is calling.
var errNoCredentials = errors.New("caller's credentials are not known")

// peer is who is at the other end of a control connection.
type peer struct {
	uid uint32
	pid int32
	err error // set if the kernel would not say; then nothing is allowed
}

type peerKey struct{}

// withPeer is the server's ConnContext: it asks the kernel once per connection who has connected
// (SO_PEERCRED: fixed at connect(2), so that a descriptor passed on does not lend its rights).
func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerOf(c))
}

// by names the caller for the audit log, as in "root@control".
func (p peer) by() string {
	name := "uid " + strconv.FormatUint(uint64(p.uid), 10)
	if p.uid == 0 {
		name = "root"
	} else if u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil {
		name = u.Username
	}
	return name + "@control"
}

// admit lets only the allowed users through to next. The file mode of the socket says the same;
// this holds also when somebody changes it.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok := r.Context().Value(peerKey{}).(peer)
		if !ok {
			p.err = errNoCredentials
		}
		if p.err != nil || !slices.Contains(s.cfg.AllowUIDs, p.uid) {
			s.cfg.Log.Warn("control request refused", "uid", p.uid, "pid", p.pid, "path", r.URL.Path, "err", p.err)
			writeError(w, &api.Error{
				Code:    api.CodeForbidden,
				Message: fmt.Sprintf("user %d may not use the control socket", p.uid),
				Hint:    "run the command as root",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}
