// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/test/harness"
)

// sees returns how a node sees another.
func (n *node) sees(t *testing.T, other string) api.NodeInfo {
	t.Helper()
	info, err := n.Control.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range info.Nodes {
		if x.Name == other {
			return x
		}
	}
	return api.NodeInfo{}
}

// A session that was made at one node a moment ago is let in at another, which has perhaps not heard of it.
func TestSessionIsFoundElsewhere(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 3})
	if err := r.Net.Lose(60); err != nil { // word of it comes late
		t.Fatal(err)
	}
	late := 0
	for i := range 20 {
		_, creds := r.nodes[i%3].CreateSession(t, fmt.Sprint("user", i), time.Hour)
		s, err := r.nodes[(i+1)%3].open(t, creds, 0)
		if err != nil {
			late++ // asking takes packets, too
			continue
		}
		_ = s.conn.Close()
	}
	if late > 10 {
		t.Errorf("%d of 20 were refused, with 60 %% loss", late)
	}
	t.Logf("%d of 20 were refused, with 60 %% loss", late)
	if err := r.Net.Lose(0); err != nil {
		t.Fatal(err)
	}
	_, creds := r.nodes[0].CreateSession(t, "alice", time.Hour)
	_ = r.nodes[1].mustOpen(t, creds, 0).conn.Close()
}

// A node that was removed is out within seconds: it neither learns of sessions nor has its own believed, and
// comes back neither by itself nor by an old token.
func TestRemovedNodeIsOut(t *testing.T) {
	o := harness.ClusterConfig{Nodes: 3}
	r := newRig(t, o)
	old := r.Token(t)
	out := r.nodes[2]
	if res := r.nodes[0].Curfew(t, "cluster", "remove", "nobody"); res.Code != 1 || !strings.Contains(res.Stderr, "curfew nodes") {
		t.Errorf("remove a node that is not there: %+v", res)
	}
	began := time.Now()
	r.nodes[0].MustCurfew(t, "cluster", "remove", out.Name)
	for _, n := range r.nodes[:2] {
		harness.Eventually(t, n.Name+" to see the node gone", func() error {
			if s := n.sees(t, out.Name).State; s == api.NodeAlive {
				return fmt.Errorf("it is %s", s)
			}
			return nil
		})
	}
	harness.Eventually(t, "the node to be alone", func() error {
		for _, n := range r.nodes[:2] {
			if s := out.sees(t, n.Name).State; s == api.NodeAlive {
				return fmt.Errorf("it sees %s %s", n.Name, s)
			}
		}
		return nil
	})
	t.Logf("out after %v", time.Since(began).Round(time.Millisecond))
	_, inside := r.nodes[0].CreateSession(t, "alice", time.Hour)
	_, outside := out.CreateSession(t, "mallory", time.Hour)
	_ = r.nodes[1].mustOpen(t, inside, 0).conn.Close()
	if _, err := out.open(t, inside, 0); err == nil {
		t.Error("the removed node still learns of sessions")
	}
	for _, n := range r.nodes[:2] {
		if _, err := n.open(t, outside, 0); err == nil {
			t.Error("a session of the removed node is believed")
		}
	}
	// It starts again, with its old state; then as a new one, with a token that was made before.
	out.Stop(t)
	out.Launch(t)
	if err := os.RemoveAll(out.State() + "-old"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second) // it tries to come back
	for _, n := range r.nodes[:2] {
		if s := n.sees(t, out.Name).State; s == api.NodeAlive {
			t.Errorf("%s sees the removed node alive again", n.Name)
		}
	}
	out.Stop(t)
	res := r.joinAnew(t, out, old)
	if !strings.Contains(res, "token") {
		t.Errorf("joined with a token of before the removal:\n%s", res)
	}
	r.whole(t, r.nodes[:2]...)
}

// joinAnew starts a node without its state, with a token that is no good, and returns what it says.
func (r *rig) joinAnew(t *testing.T, n *node, token string) string {
	t.Helper()
	if err := os.RemoveAll(n.State()); err != nil {
		t.Fatal(err)
	}
	n.Args = []string{"--join", token}
	n.Launch(t)
	n.WaitExit(t)
	return n.Log()
}

