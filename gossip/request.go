// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// Bounds of requests.
const (
	maxServed    = 64 // at a time
	serveTimeout = 30 * time.Second
)

// A request is its length in 4 bytes and itself; a reply is a status, its length in 4 bytes and itself.
const (
	statusOK    = 0
	statusError = 1 // the reply is the text of an error
)

// RefusedError is the answer of a member that could not serve a request.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// Request asks a member and waits for its reply. Returns ErrNoMember, a *RefusedError, or what went wrong on
// the way.
func (c *Cluster) Request(ctx context.Context, to string, data []byte) ([]byte, error) {
	peer, err := c.peer(to)
	if err != nil {
		return nil, err
	}
	if len(data) > c.cfg.MaxRequest {
		return nil, fmt.Errorf("request to %s: %d bytes are too many", to, len(data))
	}
	conn, err := c.cfg.Carrier.Dial(ctx, peer, mesh.KindApplication)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", to, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // wakes what is below
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // where it cannot be set, ctx ends it
	}
	reply, err := exchange(conn, data, c.cfg.MaxRequest)
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) {
		return reply, err
	}
	if cause := ctx.Err(); cause != nil {
		err = cause
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.DeadlineExceeded // of the same instant
	}
	return nil, fmt.Errorf("request to %s: %w", to, err)
}

func exchange(conn net.Conn, data []byte, limit int) ([]byte, error) {
	if err := writeFrame(conn, nil, data); err != nil {
		return nil, err
	}
	var status [1]byte
	if _, err := io.ReadFull(conn, status[:]); err != nil {
		return nil, err
	}
	reply, err := readFrame(conn, limit)
	switch {
	case err != nil:
		return nil, err
	case status[0] == statusOK:
		return reply, nil
	}
	return nil, &RefusedError{string(reply)}
}

func writeFrame(w io.Writer, head, data []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(head, uint32(len(data))), data...))
	return err
}

// readFrame reads what writeFrame wrote, up to limit bytes.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return nil, fmt.Errorf("a frame of %d bytes: at most %d are taken", n, limit)
	}
	// What was announced is believed only as far as it comes.
	data, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(data) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	return data, err
}

// accept hands out streams, and serves requests, a bounded number at a time.
func (c *Cluster) accept(ctx context.Context) {
	slots := make(chan struct{}, maxServed)
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-c.cfg.Carrier.Streams():
			switch {
			case !ok:
				return
			case s.Kind == mesh.KindMembership:
				select {
				case c.wire.streams <- s.Conn:
				case <-ctx.Done():
					_ = s.Conn.Close() // nobody wants it any more
				}
			case s.Kind != mesh.KindApplication:
				_ = s.Conn.Close() // a newer version's
			default:
				select {
				case slots <- struct{}{}:
					serving.Go(func() { defer func() { <-slots }(); c.serve(ctx, s) })
				default:
					c.cfg.Count(EventRequestFull)
					_ = s.Conn.Close() // the asker sees it
				}
			}
		}
	}
}

func (c *Cluster) serve(ctx context.Context, s mesh.Stream) {
	defer s.Conn.Close()
	defer context.AfterFunc(ctx, func() { _ = s.Conn.SetDeadline(time.Unix(1, 0)) })()
	_ = s.Conn.SetDeadline(time.Now().Add(serveTimeout)) // a carrier that cannot ends it by itself
	request, err := readFrame(s.Conn, c.cfg.MaxRequest)
	if err != nil {
		return // it has gone, or speaks nonsense
	}
	status := byte(statusOK)
	reply, err := c.cfg.Handler.Serve(s.From, request)
	if len(reply) > c.cfg.MaxRequest {
		err = fmt.Errorf("a reply of %d bytes: at most %d are sent", len(reply), c.cfg.MaxRequest)
	}
	if err != nil {
		status, reply = statusError, []byte(err.Error())
	}
	_ = writeFrame(s.Conn, []byte{status}, reply) // the asker sees that it is cut off
}
