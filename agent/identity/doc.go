// SPDX-License-Identifier: Apache-2.0

// Package identity turns what an OpenID provider says into a session.Identity, and ends what it
// began: it owns the sign-in flows, the verification of ID tokens, the HTTP API that clients
// sign in through, and the provider's tokens for as long as a session lives.
//
// It must not touch the session table, policy, BPF or the proxy: sessions are created and ended
// through the small Sessions interface that package agent fills in. Provider tokens never leave
// this package, except to the provider that issued them.
package identity
