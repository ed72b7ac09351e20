// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Resolver looks names up; net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

const srvPrefix = "srv:"

// seed is where members may be found.
type seed struct {
	host string // a name or an address; of an SRV record if port is 0
	port uint16
}

// parseSeed reads "host:port" or "srv:_service._proto.name".
func parseSeed(text string) (seed, error) {
	if name, ok := strings.CutPrefix(text, srvPrefix); ok {
		if labels := strings.Split(strings.TrimSuffix(name, "."), "."); len(labels) < 3 || labels[0] == "" || labels[0][0] != '_' || labels[1] == "" || labels[1][0] != '_' {
			return seed{}, fmt.Errorf("seed %q: want srv:_service._proto.name", text)
		}
		return seed{host: name}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return seed{}, fmt.Errorf("seed %q: want host:port: %w", text, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if host == "" || err != nil || n == 0 {
		return seed{}, fmt.Errorf("seed %q: want host:port, with a port from 1 to 65535", text)
	}
	return seed{host, uint16(n)}, nil
}

// resolveSeeds returns the addresses, as host:port, that the seeds stand for at the moment, each once.
func (c *Cluster) resolveSeeds(ctx context.Context) []string {
	found := make([][]string, len(c.seeds))
	var asking sync.WaitGroup
	for i, s := range c.seeds {
		asking.Go(func() {
			addrs, err := s.resolve(ctx, c.cfg.Resolver)
			if err != nil {
				c.cfg.Log.Debug("seed not resolved", "seed", s.host, "error", err)
			}
			found[i] = addrs
		})
	}
	asking.Wait()
	all := slices.Concat(found...)
	slices.Sort(all)
	return slices.Compact(all)
}

// resolve returns what it found; also with an error, if a part was not to be had.
func (s seed) resolve(ctx context.Context, r Resolver) ([]string, error) {
	if s.port != 0 {
		return resolveHost(ctx, r, s.host, s.port)
	}
	_, records, err := r.LookupSRV(ctx, "", "", s.host)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, rec := range records {
		addrs, lookupErr := resolveHost(ctx, r, strings.TrimSuffix(rec.Target, "."), rec.Port)
		if lookupErr != nil {
			err = lookupErr
		}
		all = append(all, addrs...)
	}
	return all, err
}

func resolveHost(ctx context.Context, r Resolver, host string, port uint16) ([]string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []string{netip.AddrPortFrom(a.Unmap(), port).String()}, nil
	}
	addrs, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, a := range addrs {
		all = append(all, netip.AddrPortFrom(a.Unmap(), port).String())
	}
	return all, nil
}
