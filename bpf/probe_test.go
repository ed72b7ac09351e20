// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func init() { roles["probe"] = probeMain }

func probeMain() error {
	before, err := ownCgroup()
	if err != nil {
		return err
	}
	for _, item := range Probe().Items() {
		fmt.Printf("%s %v %s %s\n", item.Name, item.OK, item.Detail, item.Hint)
	}
	if after, err := ownCgroup(); err != nil || after != before {
		return fmt.Errorf("left in cgroup %s, %w", after, err)
	}
	return nil
}

// In a process of its own, as in `curfew doctor`: it moves between cgroups.
func TestProbe(t *testing.T) {
	for who, uid := range map[string]string{"root": "0", "nobody": "65534"} {
		cmd := exec.Command("setpriv", "--reuid", uid, "/proc/self/fd/3")
		exe, err := os.Open("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		defer exe.Close()
		cmd.ExtraFiles = []*os.File{exe}
		cmd.Env = append(os.Environ(), roleVar+"=probe")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, layer := range []string{"destroy", "sweep", "gate", "stack"} {
			want := fmt.Sprintf("%s %v ", layer, who == "root")
			if !strings.Contains(string(out), want) {
				t.Errorf("as %s: no %q in %s", who, want, out)
			}
		}
	}
}

func TestSelfTest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.proxy.do(order{Do: "selftest", Number: 5})
	r.proxy.do(order{Do: "selftest", Number: 6})

	// Keeps out: a proxy that was started outside the gated cgroup, or whose gate is gone.
	files, err := r.objects.Maps()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		defer f.Close()
	}
	outside, err := NewTagger(files)
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	if err := outside.SelfTest(7); err == nil {
		t.Error("passes outside the gated cgroup")
	}
	for _, l := range r.objects.gate[:2] {
		if err := l.Unpin(); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r.objects.gate = r.objects.gate[2:]
	if a := r.proxy.try(order{Do: "selftest", Number: 8}); !strings.Contains(a.Err, "payload passes") {
		t.Errorf("with the gate gone: %q", a.Err)
	}
}
