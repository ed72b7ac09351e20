// SPDX-License-Identifier: Apache-2.0

// Package opinion asks an outside policy engine, by service, whether a session may use it: the second opinion, after
// the service's own policy has said yes. The engine is Open Policy Agent, or what speaks its REST data API
// (https://www.openpolicyagent.org/docs/rest-api).
//
// It owns the requests, how many there are at once, and the answers that it keeps for a while. It knows nothing of
// connections: package agent asks, and does what the answer says. Doubt is denied: an engine that cannot be reached,
// is late, or says anything but yes.
package opinion
