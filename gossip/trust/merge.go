// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"slices"
)

// ErrCluster says that a document, certificate or token is of another cluster.
var ErrCluster = errors.New("of another cluster")

// MergeDocuments returns what both know together; it changes neither. It is commutative, associative and
// idempotent, and believes everything: signatures are not checked.
func MergeDocuments(a, b *Document) (*Document, error) {
	if a.Cluster != b.Cluster || a.Format != b.Format {
		return nil, ErrCluster
	}
	return &Document{
		Format: a.Format, Cluster: a.Cluster, Version: max(a.Version, b.Version),
		Roots:   union(a.Roots, b.Roots, func(r Root) string { return string(r.ID()) }, mergeRoots),
		Nodes:   union(a.Nodes, b.Nodes, nodeOrder, nil),
		Denials: union(a.Denials, b.Denials, func(d Denial) string { return string(d.Signature) }, nil),
		Tokens:  union(a.Tokens, b.Tokens, func(t Token) string { return t.ID + string(t.Signature) }, mergeTokens),
	}, nil
}

func nodeOrder(n Node) string { return n.Name + "\x00" + string(n.Signature) }

// union returns the elements of both in the order of their keys; two of the same key are merged, or else are the
// same.
func union[T any](a, b []T, key func(T) string, merge func(T, T) T) []T {
	all := make(map[string]T, max(len(a), len(b)))
	for _, list := range [][]T{a, b} {
		for _, v := range list {
			k := key(v)
			if old, ok := all[k]; ok && merge != nil {
				v = merge(old, v)
			}
			all[k] = v
		}
	}
	var merged []T
	for _, k := range slices.Sorted(maps.Keys(all)) {
		merged = append(merged, all[k])
	}
	return merged
}

// mergeRoots forgets of a retired root all but what signatures need.
func mergeRoots(a, b Root) Root {
	if bytes.Compare(b.Signature, a.Signature) < 0 { // a signer can sign twice: all nodes take the same
		a.Parent, a.Signature = b.Parent, b.Signature
	}
	a.Ready = a.Ready || b.Ready
	if a.Retired = a.Retired || b.Retired; a.Retired {
		a.Ready, a.Sealed, a.Knows, a.Uses = true, nil, nil, nil
		return a
	}
	a.Sealed = maps.Clone(a.Sealed)
	for id, sealed := range b.Sealed {
		if old, ok := a.Sealed[id]; !ok || bytes.Compare(sealed, old) < 0 {
			if a.Sealed == nil {
				a.Sealed = make(map[KeyID][]byte)
			}
			a.Sealed[id] = sealed
		}
	}
	a.Knows = sortedUnion(a.Knows, b.Knows)
	a.Uses = sortedUnion(a.Uses, b.Uses)
	return a
}

func mergeTokens(a, b Token) Token {
	a.Revoked = a.Revoked || b.Revoked
	a.Used = maps.Clone(a.Used)
	for id, n := range b.Used {
		if a.Used == nil {
			a.Used = make(map[KeyID]int)
		}
		a.Used[id] = max(a.Used[id], n)
	}
	return a
}

func sortedUnion[T cmp.Ordered](a, b []T) []T {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// clone returns a document whose changes change nothing else. Bytes are shared: nobody writes to them.
func (d *Document) clone() *Document {
	c := *d
	c.Roots = slices.Clone(d.Roots)
	for i, r := range c.Roots {
		c.Roots[i].Sealed = maps.Clone(r.Sealed)
		c.Roots[i].Knows = slices.Clone(r.Knows)
		c.Roots[i].Uses = slices.Clone(r.Uses)
	}
	c.Nodes = slices.Clone(d.Nodes)
	c.Denials = slices.Clone(d.Denials)
	c.Tokens = slices.Clone(d.Tokens)
	for i, t := range c.Tokens {
		c.Tokens[i].Used = maps.Clone(t.Used)
	}
	return &c
}
