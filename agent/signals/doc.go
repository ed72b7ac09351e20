// SPDX-License-Identifier: Apache-2.0

// Package signals takes in what others tell us about sessions: security events of the OpenID Shared Signals
// Framework (RFC 8417) by push and by poll, deprovisioning by SCIM, and a plain webhook. It owns the endpoints
// for them, the check of who may say what about whom, and the client that sets streams of events up.
//
// It must not touch the session table, the cluster or sign-ins: it ends sessions through the small Sessions
// interface that package agent fills in. Tokens are verified by package jose. It creates nothing: the worst that
// a stranger, or a transmitter that was broken into, can do here is to end sessions, and of the configured issuers only.
package signals
