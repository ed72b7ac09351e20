// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Files of a Store. The first three are what psql, redis-cli and others take as they are.
const (
	CertFile = "cert.pem" // the client's certificate
	KeyFile  = "key.pem"  // the client's private key (PKCS #8)
	CAFile   = "ca.pem"   // the certificates by which the agent is known

	agentFile   = "agent.json"   // address and trust
	sessionFile = "session.json" // the session as it was last seen
	currentFile = "current"      // in the home: the agent that was signed in to last
)

// Home returns the directory that holds one Store per agent: curfew, in the user's own
// configuration directory.
func Home() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration directory: %w", err)
	}
	return filepath.Join(dir, "curfew"), nil
}

// Store is the directory with what a user keeps for one agent. Only the user can read it. Every
// file is replaced as a whole, so several processes may use a store at the same time.
type Store struct {
	home string
	dir  string
}

// OpenStore returns the store for an agent in home, which need not exist yet.
func OpenStore(home string, agent Address) *Store {
	return &Store{home: home, dir: filepath.Join(home, agent.dirName())}
}

// Path returns the path of one of the store's files.
func (s *Store) Path(file string) string { return filepath.Join(s.dir, file) }

// Known reports whether the agent has been connected to before.
func (s *Store) Known() bool {
	_, err := s.loadAgent()
	return err == nil
}

// known is what is kept about an agent.
type known struct {
	Address Address `json:"address"`
	Trust   Trust   `json:"trust"`
}

func (s *Store) loadAgent() (known, error) {
	var k known
	err := s.readJSON(agentFile, &k)
	return k, err
}

// saveAgent keeps how an agent is known, and the certificates it showed.
func (s *Store) saveAgent(k known, chain []*x509.Certificate) error {
	if err := s.write(CAFile, encodeCerts(chain)); err != nil {
		return err
	}
	return s.writeJSON(agentFile, k)
}

// SaveLogin keeps a new key and session in place of the old, and makes this agent the current.
func (s *Store) SaveLogin(k *Key, sess api.Session) error {
	cert, key, err := k.encode()
	if err != nil {
		return err
	}
	defer clear(key)
	if err := errors.Join(s.write(KeyFile, key), s.write(CertFile, cert)); err != nil {
		return err
	}
	if err := s.writeJSON(sessionFile, sess); err != nil {
		return err
	}
	return writeFile(filepath.Join(s.home, currentFile), []byte(filepath.Base(s.dir)+"\n"))
}

// LoadKey returns the client's key. It returns an *api.Error with a hint if there is none.
func (s *Store) LoadKey() (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(s.Path(CertFile), s.Path(KeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return cert, s.notSignedIn()
	}
	if err != nil {
		return cert, &api.Error{Code: api.CodeNoCertificate, Cause: err,
			Message: fmt.Sprintf("the client key in %s cannot be used: %v", s.dir, err), Hint: "run `curfew login` again"}
	}
	return cert, nil
}

// notSignedIn says so, and why if the last session is known to have ended.
func (s *Store) notSignedIn() error {
	if sess, err := s.LoadSession(); err == nil && sess.Ended != nil {
		return Ended(sess)
	}
	return &api.Error{Code: api.CodeNoCertificate, Message: "you are not signed in", Hint: "run `curfew login`"}
}

// SaveSession keeps what the agent last said about the session of a key. If it has ended, the key
// is wiped. It does nothing if the store has another key by now: a tunnel of an older session may
// outlive a new sign-in, and must not take the new key along when it ends.
func (s *Store) SaveSession(of tls.Certificate, sess api.Session) error {
	if now, err := s.LoadKey(); err != nil || !bytes.Equal(now.Certificate[0], of.Certificate[0]) {
		return nil
	}
	if err := s.writeJSON(sessionFile, sess); err != nil {
		return err
	}
	if sess.Ended != nil {
		return s.WipeKey()
	}
	return nil
}

// LoadSession returns what SaveSession kept, or fs.ErrNotExist.
func (s *Store) LoadSession() (api.Session, error) {
	var sess api.Session
	err := s.readJSON(sessionFile, &sess)
	return sess, err
}

// WipeKey overwrites and removes the client's key and certificate. It is no error if they are
// gone.
func (s *Store) WipeKey() error {
	if f, err := os.OpenFile(s.Path(KeyFile), os.O_WRONLY, 0); err == nil {
		// Best effort: not every file system writes in place.
		if info, err := f.Stat(); err == nil {
			_, _ = f.Write(make([]byte, info.Size()))
			_ = f.Sync()
		}
		_ = f.Close()
	}
	for _, file := range []string{KeyFile, CertFile} {
		if err := os.Remove(s.Path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("wipe client key: %w", err)
		}
	}
	return nil
}

// CurrentAgent returns the address of the agent that was signed in to last.
func CurrentAgent(home string) (Address, error) {
	none := &api.Error{Code: api.CodeNotFound, Message: "no agent is known here yet",
		Hint: "run `curfew login HOST`, or name one with --agent"}
	name, err := os.ReadFile(filepath.Join(home, currentFile))
	if err != nil {
		return Address{}, none
	}
	s := &Store{home: home, dir: filepath.Join(home, filepath.Base(strings.TrimSpace(string(name))))}
	k, err := s.loadAgent()
	if err != nil || k.Address.IsZero() {
		return Address{}, none
	}
	return k.Address, nil
}

func (s *Store) readJSON(file string, v any) error {
	b, err := os.ReadFile(s.Path(file))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", s.Path(file), err)
	}
	return nil
}

func (s *Store) writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	return s.write(file, append(b, '\n'))
}

func (s *Store) write(file string, data []byte) error { return writeFile(s.Path(file), data) }

// writeFile replaces a file as a whole; only the user can read it (os.CreateTemp makes it 0600).
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error is the one to tell
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func encodeCerts(chain []*x509.Certificate) []byte {
	var out []byte
	for _, c := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
