// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"os/exec"
	"strconv"
	"testing"
)

// Redis starts a Redis server that keeps nothing, and returns its address.
func Redis(t testing.TB) string {
	t.Helper()
	port := FreePort(t)
	p := Start(t, exec.Command(Find(t, "redis-server"), "--port", strconv.Itoa(port), "--bind", "127.0.0.1",
		"--save", "", "--appendonly", "no", "--dir", t.TempDir()))
	p.WaitDial(t, loopback(port))
	return loopback(port)
}
