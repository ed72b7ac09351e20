// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Command is a command to run with a tunnel.
type Command struct {
	Args     []string // {host} and {port} in them become where the tunnel listens
	Stdin    io.Reader
	Out, Err io.Writer
}

// CommandError is the exit status of a command that did not succeed.
type CommandError struct{ Code int }

func (e *CommandError) Error() string { return fmt.Sprintf("the command ended with status %d", e.Code) }

// ExitCode returns the command's exit status.
func (e *CommandError) ExitCode() int { return e.Code }

// Run runs a command with the tunnel at a port of its own on loopback, which it finds in its
// arguments and in CURFEW_HOST and CURFEW_PORT. It passes signals on and returns when the command
// has ended: nil, a *CommandError, or, if the session ended meanwhile and the command did not
// succeed, an *EndedError.
func (t *Tunnel) Run(ctx context.Context, c Command) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() {
		err := t.Serve(serving, l)
		if ended := new(EndedError); errors.As(err, &ended) {
			t.say(ended) // now, not when the command gets around to it
		}
		served <- err
	}()
	err = c.run(ctx, l.Addr().(*net.TCPAddr))
	stop()
	if serveErr := <-served; serveErr != nil && err != nil {
		return serveErr
	}
	return err
}

func (c Command) run(ctx context.Context, at *net.TCPAddr) error {
	host, port := at.IP.String(), fmt.Sprint(at.Port)
	fill := strings.NewReplacer("{host}", host, "{port}", port)
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = fill.Replace(a)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Out, c.Err
	cmd.Env = append(os.Environ(), "CURFEW_HOST="+host, "CURFEW_PORT="+port)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return &api.Error{Code: api.CodeBadRequest, Cause: err, Message: fmt.Sprintf("run %s: %v", args[0], err),
			Hint: "everything after -- is the command"}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if !sentByTerminal(s) {
				_ = cmd.Process.Signal(s) // it may have ended just now
			}
		case err := <-ended:
			return exitOf(err)
		}
	}
}

func exitOf(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &CommandError{Code: exitCode(exit.ProcessState)}
	}
	return err
}

// sentByTerminal guesses whether the command has had the signal too: a terminal sends what its
// keys mean to all processes in front of it.
func sentByTerminal(s os.Signal) bool {
	info, err := os.Stdin.Stat()
	return s != terminate && err == nil && info.Mode()&os.ModeCharDevice != 0
}
