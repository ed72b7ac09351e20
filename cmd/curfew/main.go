// SPDX-License-Identifier: Apache-2.0

// Command curfew puts identity in front of any TCP service and ends every connection when its
// session ends: the agent, the operators' commands and the users' client in one program.
//
// This package parses flags and prints. What is done is done elsewhere.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the whole program but for the exit, so that tests can call it.
func run(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{out: out, err: errOut}
	root := a.newRootCmd()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.started { // cobra found fault with the command line
		err = usage("%w", err)
	}
	return a.report(err)
}
