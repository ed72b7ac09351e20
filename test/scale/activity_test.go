// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/api"
)

const (
	activeGroup = "active"
	activeIdle  = 40 * time.Second // so short that each session's activity is told of while we watch
)

// measureActivity watches the nodes while some sessions have connections that send a little every few seconds.
// Those sessions are killed afterwards.
func (r *rig) measureActivity() {
	r.b.Helper()
	ctx, stop := context.WithCancel(r.ctx)
	var streaming sync.WaitGroup
	defer streaming.Wait()
	defer stop()
	for _, c := range r.openStreams() {
		streaming.Go(func() { keepBusy(ctx, c) })
	}
	r.waitKnown(r.Nodes...)
	r.out.step("%d connections are open", *streams**nodes)
	r.measureRest(fmt.Sprintf("%d connections a node, idle timeout %v", *streams, activeIdle), activeIdle)
	for i, n := range r.Nodes {
		info, err := n.Control.Status(r.ctx)
		if err != nil {
			r.b.Fatal(err)
		}
		if info.Connections != *streams {
			r.b.Errorf("node %d has %d connections of %d", i+1, info.Connections, *streams)
		}
	}
	r.killGroup(activeGroup, *streams**nodes, *streams**nodes)
}

// openStreams opens a connection through each node for sessions of their own, and closes them in the end.
func (r *rig) openStreams() []net.Conn {
	r.b.Helper()
	var mu sync.Mutex
	var list []net.Conn
	r.b.Cleanup(func() {
		for _, c := range list {
			_ = c.Close()
		}
	})
	var group errgroup.Group
	group.SetLimit(32)
	for at, n := range r.Nodes {
		for i := range *streams {
			group.Go(func() error {
				_, cert, err := admit(r.ctx, n, fmt.Sprintf("active-%d-%d", at, i), func(req *api.CreateSessionRequest) {
					req.Idle, req.Groups = api.Seconds(activeIdle), []string{activeGroup}
				})
				if err != nil {
					return err
				}
				c, err := dial(n, cert)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				list = append(list, c)
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		r.b.Fatal(err)
	}
	r.live += len(list)
	return list
}

// keepBusy asks now and then, until the connection ends or ctx is done.
func keepBusy(ctx context.Context, c net.Conn) {
	for {
		select {
		case <-time.After(2*time.Second + rand.N(2*time.Second)):
		case <-ctx.Done():
			return
		}
		if ask(c) != nil {
			return // killed
		}
	}
}