// Tokens that are used up, foreign or damaged let nobody in, and the agent says why.
func TestBadTokens(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 2})
	other := newRig(t, harness.ClusterConfig{Nodes: 1})
	used := r.Token(t)
	stranger := r.nodes[1]
	stranger.Stop(t)
	for name, token := range map[string]string{
		"of another cluster": other.Token(t), "damaged": used[:len(used)-9] + "AAAA", "nonsense": "curfew-join-1.xyz", "a name that is taken": used,
	} {
		said := r.joinAnew(t, stranger, token)
		if !strings.Contains(said, "hint") && !strings.Contains(said, "curfew cluster token") {
			t.Errorf("%s: no hint:\n%s", name, said)
		}
	}
	fresh := r.Token(t, "--replace")
	if err := os.RemoveAll(stranger.State()); err != nil {
		t.Fatal(err)
	}
	stranger.Args = []string{"--join", fresh}
	stranger.Run(t)
	r.whole(t)
}

// New keys for the authority interrupt nothing.
func TestRotation(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 3})
	_, creds := r.nodes[0].CreateSession(t, "alice", time.Hour)
	streams := r.everywhere(t, creds, 10*time.Millisecond)
	r.nodes[1].MustCurfew(t, "cluster", "rotate")
	for range 10 {
		time.Sleep(500 * time.Millisecond) // the rotation goes on
		for _, n := range r.nodes {
			for _, m := range r.nodes {
				if s := n.sees(t, m.Name).State; s == api.NodeDead {
					t.Fatalf("%s holds %s for dead during a rotation", n.Name, m.Name)
				}
			}
		}
	}
	if _, res := r.nodes[2].KillJSON(t, "--subject", "alice"); res.Code != 0 {
		t.Errorf("kill after a rotation: %+v", res)
	}
	for _, s := range streams {
		s.mustEnd(t)
	}
}

// A strict service refuses, and then ends what it has, at a node that hears from no majority; an available one
// goes on. Both take connections again afterwards.
func TestStrictService(t *testing.T) {
	for _, strict := range []bool{true, false} {
		t.Run(fmt.Sprintf("strict %v", strict), func(t *testing.T) {
			more := ""
			if strict {
				more = ", partition: strict"
			}
			r := newRig(t, harness.ClusterConfig{Nodes: 3, Service: more, Cluster: ", strict_after: 2s"})
			_, creds := r.nodes[0].CreateSession(t, "alice", time.Hour)
			streams := r.everywhere(t, creds, 10*time.Millisecond)
			lost := r.nodes[2]
			if err := r.Net.Cut(2); err != nil {
				t.Fatal(err)
			}
			if !strict {
				time.Sleep(8 * time.Second) // more than it takes a strict one
				if !streams[2].live() {
					t.Error("an available service was cut")
				}
				_ = lost.mustOpen(t, creds, 0).conn.Close()
			} else {
				streams[2].mustEnd(t)
				if _, err := lost.open(t, creds, 0); err == nil {
					t.Error("a strict service lets in without a majority")
				}
				if res := lost.Curfew(t, "nodes"); res.Code != 1 || !strings.Contains(res.Stdout, "strict services refuse: echo") {
					t.Errorf("curfew nodes: %+v", res)
				}
				if len(lost.events(t, api.EventPartition)) == 0 {
					t.Error("no event tells of the partition")
				}
			}
			if !streams[0].live() || !streams[1].live() {
				t.Error("cut where there is a majority")
			}
			if err := r.Net.Mend(2); err != nil {
				t.Fatal(err)
			}
			harness.Eventually(t, "the service to be open again", func() error {
				s, err := lost.open(t, creds, 0)
				if err == nil {
					_ = s.conn.Close()
				}
				return err
			})
		})
	}
}

// A node that stops in order says goodbye, and is not missed.
func TestLeave(t *testing.T) {
	r := newRig(t, harness.ClusterConfig{Nodes: 3})
	r.nodes[2].Stop(t)
	harness.Eventually(t, "the node to have left", func() error {
		if s := r.nodes[0].sees(t, r.nodes[2].Name).State; s != api.NodeLeft {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	if res := r.nodes[0].Curfew(t, "nodes"); res.Code != 0 {
		t.Errorf("a node that has left is missed: %+v", res)
	}
	r.nodes[2].Run(t)
	r.whole(t)
}
