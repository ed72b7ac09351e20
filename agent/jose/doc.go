// SPDX-License-Identifier: Apache-2.0

// Package jose is what everything that reads signed tokens has in common: strict JSON claims, checks of
// headers and instants, sets of signing keys, and an HTTP client with limits to fetch them with. It
// adds what go-oidc and encoding/json leave out.
//
// It must not know sessions, providers or what a token is good for: that is its callers' business.
package jose
