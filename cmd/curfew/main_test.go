// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"curfew": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script/*.txtar: each with a control server of its own, whose agent
// is made up. The scripts say what it does:
//
//	agent off       nobody answers on the socket any more
//	agent hang      the agent is stopped: connections are taken, nothing is answered
//	agent left N    the next kills leave N connections behind
//	agent unproven  the next kills are not verified
//	agent event     something happens
//	agent killed    prints the last kill it was asked for
//	agent created   prints the last session it was asked to create
//	code N CMD...   runs CMD and wants the exit code N
//	mode M FILE     wants the mode M (octal) of FILE
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: startAgent,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent": agentCmd, "code": codeCmd, "mode": modeCmd,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}
