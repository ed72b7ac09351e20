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
