// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a configuration.
type Problem struct {
	File         string // as it was given; empty if the configuration is not from a file
	Line, Column int    // from 1, columns count characters; 0 if unknown
	Key          string // such as services[0].listen[1]; empty if it is about the file
	Message      string // what is wrong
	Hint         string // what would be right
	Excerpt      string // the lines around it with a mark below; empty if unknown
}

// Error is one line: file:line:column: key: message; hint.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return b.String()
}

// Problems is everything that is wrong with a configuration, in the order of the file. It is
// never empty.
type Problems []*Problem

// Error lists the problems, each with its excerpt.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Error())
		if p.Excerpt != "" {
			b.WriteByte('\n')
			b.WriteString(p.Excerpt)
		}
	}
	return b.String()
}

// Unwrap lets errors.As find each *Problem.
func (ps Problems) Unwrap() []error {
	errs := make([]error, len(ps))
	for i, p := range ps {
		errs[i] = p
	}
	return errs
}

// sorted returns ps as an error in the order of the file, or nil if there are none.
func (ps Problems) sorted() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return ps
}

// excerpt shows the line and the one before it, with a caret below the column.
func excerpt(lines []string, line, column int) string {
	if line < 1 || line > len(lines) {
		return ""
	}
	var b strings.Builder
	for n := max(line-1, 1); n <= line; n++ {
		if n < line && strings.TrimSpace(lines[n-1]) == "" {
			continue
		}
		fmt.Fprintf(&b, "%5d | %s\n", n, printable(lines[n-1]))
	}
	b.WriteString("      | ")
	for i, r := range []rune(lines[line-1]) {
		if i+1 >= column {
			break
		}
		if r != '\t' { // a tab stays one, so that the caret stands below its character
			r = ' '
		}
		b.WriteRune(r)
	}
	b.WriteByte('^')
	return b.String()
}

// printable keeps a file's control characters from reaching a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < 0x20 || r >= 0x7f && r < 0xa0) {
			return '\uFFFD'
		}
		return r
	}, s)
}
