// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// peersFile remembers the other members, so that a node that comes back knows whom to ask, and that it has to.
const peersFile = "members.json"

// removed is gossip.Config.Removed.
func (n *clusterNode) removed(name string) bool { return slices.Contains(n.trust.Removed(), name) }

// remembered returns the members of earlier times.
func (n *clusterNode) remembered() ([]mesh.Peer, error) {
	body, err := os.ReadFile(filepath.Join(n.dir, peersFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []mesh.Peer
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("%s: %w; if the cluster's other nodes are seeds, the file may be deleted", filepath.Join(n.dir, peersFile), err)
	}
	return list, nil
}

// remember is gossip.Config.Remember.
func (n *clusterNode) remember(list []mesh.Peer) {
	body, err := json.Marshal(list)
	if err == nil {
		err = writeFileWhole(filepath.Join(n.dir, peersFile), body)
	}
	if err != nil {
		n.p.log.Error("members not remembered: a restart might not find them", "error", err)
	}
}

// writeFileWhole writes a file with tight modes, whole or not at all.
func writeFileWhole(path string, body []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if the rename worked
	_, err = f.Write(body)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
