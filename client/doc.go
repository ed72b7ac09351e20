// SPDX-License-Identifier: Apache-2.0

// Package client is the user's side of Curfew: it keeps the client key, signs in and out, and
// carries connections to services through the agent.
//
// It runs on Linux, macOS and Windows, needs no privilege, and never sees a token of a user's provider. It
// parses no flags and prints nothing but progress to the writers it is given. Errors that a user
// can do something about are *api.Error values with a hint.
package client
