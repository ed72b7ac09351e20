// SPDX-License-Identifier: Apache-2.0

//go:build linux

package harness

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/lab"
)

// Ports of every node of a cluster.
const (
	gossipPort   = 7946
	gatewayPort  = 8443
	ServicePort  = 9000
	UpstreamPort = 9001 // on the node's own host: it is there in every partition
)

// Cluster is agents in a network namespace each, on one switch. Each has a service, echo, on ServicePort, and
// expects its upstream on UpstreamPort of its own host.
type Cluster struct {
	Net   *lab.Network
	Nodes []*Node
}

// Node is an agent on a host.
type Node struct {
	*Agent
	Host *lab.Host
	Addr string // of the host
}

// ClusterConfig says what is special about a cluster. All may be left out but Nodes.
type ClusterConfig struct {
	Nodes   int
	Extra   string                               // YAML of every agent, at the top level
	Cluster string                               // more YAML of the section cluster, in braces: begins with a comma
	Service string                               // the same of the service
	Allow   string                               // the service's policy; empty: everybody
	Args    []string                             // more arguments of every agent
	Under   func(node int) (under []string)      // how to start an agent; nil: plainly
	Before  func(host *lab.Host, address string) // called before the agent of a host starts; nil: nothing to do
}

// StartCluster starts a cluster, and waits until every node sees all others. It is stopped when the test ends.
func StartCluster(t testing.TB, c ClusterConfig) *Cluster {
	t.Helper()
	network, err := lab.NewNetwork(c.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Close)
	r := &Cluster{Net: network}
	for i := range c.Nodes {
		args := c.Args
		if i > 0 {
			args = append([]string{"--join", r.Token(t)}, args...)
		}
		r.Nodes = append(r.Nodes, r.start(t, i, c, args))
	}
	r.WaitWhole(t, r.Nodes...)
	return r
}

func (r *Cluster) start(t testing.TB, i int, c ClusterConfig, args []string) *Node {
	t.Helper()
	host, addr := r.Net.Hosts[i], r.Net.Addr(i)
	if c.Before != nil {
		c.Before(host, addr)
	}
	agent := Config{
		Gateway: fmt.Sprintf("%s:%d", addr, gatewayPort), Netns: host.File, Args: args,
		Extra: fmt.Sprintf("cluster: {listen: \"%s:%d\"%s}\n%s", addr, gossipPort, c.Cluster, c.Extra),
		Services: fmt.Sprintf("  - {name: echo, listen: [\"%s:%d\"], upstream: \"%s:%d\", allow: '%s'%s}\n",
			addr, ServicePort, addr, UpstreamPort, cmp.Or(c.Allow, "true"), c.Service),
	}
	if c.Under != nil {
		agent.Under = c.Under(i)
	}
	return &Node{Agent: Start(t, agent), Host: host, Addr: addr}
}

// Token makes a token at the first node; args are more of "cluster token".
func (r *Cluster) Token(t testing.TB, args ...string) string {
	t.Helper()
	return strings.TrimSpace(r.Nodes[0].MustCurfew(t, append([]string{"cluster", "token"}, args...)...).Stdout)
}

// WaitWhole waits until each of the nodes sees all of them alive, no others, and has compared sessions with one.
func (r *Cluster) WaitWhole(t testing.TB, nodes ...*Node) {
	t.Helper()
	for _, n := range nodes {
		Eventually(t, n.Name+" to see all others", func() error {
			info, err := n.Control.Nodes(t.Context())
			if err != nil {
				return err
			}
			alive := 0
			for _, other := range info.Nodes {
				if other.State == api.NodeAlive {
					alive++
				}
			}
			if alive != len(nodes) || !info.Ready {
				return fmt.Errorf("%d of %d alive, ready %v", alive, len(nodes), info.Ready)
			}
			return nil
		})
	}
}
