// SPDX-License-Identifier: Apache-2.0

// Package control is the operators' door: HTTP and JSON on a Unix socket that only root may use,
// and the client for it.
//
// It owns the routes, the check of the caller's credentials and the stream of events. It decides
// nothing: what the sessions are and how they are killed it asks through the small interfaces in
// backend.go, which package agent fills in. The client compiles on every platform.
package control
