// SPDX-License-Identifier: Apache-2.0

package mesh

// What Config.Count is told of. The list is closed: Events returns it.
const (
	EventLinkUp       = "link_up"
	EventLinkDown     = "link_down"     // a link that carried packets is gone, for whatever reason
	EventLinkReplaced = "link_replaced" // by one of a newer boot, of newer certificates, or of the smaller name
	EventLinkSwept    = "link_swept"    // ended because its peer is not trusted any more, or its certificate expired

	EventDialFailed      = "dial_failed"
	EventHandshakeFailed = "handshake_failed"   // an attempt from outside that did not become a link
	EventPeerRefused     = "peer_refused"       // a certificate that Trust refuses
	EventNameRefused     = "name_refused"       // a trusted certificate, of another name than was asked for
	EventHelloRefused    = "hello_refused"      // not a hello, or one that its certificate contradicts
	EventConnRefused     = "connection_refused" // too many that have not said who they are

	EventPacketQueueFull = "packet_queue_full" // the oldest was dropped for a newer
	EventPacketStale     = "packet_stale"      // waited too long for a link
	EventPacketUnsent    = "packet_unsent"     // the link ended under it, twice
	EventPacketUnread    = "packet_unread"     // nobody took it from Packets in time
	EventPacketRefused   = "packet_refused"    // larger than MaxPacket, empty, or broken off
	EventStreamRefused   = "stream_refused"    // without a kind, or nobody took it from Streams in time

	EventJoinAccepted = "join_accepted"
	EventJoinRefused  = "join_refused" // too many, too often, or nobody joins here

	EventDatagramDuplicate = "datagram_duplicate" // a copy of one that came before, on a live link
	EventDatagramForged    = "datagram_forged"    // what does not decrypt: altered, cut, or of another link
	EventDatagramStray     = "datagram_stray"     // what belongs to no link and cannot begin one
)

// Events returns everything that Config.Count can be told of.
func Events() []string {
	return []string{
		EventLinkUp, EventLinkDown, EventLinkReplaced, EventLinkSwept,
		EventDialFailed, EventHandshakeFailed, EventPeerRefused, EventNameRefused, EventHelloRefused, EventConnRefused,
		EventPacketQueueFull, EventPacketStale, EventPacketUnsent, EventPacketUnread, EventPacketRefused, EventStreamRefused,
		EventJoinAccepted, EventJoinRefused,
		EventDatagramDuplicate, EventDatagramForged, EventDatagramStray,
	}
}
