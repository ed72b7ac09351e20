// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import "github.com/spf13/cobra"

// platformCmds are the verbs that only Linux has: none here.
func (a *app) platformCmds() []*cobra.Command { return nil }
