// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/peers"
)

// devtools speaks the Chrome DevTools Protocol over the pipe that --remote-debugging-pipe makes
// of a browser's file descriptors 3 and 4: messages of JSON that end with a zero byte. There is no
// port that others could connect to. For one goroutine at a time.
type devtools struct {
	to      *os.File
	from    *os.File
	in      *bufio.Reader
	session string  // of the tab; empty: the browser itself
	last    int     // id of the last call
	events  []event // of the tab, in order
}

// event is what the browser tells unasked.
type event struct {
	Method string
	Params json.RawMessage
}

// launchChromium starts a headless Chromium that reaches 127.0.0.1 only, and believes, beside
// what its system does, a certificate with the public key that spki is the SHA-256 of, in base64.
// It ends with the test, and all of its processes do.
func launchChromium(t *testing.T, spki string) *devtools {
	t.Helper()
	dir := t.TempDir() // removed after the processes are gone: cleanups run last in, first out
	cmd := exec.Command(peers.Find(t, "chromium", "google-chrome"), "--headless", "--remote-debugging-pipe", "--no-sandbox",
		"--user-data-dir="+dir, "--ignore-certificate-errors-spki-list="+spki, "--lang=en", "--window-size=800,600",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server",
		"--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync", "--no-first-run",
		"--disable-gpu", "--disable-dev-shm-usage", "--disable-breakpad", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	theirIn, to := pipe(t)
	from, theirOut := pipe(t)
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4
	proc := peers.Start(t, cmd)
	theirIn.Close()
	theirOut.Close()
	t.Cleanup(func() { _ = syscall.Kill(-proc.Process.Pid, syscall.SIGKILL) }) // all of them; it may have ended
	d := &devtools{to: to, from: from, in: bufio.NewReader(from)}
	var target struct{ TargetID string }
	d.must(t, "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	d.must(t, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	d.session = attached.SessionID
	for _, domain := range []string{"Page", "Network", "Runtime", "Log"} {
		d.must(t, domain+".enable", nil, nil)
	}
	return d
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// must calls a method, and decodes what it returns into result unless that is nil.
func (d *devtools) must(t *testing.T, method string, params, result any) {
	t.Helper()
	if err := d.call(method, params, result); err != nil {
		t.Fatal(err)
	}
}

func (d *devtools) call(method string, params, result any) error {
	d.last++
	b, err := json.Marshal(struct {
		ID      int    `json:"id"`
		Session string `json:"sessionId,omitempty"`
		Method  string `json:"method"`
		Params  any    `json:"params,omitempty"`
	}{d.last, d.session, method, params})
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	deadline := time.Now().Add(harness.Patience)
	_, _ = d.to.SetDeadline(deadline), d.from.SetDeadline(deadline) // pipes have deadlines
	if _, err := d.to.Write(append(b, 0)); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	for {
		line, err := d.in.ReadBytes(0)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		var m struct {
			ID        int
			SessionID string
			Result    json.RawMessage
			Error     *struct{ Message string }
			event
		}
		if err := json.Unmarshal(bytes.TrimSuffix(line, []byte{0}), &m); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		switch {
		case m.ID == 0 && m.SessionID == d.session:
			d.events = append(d.events, m.event)
		case m.ID != d.last: // another tab's
		case m.Error != nil:
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		case result == nil:
			return nil
		default:
			return json.Unmarshal(m.Result, result)
		}
	}
}
