// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/demo"
	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/peers"
)

// curfew runs the program without an agent, as a user.
func curfew(t *testing.T, uid uint32, args ...string) harness.Result {
	t.Helper()
	exe, err := os.Open(harness.Binary(t)) // others may not be able to reach it
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", args...)
	cmd.Dir, cmd.ExtraFiles = "/", []*os.File{exe}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return harness.Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
}

// The doctor says of each layer whether it works here, by trying; for what does not, a hint; and by the exit code
// whether the agent would start.
func TestDoctor(t *testing.T) {
	type finding struct {
		Name, Detail, Hint string
		OK                 bool
	}
	for who, tc := range map[string]struct {
		uid  uint32
		code int
	}{"root": {0, 0}, "nobody": {65534, 1}} {
		res := curfew(t, tc.uid, "doctor", "-o", "json")
		var list []finding
		if err := json.Unmarshal([]byte(res.Stdout), &list); err != nil || res.Code != tc.code {
			t.Fatalf("%s: %v, %+v", who, err, res)
		}
		layers := map[string]bool{"destroy": true, "sweep": true, "gate": true, "stack": true}
		for _, f := range list {
			if layers[f.Name] && f.OK != (who == "root") || !f.OK && (f.Hint == "" || f.Detail == "") {
				t.Errorf("%s: %+v", who, f)
			}
			delete(layers, f.Name)
		}
		if len(layers) > 0 {
			t.Errorf("%s: nothing is said of %v", who, layers)
		}
		if who == "nobody" && !strings.Contains(res.Stderr, "enforcement: userspace") {
			t.Errorf("no way out: %s", res.Stderr)
		}
	}
}

// The demo ends by itself in under a minute, with 0 only if everything is as promised.
func TestDemo(t *testing.T) {
	began := time.Now()
	res := curfew(t, 0, "demo", "-o", "json", "--streams", "10", "--session", "3s")
	var rounds []demo.Result
	if err := json.Unmarshal([]byte(res.Stdout), &rounds); err != nil || res.Code != 0 || len(rounds) != 3 {
		t.Fatalf("%v, %+v", err, res)
	}
	for i, r := range rounds {
		if r.Destroyed != r.Streams || r.Streams < 3 || r.Before == 0 || r.After != 0 || !r.Refused || i < 2 && !r.Again {
			t.Errorf("%+v", r)
		}
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

// A demo that is kept can be looked at as it says, and leaves nothing when it is interrupted.
func TestDemoIsKept(t *testing.T) {
	cmd := exec.Command(harness.Binary(t), "demo", "--keep", "--streams", "3", "--session", "3s")
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); <-ended })
	says := regexp.MustCompile(`export CURFEW_SOCKET=(\S+)`)
	harness.Eventually(t, "the demo to be kept", func() error {
		if says.FindStringSubmatch(out.String()) == nil {
			return errors.New(out.String())
		}
		return nil
	})
	socket := says.FindStringSubmatch(out.String())[1]
	look := exec.Command(harness.Binary(t), "sessions", "--socket", socket)
	if b, err := look.CombinedOutput(); err != nil {
		t.Errorf("sessions: %v\n%s", err, b)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := <-ended
	ended <- err // for the cleanup
	if err != nil {
		t.Errorf("interrupted: %v\n%s", err, out.String())
	}
	if _, err := os.Stat(filepath.Dir(filepath.Dir(socket))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it leaves %s: %v", socket, err)
	}
}

// Each way of saying what is to be killed means the same to the agent as to whoever says it; a dry run ends nothing.
func TestKillSelectors(t *testing.T) {
	r := newRig(t, "")
	sessions := map[string]*tls.Conn{}
	ids := map[string]string{}
	for name, groups := range map[string][]string{"alice": {"--group", "dba"}, "bob": {"--group", "ops"}, "carol": {"--group", "ops", "--group", "dba"}} {
		s, creds := r.CreateSession(t, name, time.Hour, groups...)
		sessions[name], ids[name] = mustConnect(t, r.addr, creds), s.ID.String()
	}
	r.CreateSession(t, "idle", time.Hour) // without a connection
	for _, tc := range []struct {
		args []string
		want int
	}{
		{[]string{ids["bob"][:12]}, 1},
		{[]string{"--subject", "alice"}, 1},
		{[]string{"--group", "dba"}, 2},
		{[]string{"--service", "echo"}, 3},
		{[]string{"--group", "ops", "--subject", "carol"}, 1},
		{[]string{"--where", `"ops" in identity.groups && !("dba" in identity.groups)`}, 1},
		{[]string{"--all"}, 4},
	} {
		k, res := r.KillJSON(t, append(tc.args, "--dry-run")...)
		if res.Code != 0 || len(k.Sessions) != tc.want || k.Destroyed != 0 {
			t.Errorf("kill %v: %d sessions, want %d; %+v", tc.args, len(k.Sessions), tc.want, res)
		}
	}
	for name, c := range sessions {
		if err := roundTrip(c); err != nil {
			t.Errorf("a dry run ended %s's connection: %v", name, err)
		}
	}
	if res := r.Curfew(t, "kill", "--group", "nobody"); res.Code != 1 {
		t.Errorf("a kill of nobody: %+v", res)
	}
	if k, res := r.KillJSON(t, "--where", `identity.subject in ["alice", "bob"]`); res.Code != 0 || k.Destroyed+k.Gone != 2 || !k.Verified {
		t.Errorf("%+v %+v", k, res)
	}
	mustEnd(t, sessions["alice"])
	mustEnd(t, sessions["bob"])
	if err := roundTrip(sessions["carol"]); err != nil {
		t.Errorf("who was not meant was cut: %v", err)
	}
}

// Metrics are on a loopback listener, too, where one is configured.
func TestMetricsListener(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	r := newRig(t, "metrics: "+addr)
	r.CreateSession(t, "alice", time.Hour)
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "\ncurfew_sessions 1\n") {
		t.Errorf("%s, %v\n%s", resp.Status, err, body)
	}
}
