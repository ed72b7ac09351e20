// SPDX-License-Identifier: Apache-2.0

// Package house keeps the house in order: who may import whom, and who may import what.
// The reasons are in docs/architecture.md.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/curfew-proxy/curfew/"

// ours says which of our packages a package may import. Siblings do not import each other;
// only agent knows the parts, and only it puts them together. Test helpers below test/ may
// import everything.
var ours = map[string][]string{
	"agent/session":    {},
	"agent/api":        {"agent/session"},
	"bpf":              {"agent/session"},
	"gossip":           {"gossip/mesh"},
	"gossip/mesh":      {},
	"gossip/memnet":    {"gossip/mesh"},
	"gossip/trust":     {},
	"proxy":            {"agent/session"},
	"agent/config":     {},
	"agent/cluster":    {"agent/session"},
	"agent/metrics":    {"agent/session"},
	"agent/policy":     {"agent/session"},
	"agent/opinion":    {"agent/session", "agent/jose"},
	"agent/enforcer":   {"agent/session", "bpf"},
	"agent/control":    {"agent/session", "agent/api"},
	"agent/identity":   {"agent/session", "agent/api", "agent/jose", "agent/page"},
	"agent/signals":    {"agent/session", "agent/api", "agent/jose"},
	"agent/jose":       {},
	"agent/page":       {},
	"agent/demoidp":    {},
	"agent/store":      {"agent/session"},
	"agent/servercert": {},
	"agent/hostclock":  {"agent/session"},
	"client":           {"agent/session", "agent/api", "agent/page"},
	"agent": {
		"agent/session", "agent/api", "agent/config", "agent/metrics", "agent/policy", "agent/opinion", "agent/enforcer",
		"agent/control", "agent/identity", "agent/jose", "agent/signals", "agent/store", "agent/servercert", "agent/hostclock", "agent/cluster", "bpf", "gossip", "gossip/mesh", "gossip/trust", "proxy",
	},
	"lab": {},
	"demo": {
		"lab", "client", "agent/demoidp", "bpf", "agent/hostclock", "agent/servercert", "agent/session", "agent/api", "agent/control",
	},
	"cmd/curfew": {
		"agent", "client", "demo", // and what their interfaces are made of
		"agent/session", "agent/api", "agent/config", "agent/control", "agent/policy", "agent/jose",
	},
}

// libraries says which of our packages may import a library, by the beginning of its path.
var libraries = map[string][]string{
	"github.com/cilium/ebpf":           {"bpf"},
	"github.com/vishvananda/":          {"bpf"},
	"github.com/hashicorp/memberlist":  {"gossip"},
	"github.com/quic-go/":              {"gossip/mesh"},
	"google.golang.org/protobuf/":      {"agent/cluster"},
	"github.com/coreos/go-oidc":        {"agent/identity", "agent/demoidp"},
	"github.com/go-jose/":              {"agent/jose", "agent/demoidp"},
	"github.com/zitadel/oidc":          {"agent/identity", "agent/demoidp"},
	"golang.org/x/oauth2":              {"agent/identity", "agent/demoidp"},
	"cel.dev/":                         {"agent/policy"},
	"github.com/goccy/go-yaml":         {"agent/config"},
	"github.com/prometheus/":           {"agent/metrics"},
	"github.com/spf13/":                {"cmd/curfew"},
	"go.etcd.io/bbolt":                 {"agent/store"},
	"github.com/rogpeppe/go-internal/": {},
}

// standardOnly are packages that import no library at all.
var standardOnly = []string{"agent/session", "agent/api", "agent/page"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	// go test keeps results, and looks at the files that the test itself has opened, not at those of
	// go list: so open the directories.
	err := filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS=linux")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		list = append(list, p)
	}
}

func TestImports(t *testing.T) {
	list := packages(t)
	if len(list) < 5 {
		t.Fatalf("go list found only %d packages", len(list))
	}
	for _, p := range list {
		name := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(name, "test/") {
			continue
		}
		if _, known := ours[name]; !known {
			t.Errorf("%s is new: say in test/house what it may import, and in docs/architecture.md why it exists", name)
			continue
		}
		for _, path := range p.Imports {
			if broken := breaks(name, path); broken != "" {
				t.Errorf("%s imports %s: %s", name, path, broken)
			}
		}
	}
}

// breaks returns the rule that an import breaks, or "".
func breaks(name, path string) string {
	if other, is := strings.CutPrefix(path, module); is {
		if slices.Contains(ours[name], other) {
			return ""
		}
		if len(ours[name]) == 0 {
			return "it may import none of ours"
		}
		return "of ours it may import only " + strings.Join(ours[name], ", ")
	}
	first, _, _ := strings.Cut(path, "/")
	if !strings.Contains(first, ".") {
		return "" // the standard library
	}
	if slices.Contains(standardOnly, name) {
		return "it may import the standard library only"
	}
	for prefix, allowed := range libraries {
		if strings.HasPrefix(path, prefix) && !slices.Contains(allowed, name) {
			if len(allowed) == 0 {
				return "this library is for tests"
			}
			return "only " + strings.Join(allowed, " and ") + " may import it"
		}
	}
	return ""
}

// The rules themselves: they must catch what they are for.
func TestBreaks(t *testing.T) {
	for _, tc := range []struct {
		name, path string
		ok         bool
	}{
		{"proxy", "net", true},
		{"proxy", module + "agent/session", true},
		{"proxy", module + "bpf", false},
		{"agent/policy", module + "agent/config", false},
		{"agent/config", module + "agent/policy", false},
		{"agent/session", "golang.org/x/sync/errgroup", false},
		{"agent/enforcer", "github.com/cilium/ebpf/link", false},
		{"bpf", "github.com/cilium/ebpf/link", true},
		{"agent", "github.com/hashicorp/memberlist", false},
		{"client", "golang.org/x/oauth2", false},
		{"cmd/curfew", module + "bpf", false},
		{"proxy", "github.com/rogpeppe/go-internal/testscript", false},
	} {
		if rule := breaks(tc.name, tc.path); (rule == "") != tc.ok {
			t.Errorf("%s imports %s: %q, want ok %v", tc.name, tc.path, rule, tc.ok)
		}
	}
}
