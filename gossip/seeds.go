// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Resolver looks names up; net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

const srvPrefix = "srv:"

// resolve returns the addresses, as host:port, that a seed stands for at the moment.
func resolve(ctx context.Context, r Resolver, seed string) ([]string, error) {
	name, isSRV := strings.CutPrefix(seed, srvPrefix)
	if !isSRV {
		return resolveHost(ctx, r, seed)
	}
	_, records, err := r.LookupSRV(ctx, "", "", name)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, rec := range records {
		addrs, lookupErr := resolveHost(ctx, r, net.JoinHostPort(strings.TrimSuffix(rec.Target, "."), strconv.Itoa(int(rec.Port))))
		if lookupErr != nil {
			err = lookupErr // the others may do
			continue
		}
		all = append(all, addrs...)
	}
	if len(all) > 0 {
		err = nil
	}
	return all, err
}

func resolveHost(ctx context.Context, r Resolver, hostPort string) ([]string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []string{net.JoinHostPort(a.Unmap().String(), port)}, nil
	}
	addrs, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, a := range addrs {
		all = append(all, net.JoinHostPort(a.Unmap().String(), port))
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
