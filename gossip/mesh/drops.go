// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"context"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// drops counts the datagrams that quic-go drops without a word. It hears of them as a recorder of qlog
// events and keeps nothing else of what it hears.
type drops struct{ count func(string) }

var (
	_ qlogwriter.Recorder = drops{}
	_ qlogwriter.Trace    = drops{}
)

// traceDrops has one drops serve all connections.
func traceDrops(count func(string)) func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace {
	return func(context.Context, bool, quic.ConnectionID) qlogwriter.Trace { return drops{count} }
}

func (d drops) AddProducer() qlogwriter.Recorder { return d }
func (d drops) SupportsSchemas(string) bool      { return false }
func (d drops) Close() error                     { return nil }

func (d drops) RecordEvent(event qlogwriter.Event) {
	dropped, ok := event.(qlog.PacketDropped)
	if !ok {
		return
	}
	switch dropped.Trigger {
	case qlog.PacketDropDuplicate:
		d.count(EventDatagramDuplicate)
	case qlog.PacketDropPayloadDecryptError, qlog.PacketDropProtocolViolation, qlog.PacketDropHeaderParseError:
		d.count(EventDatagramForged)
	case qlog.PacketDropKeysUnavailable:
		// The tail of a handshake, reordered: nothing to see.
	default:
		d.count(EventDatagramStray)
	}
}
