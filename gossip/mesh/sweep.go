// SPDX-License-Identifier: Apache-2.0

package mesh

import "math/big"

// sweep ends every link whose peer is not trusted any more, and has links replaced that show an older
// certificate of this node than it has now.
func (m *Mesh) sweep() {
	for _, l := range m.allLinks() {
		if _, err := m.verify(l.chain); err != nil {
			m.count(EventLinkSwept)
			l.close(codeRefused, "refused")
			m.log.Warn("link ended: peer is not trusted", "addr", l.conn.RemoteAddr().String(), "err", err)
		}
	}
	own, err := m.trust.Certificate()
	if err != nil {
		m.log.Error("own certificate", "err", err)
		return
	}
	for _, l := range m.liveLinks() {
		if own.Leaf.SerialNumber.Cmp(l.own.SerialNumber) > 0 {
			l.peer.refresh()
		}
	}
}

// age orders links of two nodes by the certificates that they were made with: the sum of the serial
// numbers, which both ends see alike.
func (l *link) age() *big.Int {
	return new(big.Int).Add(l.own.SerialNumber, l.chain[0].SerialNumber)
}
