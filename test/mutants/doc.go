// SPDX-License-Identifier: Apache-2.0

// Mutants shows that the tests can fail: it takes one promise at a time out of the code, and runs the test that
// is there for it. A mutant that the test does not notice is a fault of the test.
//
//	go run ./test/mutants              # all: about ten minutes
//	go run ./test/mutants -only merge  # those whose name matches
//
// The tree is not touched: the go command reads the changed file from elsewhere (go help build, -overlay).
package main
