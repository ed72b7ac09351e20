// SPDX-License-Identifier: Apache-2.0

// Package config reads the agent's configuration: one YAML file, checked to the last key before
// anything starts.
//
// It owns the schema, the defaults (defaults.go) and the messages: every mistake is reported with
// file, line, column, what is wrong and what would be right, and all mistakes at once. It starts
// nothing and imports no other part of the agent; the policy compiler is handed in through Hooks.
package config
