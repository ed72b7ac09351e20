// SPDX-License-Identifier: Apache-2.0

// Package model has a model of what nodes know of sessions, and verifies it with Spin: that what they promise
// each other holds, whatever the network does and whoever crashes; and that it does not hold any more
// once a rule is broken, so that the model is known to see it.
package model

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const source = "sessions.pml"

// How pan says that a promise does not hold; the numbers are those of sessions.pml.
const (
	cameBack    = "promised[k]!=0"   // 1, and 5
	outlived    = "now<promised[k]"  // 2
	acceptsSoon = "owes["            // 3
	notReached  = "acceptance cycle" // 4
)

var (
	threeNodes  = []string{"NODES=3", "SESSIONS=1"}
	twoNodes    = []string{"NODES=2", "SESSIONS=1"}
	twoSessions = []string{"NODES=2", "SESSIONS=2"}
	connected   = []string{"NODES=3", "SESSIONS=1", "LIVENESS"}
)

// run is one verification.
type run struct {
	name  string
	size  []string
	more  []string
	claim string // an ltl property to verify instead of the assertions
	broke string // what must be found broken; empty: nothing may be
}

var holds = []run{
	{name: "three nodes and a watermark", size: threeNodes, more: []string{"WATERMARK"}},
	{name: "three nodes and an earlier deadline", size: threeNodes, more: []string{"SHORTEN"}},
	{name: "a watermark and an earlier deadline", size: twoNodes, more: []string{"WATERMARK", "SHORTEN"}},
	{name: "a session that supersedes another", size: twoSessions},
	{name: "a kill reaches what was superseded", size: twoSessions, more: []string{"KILL_REACHES_SUPERSEDED", "TOMBSTONE_NAMES_SUPERSEDED"}},
	{name: "a revocation reaches who stays connected", size: connected, claim: "reaches"},
	{name: "who restarts accepts again", size: connected, claim: "returns"},
}

var mutants = []run{
	{name: "forget before the deadline", size: twoNodes, more: []string{"GC_BEFORE_DEADLINE"}, broke: cameBack},
	{name: "forget at the deadline of a clock that is ahead", size: twoNodes, more: []string{"GC_AT_DEADLINE"}, broke: cameBack},
	{name: "forget by the earlier of two deadlines without retention", size: twoNodes, more: []string{"SHORTEN", "GC_WITHOUT_RETENTION"}, broke: cameBack},
	{name: "refuse a tombstone at the earlier of two deadlines", size: twoNodes, more: []string{"SHORTEN", "TOMBSTONE_REFUSED_AT_DEADLINE"}, broke: cameBack},
	{name: "accept a session after its deadline", size: twoNodes, more: []string{"CREATE_AFTER_DEADLINE"}, broke: outlived},
	{name: "the later deadline wins", size: twoNodes, more: []string{"SHORTEN", "DEADLINE_MAX"}, broke: outlived},
	{name: "the last writer wins", size: twoNodes, more: []string{"LAST_WRITER_WINS"}, broke: cameBack},
	{name: "nothing is durable", size: twoNodes, more: []string{"NOT_DURABLE"}, broke: cameBack},
	{name: "acknowledge before it is durable", size: twoNodes, more: []string{"ACKNOWLEDGE_BEFORE_DURABLE"}, broke: cameBack},
	{name: "acknowledge a duplicate while the first is not durable", size: twoNodes, more: []string{"DUPLICATE_ACKNOWLEDGED_AT_ONCE"}, broke: cameBack},
	{name: "accept after a restart at once", size: twoNodes, more: []string{"RESTART_WITHOUT_ANTI_ENTROPY"}, broke: acceptsSoon},
	{name: "a tombstone does not say what was superseded", size: twoSessions, more: []string{"KILL_REACHES_SUPERSEDED"}, broke: cameBack},
	{name: "messages only", size: connected, more: []string{"NO_ANTI_ENTROPY"}, claim: "reaches", broke: notReached},
	{name: "hear only who accepts", size: connected, more: []string{"ONLY_SYNCED_ANSWER"}, claim: "returns", broke: notReached},
}

func TestPromisesHold(t *testing.T) {
	for _, r := range holds {
		t.Run(r.name, r.verify)
	}
}

func TestMutantsAreCaught(t *testing.T) {
	for _, r := range mutants {
		t.Run(r.name, r.verify)
	}
}

var (
	errorsFound = regexp.MustCompile(`(?m)^State-vector .*errors: (\d+)$`)
	statesFound = regexp.MustCompile(`(?m)^ *(\d+) states, stored`)
	unreached   = regexp.MustCompile(`(?m)^\t.*, state \d+, .*$`)
)

func (r run) verify(t *testing.T) {
	dir := t.TempDir()
	model, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, source), model, 0o600); err != nil {
		t.Fatal(err)
	}
	var defines []string
	for _, d := range append(append([]string{}, r.size...), r.more...) {
		defines = append(defines, "-D"+d)
	}
	command(t, dir, "spin", append(append([]string{"-a"}, defines...), source)...)

	build := []string{"-w", "-DMEMLIM=1024", "-o", "pan", "pan.c"} // megabytes
	verify := []string{"-m50000"}
	if r.claim == "" {
		build = append(build, "-DSAFETY")
	} else {
		build = append(build, "-DNFAIR=3")
		verify = append(verify, "-a", "-f", "-N", r.claim)
	}
	if r.broke == "" { // it takes longer to search all than to compile well
		build = append(build, "-O2")
	}
	command(t, dir, "gcc", build...)
	start := time.Now()
	out, peak := command(t, dir, "./pan", verify...)
	took := time.Since(start)

	found, states := errorsFound.FindStringSubmatch(out), statesFound.FindStringSubmatch(out)
	if found == nil || states == nil {
		t.Fatalf("pan came to no verdict:\n%s", out)
	}
	t.Logf("%s states, %.1f s, %d MB", states[1], took.Seconds(), peak>>20)
	if r.broke == "" {
		r.wantWhole(t, out)
	}
	switch broken := found[1] != "0"; {
	case broken && r.broke == "":
		replay, _ := command(t, dir, "spin", append(append([]string{"-t", "-p", "-g"}, defines...), source)...)
		t.Errorf("a promise is broken:\n%s\nthe end of how:\n%s", out, replay[max(0, len(replay)-20_000):])
	case !broken && r.broke != "":
		t.Error("the model does not notice")
	case broken && !strings.Contains(strings.ReplaceAll(out, " ", ""), strings.ReplaceAll(r.broke, " ", "")):
		t.Errorf("something else broke than %q:\n%s", r.broke, out)
	}
}

// wantWhole checks that the search was complete, and that each line of the model had its part in it: what
// never happens keeps every promise.
func (r run) wantWhole(t *testing.T, out string) {
	for _, partial := range []string{"Search not completed", "max search depth too small", "MEMLIM"} {
		if strings.Contains(out, partial) {
			t.Errorf("the search is not complete: %s", partial)
		}
	}
	for _, line := range unreached.FindAllString(out, -1) {
		if !strings.HasSuffix(line, `"-end-"`) { // processes do not end
			t.Errorf("never happens: %s", line)
		}
	}
}

// command returns what a program said, and how much memory it took at most, in bytes. That pan found an error
// is no error here.
func command(t *testing.T, dir, name string, args ...string) (out string, peak int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v (test/scripts/setup.sh installs spin and gcc)\n%s", name, strings.Join(args, " "), err, &b)
	}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peak = usage.Maxrss << 10
	}
	return b.String(), peak
}
