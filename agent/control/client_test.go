// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

func TestClientSaysWhatToDo(t *testing.T) {
	dir := shortDir(t)
	dead := filepath.Join(dir, "dead.sock") // a socket whose server is gone
	ln, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = ln.Close()

	hung := filepath.Join(dir, "hung.sock") // a server that is stopped: the kernel accepts, nobody reads
	ln, err = net.Listen("unix", hung)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()

	for socket, hint := range map[string]string{
		filepath.Join(dir, "missing.sock"): "is the agent running?",
		dead:                               "the agent is not running",
		hung:                               "kill --local",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := NewClient(socket).Status(ctx)
		cancel()
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeUnreachable || !strings.Contains(e.Hint, hint) || e.Cause == nil {
			t.Errorf("%s: %#v, want unreachable with a hint of %q", filepath.Base(socket), err, hint)
		}
	}
}

// A server of another kind on the socket must be an error, never an empty success.
func TestClientRefusesNonsense(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
		"SSH-2.0-OpenSSH\r\n",
		"",
	} {
		socket := filepath.Join(shortDir(t), "c.sock")
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 4096))
				_, _ = c.Write([]byte(answer))
				_ = c.Close()
			}
		}()
		if res, err := NewClient(socket).Kill(t.Context(), api.KillRequest{All: true}); err == nil {
			t.Errorf("%q was taken for %+v", answer, res)
		}
		_ = ln.Close()
		<-done
	}
}
