// SPDX-License-Identifier: Apache-2.0

// Package trust says who is a node of the cluster: the cluster's certificate authority, the certificate of this
// node, the roster of nodes that were admitted, the nodes that were removed, and the tokens that admit new ones.
//
// It owns one file and a Document, which nodes pass on to each other and merge. It must not know how: no
// network, no membership; the standard library alone.
//
// # Whom it guards against
//
// Every node holds the key of the authority, so every node can admit another, with no one to ask; a node is
// as powerful as the cluster while it is one. What matters is that it is nothing any more once it was removed,
// although it still knows its own key, the authority's key of its time, and tokens that it made:
//
//   - Its name and its keys are denied: links end at once, before anything else happens.
//   - A certificate is worth nothing unless its name and key are on the roster. An entry of the roster is signed
//     by a root, and so is a token, and a new root by the one before.
//   - A removal lists what it keeps. What the roots of its time have signed and it does not list is void: a
//     node, token or root that the removed one makes up later, even by way of a node that has not heard yet.
//   - The next root's key travels only sealed to each remaining node's own key (HPKE, RFC 9180). The Document
//     holds no secret: a removed node that still gets hold of one learns nothing from it.
//   - The old root is retired when all use the new one, or after a bound.
//
// What remains: while two parts of a cluster cannot talk, each can remove nodes of the other, and all these
// removals count; a node that has not heard of a removal still believes the removed one; and a member can do all
// that any member can.
package trust
