// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/test/harness"
)

// open goes to a page by the address bar.
func (d *devtools) open(t *testing.T, url string) {
	t.Helper()
	var went struct{ ErrorText string }
	d.must(t, "Page.navigate", map[string]any{"url": url}, &went)
	if went.ErrorText != "" {
		t.Fatalf("open %s: %s", url, went.ErrorText)
	}
}

// eval decodes what an expression of JavaScript is on the tab's page into result. The debugger
// runs it: no policy of the page keeps it out.
func (d *devtools) eval(expression string, result any) error {
	var said struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct{ Text string }
	}
	if err := d.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &said); err != nil {
		return err
	}
	if said.ExceptionDetails != nil {
		return fmt.Errorf("%s: %s", expression, said.ExceptionDetails.Text)
	}
	if said.Result.Value == nil {
		return fmt.Errorf("%s: no value", expression)
	}
	return json.Unmarshal(said.Result.Value, result)
}

// text waits until a page is there, and returns what a user reads on it.
func (d *devtools) text(t *testing.T, at *regexp.Regexp) string {
	t.Helper()
	var page struct{ URL, State, Text string }
	harness.Eventually(t, "a page at "+at.String(), func() error {
		err := d.eval("({url: location.href, state: document.readyState, text: document.body?.innerText ?? ''})", &page)
		if err == nil && (page.State != "complete" || !at.MatchString(page.URL)) {
			err = fmt.Errorf("it is %q", page)
		}
		return err
	})
	return page.Text
}

// click waits until something is shown, and clicks into its middle.
func (d *devtools) click(t *testing.T, selector string) {
	t.Helper()
	var at []float64
	harness.Eventually(t, selector+" to click", func() error {
		err := d.eval(fmt.Sprintf("(r => document.readyState == 'complete' && r ? [r.x+r.width/2, r.y+r.height/2] : [])(document.querySelector(%q)?.getBoundingClientRect())", selector), &at)
		if err == nil && len(at) != 2 {
			err = errors.New("it is not there")
		}
		return err
	})
	for _, what := range []string{"mousePressed", "mouseReleased"} {
		d.must(t, "Input.dispatchMouseEvent", map[string]any{"type": what, "x": at[0], "y": at[1], "button": "left", "clickCount": 1}, nil)
	}
}

// write clicks into a field and types, key by key.
func (d *devtools) write(t *testing.T, selector, text string) {
	t.Helper()
	d.click(t, selector)
	for _, key := range strings.Split(text, "") {
		d.must(t, "Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "text": key}, nil)
		d.must(t, "Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key}, nil)
	}
}

// screenshot takes a picture of the page in a colour scheme, light or dark, into a file of the
// test's artifacts, and returns what the file shows. A picture of nothing fails the test.
func (d *devtools) screenshot(t *testing.T, name, scheme string) image.Image {
	t.Helper()
	d.must(t, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	var shot struct{ Data []byte }
	d.must(t, "Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	path := filepath.Join(t.ArtifactDir(), name+"-"+scheme+".png")
	if err := os.WriteFile(path, shot.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	colours := map[color.Color]bool{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			colours[img.At(x, y)] = true
		}
	}
	if len(colours) < 8 { // smooth letters have shades
		t.Errorf("%s shows %d colours in %v", path, len(colours), img.Bounds())
	}
	return img
}
