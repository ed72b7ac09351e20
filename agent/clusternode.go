// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/gossip"
	"github.com/curfew-proxy/curfew/gossip/mesh"
	"github.com/curfew-proxy/curfew/gossip/trust"
)

const (
	clusterDir = "cluster" // in the state directory

	idleGrace    = time.Second     // for word of activity at other nodes
	leaveTimeout = 2 * time.Second // for a goodbye
)

// clusterNode is this node's part in a cluster: who may be in it (trust), how bytes get there (mesh), who is
// in it (members), and what they tell each other of sessions (engine). Fields are set in this order.
type clusterNode struct {
	p       *proxyProcess
	dir     string
	time    *cluster.Timebase
	trust   *trust.Trust
	mesh    *mesh.Mesh
	members *gossip.Cluster
	engine  *cluster.Engine
	strict  *strict

	advertised netip.AddrPort // to the others

	seen map[string]gossip.State // of members; membersChanged only

	signIn atomic.Pointer[http.Handler] // what serves sign-ins here; nil until it does
}

// origin names the clock of this host for other nodes.
func origin(node, bootID string) session.Origin {
	h := fnv.New64a()
	_, _ = h.Write([]byte(bootID)) // a hash takes everything
	return session.Origin{Node: node, Boot: max(h.Sum64(), 1)}
}

// newClusterNode prepares what the session table needs: the rest is made by join when the table is there.
func newClusterNode(p *proxyProcess) (*clusterNode, error) {
	bootID, err := hostclock.BootID()
	if err != nil {
		return nil, err
	}
	c := p.bundle.Load().Config
	n := &clusterNode{p: p, dir: filepath.Join(c.State, clusterDir), strict: newStrict(), seen: map[string]gossip.State{}}
	n.time = cluster.NewTimebase(origin(c.Name, bootID), p.clock, nil)
	return n, os.MkdirAll(n.dir, 0o700)
}

// changed is session.TableConfig.OnChange. Until the engine is there, anti-entropy will do.
func (n *clusterNode) changed(r session.Record) {
	if n.engine != nil {
		n.engine.Changed(r)
	}
}

// validated is session.TableConfig.OnValidate.
func (n *clusterNode) validated(r session.Record) {
	if n.engine != nil {
		n.engine.Validated(r)
	}
}

// ended is part of session.TableConfig.OnEnd.
func (n *clusterNode) ended(e session.Ending) {
	if n != nil && n.engine != nil {
		n.engine.Ended(e)
	}
}

// join makes this node a member, or a new cluster of one, and everything that it needs for it.
func (n *clusterNode) join(ctx context.Context) error {
	c := n.p.bundle.Load().Config
	advertise, err := resolveAdvertised(ctx, c.Cluster.Advertise)
	if err != nil {
		return err
	}
	n.advertised = advertise[0]
	joined, err := n.becomeMember(ctx)
	if err != nil {
		return err
	}
	key, err := n.trust.ResetKey()
	if err != nil {
		return err
	}
	log := n.p.log.With("part", "cluster")
	n.mesh, err = mesh.New(mesh.Config{Name: c.Name, Listen: c.Cluster.Listen, Trust: n.trust, ResetKey: key, Join: n.admit, Log: log, Count: n.count("mesh")})
	if err != nil {
		return err
	}
	remembered, err := n.remembered()
	if err != nil {
		return err
	}
	n.members, err = gossip.New(gossip.Config{
		Name: c.Name, Advertise: n.advertised, Carrier: n.mesh, Handler: handler{n}, Seeds: append(joined, c.Cluster.Seeds...),
		Meta: n.meta, Changed: n.membersChanged,
		Remembered: remembered, Remember: n.remember, Removed: n.removed, Log: log, Count: n.count("gossip"),
	})
	if err != nil {
		return err
	}
	return n.setUpEngine(c.Cluster.StartAlone, log)
}

func (n *clusterNode) setUpEngine(alone bool, log *slog.Logger) (err error) {
	var others []string
	for _, m := range n.trust.Roster() {
		if m.Name != n.time.Self().Node {
			others = append(others, m.Name)
		}
	}
	n.engine, err = cluster.New(cluster.Config{
		Clock: n.p.clock, Timebase: n.time, Table: n.p.table, Network: n.members, Membership: membership{n.members},
		Peers: others, Alone: alone || len(others) == 0,
		Outcome: n.outcome, Resolve: n.resolve, Answer: n.serveForwarded, Documents: n.documents, Document: n.document,
		OnSkew: n.skewed, OnMajority: n.majority, OnReady: func() { n.p.log.Info("sessions compared with another node: serving") },
		Count: func(name string, by int) { n.p.metrics.Cluster("engine", name, by) }, Log: log,
	})
	n.setUpStrict()
	return err
}

// handler keeps what comes in from the engine until it is there.
type handler struct{ n *clusterNode }

func (h handler) Receive(from string, data []byte) { h.n.engine.Receive(from, data) }
func (h handler) Gossiped(data []byte) bool        { return h.n.engine.Gossiped(data) }
func (h handler) Serve(from string, request []byte) ([]byte, error) {
	return h.n.engine.Serve(from, request)
}

// membership translates what gossip says of members.
type membership struct{ *gossip.Cluster }

func (m membership) Members() []cluster.Member {
	var list []cluster.Member
	for _, x := range m.Cluster.Members() {
		list = append(list, cluster.Member{Name: x.Name, State: cluster.MemberState(x.State)})
	}
	return list
}

// run serves until ctx is done, and says goodbye then.
func (n *clusterNode) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{n.trust.Run, n.mesh.Run, n.members.Run, n.engine.Run, n.strict.Run, n.catchUp} {
		group.Go(func() error { return part(ctx) })
	}
	return group.Wait()
}

// leave says goodbye: others need not wait for this node.
func (n *clusterNode) leave() {
	n.p.table.TellActivity()
	if err := n.members.Leave(leaveTimeout); err != nil {
		n.p.log.Warn("no goodbye to the cluster", "error", err)
	}
}

func (n *clusterNode) close() error {
	var errs []error
	if n.members != nil {
		errs = append(errs, n.members.Close())
	}
	if n.mesh != nil {
		errs = append(errs, n.mesh.Close())
	}
	return errors.Join(errs...)
}

// count is what a part counts with.
func (n *clusterNode) count(part string) func(string) {
	return func(event string) { n.p.metrics.Cluster(part, event, 1) }
}

// lookupPatience is how long a name may take that is looked up again.
const lookupPatience = 2 * time.Second

// needRestart names what the configuration says with the same words as at the start, and means another thing with. A name that
// cannot be looked up now means what it did.
func (n *clusterNode) needRestart(ctx context.Context) []string {
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	c := n.p.begun.Config.Cluster
	if now, err := resolveAdvertised(ctx, c.Advertise); err != nil || slices.Contains(now, n.advertised) {
		return nil
	}
	return []string{"cluster.advertise (" + c.Advertise + " has another address)"}
}

// resolveAdvertised returns the addresses that others reach this node at; the first is the one that is told. A name is looked up
// once.
func resolveAdvertised(ctx context.Context, hostPort string) ([]netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(hostPort); err == nil {
		return []netip.AddrPort{a}, nil
	}
	host, text, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		return nil, &api.Error{Code: api.CodeUnavailable, Message: fmt.Sprintf("cluster.advertise: %s: %v", host, err),
			Hint: "set cluster: {advertise: ADDRESS:PORT} to an address that the other nodes reach"}
	}
	list := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		list[i] = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	return list, nil
}
