// SPDX-License-Identifier: Apache-2.0

package client

import (
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// A user is told why a session has ended in words, whatever the reason is.
func TestEveryEndIsExplained(t *testing.T) {
	for _, r := range []session.Reason{session.ReasonAbsolute, session.ReasonIdle, session.ReasonKilled, session.ReasonLogout, session.ReasonProvider,
		session.ReasonPolicy, session.ReasonSuperseded, session.ReasonWatermark, session.ReasonConflict, session.ReasonReplayed,
		session.ReasonUnvalidated, session.ReasonLost, session.ReasonUnavailable} {
		err := Ended(api.Session{Ended: &session.End{Reason: r}})
		why, found := strings.CutPrefix(err.Error(), "your session has ended: ")
		if !found || !strings.HasSuffix(why, " ("+string(r)+")") || strings.HasPrefix(why, string(r)) {
			t.Errorf("%s: %q", r, err)
		}
	}
}
