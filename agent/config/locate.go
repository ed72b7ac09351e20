// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// locate finds where in the file a position within a text value stands: line and column count
// from 1 within the value, as its author's tools (a CEL compiler) see it. When quoting or folding
// makes that impossible it answers with the beginning of the value.
func (d *document) locate(key string, line, column int) (int, int) {
	n := d.values[key]
	if n == nil {
		return d.whereKey(key)
	}
	startLine, startColumn := d.whereValue(key)
	value, ok := scalarText(n)
	if !ok || startLine < 1 || startLine > len(d.lines) {
		return startLine, startColumn
	}
	if n.Type() == ast.LiteralType { // | or >: the text begins in the next line
		startLine, startColumn = startLine+1, 1
		if startLine > len(d.lines) {
			return startLine - 1, 1
		}
	}
	w := &walker{src: []rune(strings.Join(d.lines[startLine-1:], "\n")), pos: startColumn - 1}
	if c := w.at(0); n.Type() != ast.LiteralType && (c == '"' || c == '\'') {
		w.quote = c
		w.pos++
	}
	if !w.walk([]rune(value), runeIndex(value, line, column)) {
		return d.whereValue(key)
	}
	before := string(w.src[:w.pos])
	lastBreak := strings.LastIndexByte(before, '\n')
	return startLine + strings.Count(before, "\n"), len([]rune(before[lastBreak+1:])) + 1
}

// runeIndex is the index of the character at line and column, or the length of s.
func runeIndex(s string, line, column int) int {
	i := 0
	for _, r := range s {
		if line <= 1 && column <= 1 {
			break
		}
		i++
		if line <= 1 {
			column--
		}
		if r == '\n' {
			line--
		}
	}
	return i
}

// walker goes through the source of a value and the value in lockstep.
type walker struct {
	src   []rune
	pos   int
	quote rune // ' or ", or 0 for a plain or block text
}

func (w *walker) at(ahead int) rune {
	if i := w.pos + ahead; i < len(w.src) {
		return w.src[i]
	}
	return 0
}

// walk moves pos to where the character of value with index target was written. It is false if
// source and value do not match.
func (w *walker) walk(value []rune, target int) bool {
	for _, r := range value[:min(target, len(value))] {
		if !w.step(r) {
			return false
		}
	}
	if target < len(value) && !unicode.IsSpace(value[target]) {
		w.skipSpace()
	}
	return w.pos <= len(w.src)
}

func (w *walker) step(r rune) bool {
	if !unicode.IsSpace(r) {
		w.skipSpace() // indentation is not part of the value
	}
	switch c := w.at(0); {
	case c == r && c == w.quote && w.quote == '\'' && w.at(1) == '\'':
		w.pos += 2
	case c == '\\' && w.quote == '"':
		if w.at(1) != r { // only \" and \\ stand for one character that can be seen
			return false
		}
		w.pos += 2
	case c == r && c != 0:
		w.pos++
	case unicode.IsSpace(r) && unicode.IsSpace(c): // a folded line break
		w.skipSpace()
	case unicode.IsSpace(r): // a blank that folding has eaten already
	default:
		return false
	}
	return true
}

func (w *walker) skipSpace() {
	for unicode.IsSpace(w.at(0)) {
		w.pos++
	}
}
