// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// MaxPacket is the most data of a packet, in bytes.
	MaxPacket = 64 << 10

	maxLarge     = 16 // large packets on their way out at a time, of one link
	largeTimeout = 5 * time.Second
)

// Send has a packet sent, without a promise: what is dropped is counted. It copies data and never blocks. An
// error says that the packet will surely not go. Without a name, a link to Addr must be up.
func (m *Mesh) Send(to Peer, kind byte, data []byte) error {
	if len(data) == 0 || len(data) > MaxPacket {
		m.count(EventPacketRefused)
		return ErrSize
	}
	if to.Name == "" {
		to.Name = m.nameAt(to.Addr)
	}
	p, err := m.peer(to.Name)
	if err != nil {
		return err
	}
	frame := make([]byte, 0, 1+len(data))
	return p.push(to.Addr, append(append(frame, kind), data...))
}

// nameAt returns the name of a peer with a link to addr, or nothing.
func (m *Mesh) nameAt(addr string) string {
	for _, l := range m.liveLinks() {
		if l.conn.RemoteAddr().String() == addr {
			return l.name
		}
	}
	return ""
}

// send passes a frame to the network: as a datagram if it fits one now, else by a stream of its own, so that
// the loss of one packet holds up no other. It blocks while the link is full.
func (l *link) send(frame []byte) error {
	err := l.conn.SendDatagram(frame)
	if tooLarge := (*quic.DatagramTooLargeError)(nil); errors.As(err, &tooLarge) {
		return l.sendLarge(frame)
	}
	if err != nil {
		return fmt.Errorf("send datagram: %w", err)
	}
	l.sent.Add(1)
	return nil
}

// sendLarge waits for a slot and for a stream, and writes in the background.
func (l *link) sendLarge(frame []byte) error {
	ctx, cancel := context.WithTimeout(l.conn.Context(), largeTimeout)
	defer cancel()
	select {
	case l.large <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("send packet: %w", context.Cause(ctx))
	}
	stream, err := l.conn.OpenUniStreamSync(ctx)
	if err != nil {
		<-l.large
		return fmt.Errorf("send packet: %w", err)
	}
	l.open.Add(1)
	write := func() {
		defer func() { <-l.large; l.open.Add(-1) }()
		_ = stream.SetWriteDeadline(time.Now().Add(largeTimeout)) // the write says if the stream is closed
		if _, err := stream.Write(frame); err != nil {
			stream.CancelWrite(0)
			l.mesh.count(EventPacketUnsent)
			return
		}
		_ = stream.Close() // fails only after CancelWrite
		l.sent.Add(1)
	}
	if !l.mesh.spawn(write) {
		stream.CancelWrite(0)
		<-l.large
		l.open.Add(-1)
		return ErrClosed
	}
	return nil
}

// receive starts the receivers of a link; false if the mesh is closed.
func (m *Mesh) receive(l *link) bool {
	return m.spawn(l.receiveDatagrams) && m.spawn(l.receivePackets) && m.spawn(l.receiveStreams)
}

func (l *link) receiveDatagrams() {
	for {
		frame, err := l.conn.ReceiveDatagram(l.conn.Context())
		if err != nil {
			return // the link is over
		}
		l.deliver(frame)
	}
}

// receivePackets reads each large packet in a goroutine of its own; quic-go bounds how many there are.
func (l *link) receivePackets() {
	for {
		stream, err := l.conn.AcceptUniStream(l.conn.Context())
		if err != nil {
			return // the link is over
		}
		if !l.mesh.spawn(func() { l.receiveLarge(stream) }) {
			return
		}
	}
}

func (l *link) receiveLarge(stream *quic.ReceiveStream) {
	l.open.Add(1)
	defer l.open.Add(-1)
	_ = stream.SetReadDeadline(time.Now().Add(largeTimeout)) // the read says if the stream is closed
	frame, err := io.ReadAll(io.LimitReader(stream, 1+MaxPacket+1))
	if err != nil || len(frame) > 1+MaxPacket {
		stream.CancelRead(0)
		l.mesh.count(EventPacketRefused)
		return
	}
	l.deliver(frame)
}

// deliver hands a frame on, or drops it if nobody keeps up.
func (l *link) deliver(frame []byte) {
	if len(frame) < 2 {
		l.mesh.count(EventPacketRefused)
		return
	}
	l.received.Add(1)
	packet := Packet{
		From: Peer{Name: l.name, Addr: l.conn.RemoteAddr().String()},
		Kind: frame[0], Data: frame[1:], At: time.Now(),
	}
	select {
	case l.mesh.packets <- packet:
	default:
		l.mesh.count(EventPacketUnread)
	}
}
