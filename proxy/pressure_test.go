// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// TestBackpressure: a reader that stalls stops the sender, with bounded memory; then all arrives.
func TestBackpressure(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		const size = 64 << 20
		type result struct {
			hash []byte
			err  error
		}
		sent := make(chan result, 1)
		r := w.rig(t, func(c halfCloser) {
			h, err := sendRandom(c, size, 3)
			_ = c.CloseWrite()
			sent <- result{h, err}
			_, _ = io.Copy(io.Discard, c)
		})
		c := w.open(r)
		var before, stalled runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		last := uint64(0)
		eventually(t, "the sender stops", func() bool {
			time.Sleep(50 * time.Millisecond)
			_, relayed, _ := r.events()
			if len(relayed) == 0 {
				return false
			}
			n := relayed[0].Connection.Activity.BytesFromUpstream.Load()
			stopped := n > 0 && n == last
			last = n
			return stopped
		})
		if last > size/2 {
			t.Errorf("%d MiB were taken from the sender", last>>20)
		}
		runtime.GC()
		runtime.ReadMemStats(&stalled)
		if grown := int64(stalled.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
			t.Errorf("a stalled connection takes %d KiB", grown>>10)
		}
		got, n, err := receiveAll(c)
		from := <-sent
		if n != size || err != nil || from.err != nil || !bytes.Equal(got, from.hash) {
			t.Fatalf("%d of %d bytes, %v, sender %v", n, size, err, from.err)
		}
	})
}

// TestMain runs the proxy of TestIdleMemory where the environment asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("CURFEW_TEST_IDLE") != "" {
		idleChild()
		return
	}
	os.Exit(m.Run())
}

// idleChild is a proxy on the inherited listener 3, in front of the upstream in its environment.
// It admits anybody, and ends with its parent.
func idleChild() {
	debug.SetGCPercent(50)
	f := newFakes()
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	cert, err := tls.X509KeyPair(unbase64("CURFEW_TEST_CERT"), unbase64("CURFEW_TEST_KEY"))
	if err != nil {
		panic(err)
	}
	p, err := New(Config{
		Sessions: anybody{f}, Policy: f, Gate: f, Observer: f, Clock: f,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		Inherited:   []*net.TCPListener{l.(*net.TCPListener)},
		Limits:      Limits{UnauthenticatedPerSource: 1024},
		Services: []Service{{
			Name: "db", Listen: []string{l.Addr().String()},
			Upstream: Upstream{Address: os.Getenv("CURFEW_TEST_IDLE")},
		}},
	})
	if err != nil {
		panic(err)
	}
	if err := p.Run(context.Background()); err != nil {
		panic(err)
	}
}

type anybody struct{ *fakes }

func (anybody) ByKey(k session.Key) (session.Session, error) { return session.Session{Key: k}, nil }

func unbase64(env string) []byte {
	b, err := base64.StdEncoding.DecodeString(os.Getenv(env))
	if err != nil {
		panic(err)
	}
	return b
}

// TestIdleMemory keeps buffers out of idle connections: the resident memory of a proxy process
// for each of them, right after it moved much data, stays far below one buffer.
func TestIdleMemory(t *testing.T) {
	const conns, most = 400, 32 << 10
	hold := upstream(t, echo)
	l := listenTCP(t, "127.0.0.1:0")
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	dir := t.TempDir()
	crt, key := writeCert(t, dir, "server", newCert(t, "server"))
	child := exec.Command("/proc/self/exe")
	child.ExtraFiles, child.Stderr = []*os.File{file}, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	child.Env = append(os.Environ(), "CURFEW_TEST_IDLE="+hold)
	for name, file := range map[string]string{"CURFEW_TEST_CERT": crt, "CURFEW_TEST_KEY": key} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		child.Env = append(child.Env, name+"="+base64.StdEncoding.EncodeToString(b))
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()

	config := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{newCert(t, "client")}}
	var base int
	for i := range conns + 20 {
		c, err := tls.Dial("tcp", l.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		go func() { _, _ = c.Write(make([]byte, 1<<18)) }()
		if _, err := io.ReadFull(c, make([]byte, 1<<18)); err != nil {
			t.Fatal(err)
		}
		if i == 19 { // the process is warm
			base = residentKiB(t, child.Process.Pid)
		}
	}
	perConn := (residentKiB(t, child.Process.Pid) - base) << 10 / conns
	t.Logf("%.1f KiB a connection", float64(perConn)/1024)
	if perConn > most && !raceDetector { // which has memory of its own for every byte
		t.Errorf("an idle connection takes %d bytes, want at most %d", perConn, most)
	}
}

func residentKiB(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
