// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

func wantForbidden(t *testing.T, what string, err error, in string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeForbidden || e.Hint == "" || !strings.Contains(e.Message, in) {
		t.Errorf("%s: %v; want it refused with a hint, and %q", what, err, in)
	}
}

func TestFirstContact(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	right := FingerprintOf(a.cert.Leaf)
	wrong := right
	wrong[0]++
	base := func() Config { return Config{Home: t.TempDir(), Agent: a.addr} }

	cfg := base()
	_, err := Connect(t.Context(), cfg)
	wantForbidden(t, "nobody to ask", err, right.String())
	cfg.Fingerprint = &wrong
	_, err = Connect(t.Context(), cfg)
	wantForbidden(t, "the wrong fingerprint", err, right.String())

	cfg = base()
	cfg.Confirm = func(f Fingerprint) (bool, error) { return false, nil }
	_, err = Connect(t.Context(), cfg)
	wantForbidden(t, "the user says no", err, "not known")

	var asked Fingerprint
	cfg.Confirm = func(f Fingerprint) (bool, error) { asked = f; return true, nil }
	agent, err := Connect(t.Context(), cfg)
	if err != nil || agent.Trust.Pin == nil || *agent.Trust.Pin != right || asked != right {
		t.Fatalf("the user says yes: %+v, %v", agent, err)
	}
	cfg.Confirm = func(Fingerprint) (bool, error) { t.Error("asked again"); return false, nil }
	if _, err := Connect(t.Context(), cfg); err != nil {
		t.Errorf("the second time: %v", err)
	}

	cfg = base()
	cfg.Roots = a.roots
	if agent, err = Connect(t.Context(), cfg); err != nil || agent.Trust.Pin != nil {
		t.Errorf("a certificate that the roots vouch for: %+v, %v", agent, err)
	}
}

func TestChangedKeyIsRefused(t *testing.T) {
	for _, byName := range []bool{false, true} {
		a, stop := newFakeAgent(t, "127.0.0.1:0")
		fp := FingerprintOf(a.cert.Leaf)
		cfg := Config{Home: t.TempDir(), Agent: a.addr, Fingerprint: &fp}
		if byName {
			cfg.Fingerprint, cfg.Roots = nil, a.roots
		}
		if _, err := Connect(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		stop()
		b, _ := newFakeAgent(t, a.addr.String()) // another key at the same address
		agent, err := Connect(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		want := "HAS CHANGED"
		if byName {
			want = "not good"
		}
		_, err = agent.Info(t.Context())
		wantForbidden(t, "a request", err, want)

		other := FingerprintOf(b.cert.Leaf)
		cfg.Fingerprint = &other
		_, err = Connect(t.Context(), cfg)
		wantForbidden(t, "another fingerprint", err, "is known by")
		cfg.Forget = true
		if agent, err = Connect(t.Context(), cfg); err != nil || *agent.Trust.Pin != other {
			t.Errorf("with --forget: %v", err)
		}
	}
}

func TestParseFingerprint(t *testing.T) {
	hex := strings.Repeat("ab", 32)
	for in, ok := range map[string]bool{
		hex: true, "sha256:" + hex: true, "SHA256:" + strings.ToUpper(hex): true, strings.Repeat("ab:", 31) + "ab": true,
		"": false, "sha256:": false, hex[1:]: false, hex + "00": false, "sha1:" + hex: false,
	} {
		f, err := ParseFingerprint(in)
		if (err == nil) != ok || ok && f.String() != "sha256:"+hex {
			t.Errorf("ParseFingerprint(%q) = %v, %v", in, f, err)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"host": "host:8443", "Host:1": "host:1", "https://host": "host:8443", "https://host:9/": "host:9", "[::1]:9": "[::1]:9", "::1": "[::1]:8443",
		"": "", "http://host": "", "https://a@host": "", "host/path": "", "host:0": "", "host:99999": "", "host?x": "", "https://": "",
	} {
		a, err := ParseAddress(in)
		if (err == nil) != (want != "") || err == nil && a.String() != want {
			t.Errorf("ParseAddress(%q) = %v, %v; want %q", in, a, err, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"host", "[::1]:9", "https://a:1/", "..:1", "a/../../b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if back, err := ParseAddress(a.String()); err != nil || back != a {
			t.Fatalf("%q became %q, then %q (%v)", s, a, back, err)
		}
		if d := a.dirName(); strings.ContainsAny(d, "/\\:") || d == "." || d == ".." {
			t.Fatalf("%q has the directory %q", s, d)
		}
	})
}
