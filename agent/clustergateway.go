// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/curfew-proxy/curfew/agent/cluster"
)

// kindGatewayKey is what the key of self-made gateway certificates travels as.
const kindGatewayKey = 2

// sharedKeyFile says that the gateway's self-made key is the cluster's.
const sharedKeyFile = "gateway-key-shared"

// gatewayKey is the self-made key of the gateway, which all nodes of a cluster share: a client that has pinned
// one knows all. The first node's goes round; a node that joins shows its own until it has got it.
func (n *clusterNode) gatewayKey() ([]cluster.Document, error) {
	if n.p.bundle.Load().Config.TLS.Certificate != "" || !n.sharesKey() {
		return nil, nil
	}
	key, err := n.p.cert.Key()
	if err != nil {
		return nil, err
	}
	return []cluster.Document{{Kind: kindGatewayKey, Data: key}}, nil
}

func (n *clusterNode) sharesKey() bool {
	_, err := os.Stat(filepath.Join(n.dir, sharedKeyFile))
	return err == nil
}

func (n *clusterNode) shareKey() error {
	return writeFileWhole(filepath.Join(n.dir, sharedKeyFile), []byte("the key of the gateway's certificate is that of all nodes\n"))
}

// takeGatewayKey adopts the cluster's key. A node that has one keeps it.
func (n *clusterNode) takeGatewayKey(from string, key []byte) error {
	b := n.p.bundle.Load()
	if b.Config.TLS.Certificate != "" {
		return nil
	}
	have, err := n.p.cert.Key()
	if err != nil {
		return err
	}
	if n.sharesKey() {
		if !bytes.Equal(have, key) {
			return errors.New("two gateway keys in one cluster: clients know one of them only")
		}
		return nil
	}
	if err := n.p.cert.Adopt(b.Config.State, key, b.certificateHosts()); err != nil {
		return fmt.Errorf("gateway key of %s: %w", from, err)
	}
	n.p.log.Info("gateway key taken over from the cluster: clients that have pinned another node know this one", "from", from)
	return n.shareKey()
}
