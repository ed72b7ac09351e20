// SPDX-License-Identifier: Apache-2.0

package servercert

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSelfMadeIsKept(t *testing.T) {
	dir := t.TempDir()
	first, err := SelfMade(dir, []string{"db.example", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := SelfMade(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.PEM(), again.PEM()) {
		t.Error("a restart made a new certificate: every client's pin would break")
	}
	info, err := os.Stat(filepath.Join(dir, KeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(first.PEM()) {
		t.Fatal("PEM does not parse")
	}
	for _, host := range []string{"db.example", "127.0.0.1"} {
		if _, err := first.Leaf().Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// Who trusts one node's certificate trusts that of another that has adopted its key.
func TestAdopt(t *testing.T) {
	first, err := SelfMade(t.TempDir(), []string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	second, err := SelfMade(dir, []string{"b.example"})
	if err != nil {
		t.Fatal(err)
	}
	key, err := first.Key()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Adopt(dir, key, []string{"b.example"}); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(first.PEM())
	if _, err := second.Leaf().Verify(x509.VerifyOptions{Roots: roots, DNSName: "b.example"}); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(first.Leaf().RawSubjectPublicKeyInfo, second.Leaf().RawSubjectPublicKeyInfo) {
		t.Error("the fingerprints differ")
	}
	again, err := SelfMade(dir, nil)
	if err != nil || !bytes.Equal(again.PEM(), second.PEM()) {
		t.Errorf("not kept over a restart: %v", err)
	}
	for _, bad := range []string{"", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if err := second.Adopt(dir, []byte(bad), nil); err == nil {
			t.Errorf("adopted %q", bad)
		}
	}
}

func TestSetKeepsWhatWorks(t *testing.T) {
	s, err := SelfMade(t.TempDir(), []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	before := s.Leaf()
	if err := s.Set([]byte("broken"), []byte("broken")); err == nil {
		t.Error("a broken certificate was taken")
	}
	if s.Leaf() != before {
		t.Error("the certificate in use was lost")
	}
}

func TestBrokenFileNamesWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if _, err := SelfMade(dir, []string{"a"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, CertFile), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := SelfMade(dir, nil); err == nil || !strings.Contains(err.Error(), "move it and") {
		t.Errorf("a broken certificate file: %v", err)
	}
}
