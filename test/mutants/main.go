// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// limit is how long the test of one mutant may take.
const limit = 10 * time.Minute

func main() {
	only := flag.String("only", "", "a regular expression: the mutants to try, by name")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string) error {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tried, survived := 0, 0
	for _, m := range mutants {
		if !chosen.MatchString(m.name) {
			continue
		}
		tried++
		began := time.Now()
		verdict, err := m.try(ctx, root, dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if verdict == "" {
			survived++
			verdict = "SURVIVED: " + strings.Join(m.test, " ")
		}
		fmt.Printf("%-62s %5.0f s  %s\n", m.name, time.Since(began).Seconds(), verdict)
	}
	fmt.Printf("%d mutants, %d survived\n", tried, survived)
	switch {
	case tried == 0:
		return fmt.Errorf("-only %s: there is no such mutant", only)
	case survived > 0:
		return errors.New("some tests do not see that what they are there for is gone")
	}
	return nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module (run this inside it): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// try runs the test of a mutant, and returns the test that noticed; empty if none did. A mutant that does not
// compile is an error.
func (m *mutant) try(ctx context.Context, root, dir string) (noticed string, err error) {
	overlay, err := m.overlay(root, dir)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append([]string{"test", "-count=1", "-vet=off", "-failfast", "-timeout", limit.String()}, m.test...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Dir = root
	// Not as an argument: agents that a test builds are to be mutants too.
	cmd.Env = append(os.Environ(), strings.TrimSpace("GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay))
	out, err := cmd.CombinedOutput()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil:
		return "", nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case !errors.As(err, &exit):
		return "", err
	}
	if failed := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`).FindAllSubmatch(out, -1); len(failed) > 0 {
		return "noticed by " + string(failed[len(failed)-1][1]), nil
	}
	return "", fmt.Errorf("its test did not run:\n%s", out)
}

// overlay writes the changed file, and what tells the go command of it.
func (m *mutant) overlay(root, dir string) (string, error) {
	path := filepath.Join(root, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	changed, err := m.change(string(text))
	if err != nil {
		return "", err
	}
	copied, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(copied, []byte(changed), 0o600); err != nil {
		return "", err
	}
	b, err := json.Marshal(map[string]map[string]string{"Replace": {path: copied}})
	if err != nil {
		return "", err
	}
	return overlay, os.WriteFile(overlay, b, 0o600)
}

// change returns the text of the file with the promise taken out.
func (m *mutant) change(text string) (string, error) {
	if n := strings.Count(text, m.from); n != 1 {
		return "", fmt.Errorf("%s has %d times what is to be changed, want once: %q", m.file, n, m.from)
	}
	return strings.Replace(text, m.from, m.to, 1), nil
}
