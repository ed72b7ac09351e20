// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
)

// maxToken bounds the text of a token, in bytes: the agent takes no longer ones.
const maxToken = 64 << 10

// TokenSource returns the token of the moment.
type TokenSource func() (string, error)

// TokenFile reads the token from a file, which somebody else may replace at any time. Its errors are *api.Error.
func TokenFile(path string) TokenSource {
	return func() (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", badToken(path, reasonOf(err))
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
		if err != nil {
			return "", badToken(path, reasonOf(err))
		}
		return checkToken(path, string(b))
	}
}

// TokenEnv reads the token from an environment variable. Its errors are *api.Error.
func TokenEnv(name string) TokenSource {
	return func() (string, error) {
		token, ok := os.LookupEnv(name)
		if !ok {
			return "", badToken("$"+name, errors.New("is not set"))
		}
		return checkToken("$"+name, token)
	}
}

func checkToken(from, token string) (string, error) {
	token = strings.TrimSpace(token)
	switch {
	case token == "":
		return "", badToken(from, errors.New("is empty"))
	case len(token) > maxToken || strings.Count(token, ".") != 2:
		return "", badToken(from, errors.New("does not hold a token (JWT)"))
	}
	return token, nil
}

func badToken(from string, err error) error {
	return &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("the token in %s: %v", from, err), Cause: err,
		Hint: "it must hold one token, as its issuer made it; see docs/machines.md"}
}

// reasonOf strips the operation and the name off err.
func reasonOf(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// TokenLogin signs in with a machine's token, any number of times with the same key. It is not safe for
// concurrent use.
type TokenLogin struct {
	agent   *Agent
	source  TokenSource
	machine string
	key     *Key
}

// NewTokenLogin returns a way of signing in at an agent. Machine is the name that the agent knows the token's
// issuer by; it may be empty if the agent has only one for it.
//
// The key in the agent's store is used if it is that of a machine, live or not: the agent takes a token with
// one key only. Otherwise there will be a fresh one.
func NewTokenLogin(agent *Agent, source TokenSource, machine string) (*TokenLogin, error) {
	l := &TokenLogin{agent: agent, source: source, machine: machine}
	var err error
	if last, lastErr := agent.Store.LoadSession(); lastErr == nil && last.Method == methodToken {
		if cert, loadErr := agent.Store.LoadKey(); loadErr == nil {
			l.key, err = keyOf(cert)
			return l, err
		}
	}
	l.key, err = NewKey()
	return l, err
}

// methodToken is how a session says that it was made with a token.
const methodToken = "token"

// SignIn reads the token and trades it for a session, which it keeps in the agent's store with the key. A session
// at hand is followed by the new one without a cut.
func (l *TokenLogin) SignIn(ctx context.Context) (api.Session, error) {
	token, err := l.source()
	if err != nil {
		return api.Session{}, err
	}
	return l.signIn(ctx, token)
}

func (l *TokenLogin) signIn(ctx context.Context, token string) (sess api.Session, err error) {
	agent := l.agent.withCert(l.key.Certificate())
	if err := agent.do(ctx, http.MethodPost, api.PathLoginToken, api.LoginToken{Token: token, Machine: l.machine}, &sess); err != nil {
		return api.Session{}, err
	}
	return sess, agent.Store.SaveLogin(l.key, sess)
}

// Watch signs in, and stays signed in until ctx is done: it signs in again when the token changes, and in good
// time before the session ends. Report is told of each session, and of each error, after which it goes on
// trying. It returns the error of the first sign-in, or nil.
func (l *TokenLogin) Watch(ctx context.Context, report func(api.Session, error)) error {
	token, err := l.source()
	if err != nil {
		return err
	}
	sess, err := l.signIn(ctx, token)
	if err != nil {
		return err
	}
	report(sess, nil)
	r := renewal{source: l.source, signIn: l.signIn, report: report}
	r.run(ctx, token, sess)
	return nil
}
