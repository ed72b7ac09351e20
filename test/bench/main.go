// SPDX-License-Identifier: Apache-2.0

// Command bench measures what the proxy costs beside HAProxy and nginx, in one run: CPU time of
// the proxies' own processes for bulk, requests and new connections, request latency, and resident
// memory of idle connections. All speak TLS 1.3 with client certificates to the client and plain
// TCP to one upstream, on loopback. The subjects take turns in every round, each in a fresh
// process, and medians are compared, so that what the machine does meanwhile hits all of them.
//
//	go run ./test/bench [-rounds 3] [-only curfew,haproxy] [-json]
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
)

func main() {
	var (
		load   = defaultLoad
		rounds = flag.Int("rounds", 3, "rounds to take the median of")
		only   = flag.String("only", "", "subjects to run, separated by commas")
		asJSON = flag.Bool("json", false, "print every measurement as JSON instead of the table")
	)
	flag.IntVar(&load.bulkMiB, "bulk", load.bulkMiB, "MiB in each direction")
	flag.IntVar(&load.requests, "requests", load.requests, "64-byte requests over all connections")
	flag.IntVar(&load.opened, "new", load.opened, "new connections")
	flag.IntVar(&load.idle, "idle", load.idle, "idle connections")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	results, err := run(ctx, load, *rounds, pick(*only))
	exitOn(err)
	if *asJSON {
		exitOn(json.NewEncoder(os.Stdout).Encode(results))
		return
	}
	printTable(os.Stdout, results)
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// pick returns the subjects named, or all.
func pick(only string) []subject {
	if only == "" {
		return subjects
	}
	names := strings.Split(only, ",")
	return slices.DeleteFunc(slices.Clone(subjects), func(s subject) bool { return !slices.Contains(names, s.name) })
}

// run measures every subject once a round, and returns the values by subject and metric.
func run(ctx context.Context, load load, rounds int, subjects []subject) (results, error) {
	dir, err := os.MkdirTemp("", "curfew-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	// nginx reads its files as another user.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	up, err := startUpstream()
	if err != nil {
		return nil, err
	}
	defer up.close()
	pki, err := newPKI(dir)
	if err != nil {
		return nil, err
	}
	all := make(results)
	for round := range rounds {
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)]
			if err := measure(ctx, s, load, setup{dir: dir, upstream: up.addr(), pki: pki}, all); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, rounds)
	}
	return all, nil
}

// measure runs one subject through every load.
func measure(ctx context.Context, s subject, load load, with setup, into results) error {
	target, err := s.start(ctx, with)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	defer target.stop()
	client := &client{addr: target.addr, config: with.pki.clientConfig()}
	if err := target.ready(ctx, client); err != nil {
		return err
	}
	values, err := takeAll(load, target, client)
	if err != nil {
		return err
	}
	for name, v := range values {
		into.add(s.name, name, v)
	}
	return nil
}
