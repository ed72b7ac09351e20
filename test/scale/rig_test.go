// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/lab"
	"github.com/curfew-proxy/curfew/test/harness"
)

// rig is the cluster under measurement.
type rig struct {
	*harness.Cluster
	b    *testing.B
	ctx  context.Context // ends when all must be over
	live int             // sessions that every node should know
	out  *table
}

// echo sends back what reaches a host's upstream until the benchmark ends.
func echo(b *testing.B) func(*lab.Host, string) {
	return func(h *lab.Host, addr string) {
		l, err := h.Listen(fmt.Sprintf("%s:%d", addr, harness.UpstreamPort))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c) // ends with the connection
				}()
			}
		}()
	}
}

// creators is how many clients create sessions at each node at once.
const creators = 64

// create makes n sessions at each node, for random keys; half of them have an idle timeout, edit may change more.
func (r *rig) create(n int, edit func(i int, req *api.CreateSessionRequest)) {
	r.b.Helper()
	group, ctx := errgroup.WithContext(r.ctx)
	for at, node := range r.Nodes {
		for worker := range creators {
			group.Go(func() error {
				c := control.NewClient(node.Socket) // of its own: a client keeps two connections open
				for i := worker; i < n; i += creators {
					req := request(fmt.Sprintf("user-%d-%d", at, i))
					if i%2 == 0 {
						req.Idle = api.Seconds(idleTimeout)
					}
					if edit != nil {
						edit(i, &req)
					}
					if _, err := c.CreateSession(ctx, req); err != nil {
						return fmt.Errorf("%s: create session %d: %w", node.Name, i, err)
					}
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		r.b.Fatal(err)
	}
	r.live += n * len(r.Nodes)
}

func request(subject string) api.CreateSessionRequest {
	req := api.CreateSessionRequest{Subject: subject, TTL: api.Seconds(lifetime)}
	_, _ = rand.Read(req.Key[:]) // never fails
	return req
}

// known is how many live sessions a node knows.
func known(ctx context.Context, n *harness.Node) (int, error) {
	info, err := n.Control.Nodes(ctx)
	if err != nil {
		return 0, err
	}
	for _, x := range info.Nodes {
		if x.Self {
			return x.Sessions, nil
		}
	}
	return 0, errors.New("the node does not see itself")
}

// waitKnown waits until nodes know all sessions.
func (r *rig) waitKnown(nodes ...*harness.Node) {
	r.b.Helper()
	for _, n := range nodes {
		r.wait(n.Name+" to know all sessions", func() error {
			have, err := known(r.ctx, n)
			if err == nil && have != r.live {
				err = fmt.Errorf("%d of %d", have, r.live)
			}
			return err
		})
	}
}

// wait waits until f returns nil, at most as long as there is time at all.
func (r *rig) wait(what string, f func() error) {
	r.b.Helper()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-r.ctx.Done():
			r.b.Fatalf("out of time waiting for %s: %v", what, err)
		}
	}
}

// client is a client's key, with its certificate.
func client() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "scale"}, NotAfter: time.Now().Add(lifetime)}
	der, err := x509.CreateCertificate(rand.Reader, &cert, &cert, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// admit makes a session for a new client, at a node. edit, or nil, may change what it is.
func admit(ctx context.Context, at *harness.Node, subject string, edit func(*api.CreateSessionRequest)) (session.ID, tls.Certificate, error) {
	cert, err := client()
	if err != nil {
		return session.ID{}, tls.Certificate{}, err
	}
	req := request(subject)
	req.Key = session.KeyOf(cert.Leaf)
	if edit != nil {
		edit(&req)
	}
	made, err := at.Control.CreateSession(ctx, req)
	return made.Session.ID, cert, err
}

// dial opens a connection of a client through a node, and has it answered once.
func dial(n *harness.Node, cert tls.Certificate) (net.Conn, error) {
	tcp, err := n.Host.Dial("", fmt.Sprintf("%s:%d", n.Addr, harness.ServicePort), harness.Patience)
	if err != nil {
		return nil, err
	}
	c := tls.Client(tcp, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true}) // the agent is ours, and its name that of no service
	if err := ask(c); err != nil {
		_ = tcp.Close() // the error at hand says more
		return nil, fmt.Errorf("through %s: %w", n.Name, err)
	}
	return c, nil
}

// ask sends a little and reads the answer.
func ask(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}
