// SPDX-License-Identifier: Apache-2.0

// Package policy decides whether an identity may reach a service, by CEL expressions that the
// operator writes (the language: https://cel.dev, the variables: docs/policy.md).
//
// It is pure: no I/O, no clock of its own, no state but the compiled expressions. Doubt is
// denied: a service without a policy, an expression that fails at run time or costs too much.
package policy
