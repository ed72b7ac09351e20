// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// built is where the program is; empty until it is built. Main removes it.
var built string

// Main runs the tests of a package that uses Binary: call it from TestMain. It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if built != "" {
		if err := os.RemoveAll(built); err != nil {
			fmt.Fprintln(os.Stderr, "remove the program that was tested:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "curfew-build-")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "curfew")
	cmd := exec.Command("go", "build", "-o", path, "github.com/curfew-proxy/curfew/cmd/curfew")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, os.Chmod(dir, 0o755)
})

// Binary is the built program, shared by the tests of a process.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
