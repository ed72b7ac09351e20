// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"os/exec"
	"runtime"
)

// OpenBrowser shows a page in the user's browser, by the means of the operating system. It
// returns without waiting for the browser.
func OpenBrowser(url string) error {
	var argv []string
	switch runtime.GOOS {
	case "darwin":
		argv = []string{"open", url}
	case "windows":
		argv = []string{"rundll32", "url.dll,FileProtocolHandler", url}
	default:
		argv = []string{"xdg-open", url}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("open browser: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaps the child; it ends by itself and its status says little
	return nil
}
