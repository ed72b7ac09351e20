// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair makes a certificate and its key, in PEM.
func pair(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

const withFiles = minimal + `
tls: {certificate: cert.pem, key: key.pem}
providers: [{name: a, issuer: 'https://idp', client_id: x, client_secret_file: secret, ca_file: ca.pem}]
`

// Each case breaks one of the files; want is in the message, "" for no problem.
var brokenFiles = map[string]struct {
	damage func(t *testing.T, dir string)
	want   string
}{
	"all is well":     {func(*testing.T, string) {}, ""},
	"group may read":  {func(t *testing.T, dir string) { chmod(t, dir, "key.pem", 0o640) }, ""},
	"open key":        {func(t *testing.T, dir string) { chmod(t, dir, "key.pem", 0o644) }, "tls.key: D/key.pem is a secret, but its mode is 0644; run chmod 0600 D/key.pem"},
	"open secret":     {func(t *testing.T, dir string) { chmod(t, dir, "secret", 0o604) }, "providers[0].client_secret_file: D/secret is a secret, but its mode is 0604"},
	"writable secret": {func(t *testing.T, dir string) { chmod(t, dir, "secret", 0o620) }, "mode is 0620"},
	"empty secret":    {func(t *testing.T, dir string) { put(t, dir, "secret", []byte(" \n")) }, "D/secret is empty"},
	"missing secret":  {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "secret")) }, "D/secret: no such file"},
	"secret is a directory": {func(t *testing.T, dir string) {
		_ = os.Remove(filepath.Join(dir, "secret"))
		_ = os.Mkdir(filepath.Join(dir, "secret"), 0o700)
	}, "not a regular file"},
	"key of another":     {func(t *testing.T, dir string) { other, _ := pair(t); put(t, dir, "cert.pem", other) }, "tls.certificate: D/cert.pem and D/key.pem do not work together"},
	"ca without any":     {func(t *testing.T, dir string) { _, key := pair(t); put(t, dir, "ca.pem", key) }, "providers[0].ca_file: D/ca.pem has no certificate"},
	"open configuration": {func(t *testing.T, dir string) { chmod(t, dir, "curfew.yaml", 0o666) }, "everybody may write to it"},
}

func TestFiles(t *testing.T) {
	cert, key := pair(t)
	for name, tc := range brokenFiles {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, b := range map[string][]byte{"cert.pem": cert, "key.pem": key, "ca.pem": cert, "secret": []byte("s3cret"), "curfew.yaml": []byte(withFiles)} {
				put(t, dir, file, b)
			}
			tc.damage(t, dir)
			c, err := Load(filepath.Join(dir, "curfew.yaml"), hooks)
			if tc.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if c.TLS.Key != filepath.Join(dir, "key.pem") {
					t.Errorf("key is %q, want an absolute name", c.TLS.Key)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(tc.want, "D/", dir+"/")) {
				t.Errorf("have %v\nwant %s", err, tc.want)
			}
			if strings.Contains(name, "open configuration") {
				return
			}
			if _, err := Load(filepath.Join(dir, "curfew.yaml"), Hooks{Compile: compile, CompileClaims: compile, SkipFiles: true}); err != nil {
				t.Errorf("with SkipFiles: %v", err)
			}
		})
	}
}

func TestUnreadableConfiguration(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "huge.yaml", make([]byte, maxFile+1))
	for name, want := range map[string]string{"missing.yaml": "no such file", ".": "not a regular file", "huge.yaml": "larger than"} {
		if _, err := Load(filepath.Join(dir, name), hooks); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func chmod(t *testing.T, dir, file string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, file), mode); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, dir, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
		t.Fatal(err)
	}
}
