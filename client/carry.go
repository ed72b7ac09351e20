// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// explainTime is for asking the agent why a connection broke, also by who has stopped meanwhile.
const explainTime = 5 * time.Second

// closeWriter is a stream that can be closed in one direction. *net.TCPConn, *net.UnixConn and
// *tls.Conn are.
type closeWriter interface {
	io.ReadWriter
	CloseWrite() error
}

// errCut is read where the TCP stream ends, but TLS had more to say.
var errCut = errors.New("the other side closed it without a goodbye")

// saysGoodbye makes an end of the TCP stream an error, so that only TLS's own close_notify ends
// a tunnel well. crypto/tls takes a bare FIN for a good end, though anyone on the way can send
// one; and a reset that a write has run into is read as a bare FIN, too.
type saysGoodbye struct{ net.Conn }

func (c saysGoodbye) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errCut
	}
	return n, err
}

// copied is how one direction ended; both errors are nil if it ended with the sender's end.
type copied struct{ local, remote error }

// carry copies both ways until both sides have closed, or either breaks. It closes conn; to
// close local is the caller's business, and ends what may still be reading from it. A break on
// the agent's side is returned, with its reason if the session is over; one on the local side is
// the user's own doing and is not.
func (t *Tunnel) carry(ctx context.Context, conn *tls.Conn, local closeWriter) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // cannot fail on an open one
	defer stop()
	results := make(chan copied, 2)
	go func() {
		read, write := pump(conn, local)
		results <- copied{local: read, remote: write}
	}()
	go func() {
		read, write := pump(local, conn)
		results <- copied{local: write, remote: read}
	}()
	for range 2 {
		switch r := <-results; {
		case r.remote != nil && !errors.Is(r.remote, os.ErrDeadlineExceeded): // it was not us, though we may stop now
			why, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTime)
			defer cancel()
			return t.explain(why, fmt.Errorf("the connection broke: %w", r.remote))
		case ctx.Err() != nil:
			return ctx.Err()
		case r.local != nil:
			return nil
		}
	}
	return nil
}

// pump copies from src to dst until src ends, and passes the end on.
func pump(dst, src closeWriter) (readErr, writeErr error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil, dst.CloseWrite()
		}
		if err != nil {
			return err, nil
		}
	}
}
