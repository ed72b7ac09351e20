// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Ticker starts a websocket server that sends a counter every interval for as long as a client
// listens, and returns its address.
func Ticker(t testing.TB, interval time.Duration) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the answer has been written
		}
		defer ws.CloseNow()
		ctx := ws.CloseRead(r.Context())
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, "tick %d", n)); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}
