// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// maxNodeName is how long a name may be that other nodes know this one by.
const maxNodeName = 64

func (d *document) checkCluster(c *Config) {
	k := c.Cluster
	if !k.Enabled() {
		if k.Advertise != "" || len(k.Seeds) > 0 {
			d.wrongKey("cluster", "says how to reach others, but not where they reach this node", "for example listen: 0.0.0.0:7946")
		}
		for i, s := range c.Services {
			if s.Partition == PartitionStrict {
				d.wrongKey(fmt.Sprintf("services[%d].partition", i), "strict has no meaning without a cluster", "say cluster: {listen: ...}, or delete the line")
			}
		}
		return
	}
	if len(c.Name) > maxNodeName {
		d.wrong("name", fmt.Sprintf("has %d characters", len(c.Name)), fmt.Sprintf("nodes of a cluster have at most %d", maxNodeName))
	}
	d.checkAddress("cluster.advertise", k.Advertise)
	for i, seed := range k.Seeds {
		key := fmt.Sprintf("cluster.seeds[%d]", i)
		if name, isSRV := strings.CutPrefix(seed, "srv:"); isSRV {
			service, rest, _ := strings.Cut(name, ".")
			if !strings.HasPrefix(service, "_") || !strings.HasPrefix(rest, "_") || !strings.Contains(rest, ".") || !isHostName(strings.ReplaceAll(name, "_", "x")) {
				d.wrong(key, fmt.Sprintf("%q is not the name of an SRV record", name), "for example srv:_curfew._udp.example.com")
			}
			continue
		}
		d.checkAddress(key, seed)
	}
}

// checkAddress checks a host:port that nodes are reached at.
func (d *document) checkAddress(key, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		d.wrong(key, fmt.Sprintf("want host:port, have %q", address), "for example 10.0.0.5:7946")
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		d.wrong(key, fmt.Sprintf("%q is not a port that others could use", port), "a number from 1 to 65535")
	}
	if !isHostName(host) {
		d.wrong(key, fmt.Sprintf("%q is not a host", host), "a name or an address of the node")
	}
}
