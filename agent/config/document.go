// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// document is a file while it is read: its text, where each key was said, and what is wrong.
// A configuration that was made by a program has an empty document.
type document struct {
	file     string
	lines    []string
	keys     map[string]*token.Token // where the key (or the item of a list) stands, by path
	values   map[string]ast.Node
	bad      map[string]bool // keys that a problem was noted for: one mistake is told once
	misspelt map[string]bool // keys that are not missing, but were not recognised
	problems Problems
}

// lineBreaks turns all that YAML takes for the end of a line into one thing, so that lines are
// counted in one way.
var lineBreaks = strings.NewReplacer("\r\n", "\n", "\r", "\n")

func newDocument(file string, text string) *document {
	return &document{
		file:   file,
		lines:  strings.Split(lineBreaks.Replace(text), "\n"),
		keys:   map[string]*token.Token{},
		values: map[string]ast.Node{},
		bad:    map[string]bool{},

		misspelt: map[string]bool{},
	}
}

// parse returns the top of the one YAML document in the file, or nil with a problem noted.
func (d *document) parse() ast.Node {
	f, err := parser.ParseBytes([]byte(strings.Join(d.lines, "\n")), 0, parser.AllowDuplicateMapKey()) // decode finds duplicates, all of them
	if err != nil {
		var syntax yaml.Error
		p := &Problem{Message: err.Error()}
		if errors.As(err, &syntax) {
			p.Message = syntax.GetMessage()
			p.Line, p.Column = position(syntax.GetToken())
		}
		if p.Line > 0 && p.Line <= len(d.lines) && strings.Contains(d.lines[p.Line-1], "[::") {
			p.Hint = `an IPv6 address needs quotes: "[::]:8443"`
		}
		d.note(p)
		return nil
	}
	var docs []*ast.DocumentNode
	for _, doc := range f.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			docs = append(docs, doc)
		}
	}
	switch {
	case len(docs) == 0:
		d.note(&Problem{Message: "the file says nothing", Hint: "a configuration needs at least one service"})
		return nil
	case len(docs) > 1:
		line, column := position(scalarToken(docs[1].Body))
		d.note(&Problem{Line: line, Column: column, Message: "a second YAML document begins here", Hint: "put everything into one, without ---"})
		return nil
	}
	return docs[0].Body
}

func position(t *token.Token) (line, column int) {
	if t == nil || t.Position == nil {
		return 0, 0
	}
	return t.Position.Line, t.Position.Column
}

// note adds a problem whose position is known or not to be had.
func (d *document) note(p *Problem) {
	p.File = d.file
	p.Excerpt = excerpt(d.lines, p.Line, p.Column)
	d.problems = append(d.problems, p)
}

// wrong notes that the value at key is wrong, unless it is known to be, or what it is part of.
func (d *document) wrong(key, message, hint string) {
	line, column := d.whereValue(key)
	d.wrongAt(line, column, key, message, hint)
}

// wrongKey is wrong, but points at the key and not at its value.
func (d *document) wrongKey(key, message, hint string) {
	line, column := d.whereKey(key)
	d.wrongAt(line, column, key, message, hint)
}

func (d *document) wrongAt(line, column int, key, message, hint string) {
	for k := key; k != ""; k = parent(k) {
		if d.bad[k] {
			return
		}
	}
	d.bad[key] = true
	d.note(&Problem{Line: line, Column: column, Key: key, Message: message, Hint: hint})
}

func (d *document) whereValue(key string) (line, column int) {
	if n := d.values[key]; n != nil {
		return position(scalarToken(n))
	}
	return d.whereKey(key)
}

// whereKey finds the key, or the nearest one above it that the file has.
func (d *document) whereKey(key string) (line, column int) {
	for ; key != ""; key = parent(key) {
		if t := d.keys[key]; t != nil {
			return position(t)
		}
	}
	return 0, 0
}

// parent cuts the last element off a path: services[0].listen[1], services[0].listen, services[0].
func parent(key string) string {
	return key[:max(strings.LastIndexAny(key, ".["), 0)]
}

// scalarToken is the token at which a value begins.
func scalarToken(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Start
	case *ast.MappingNode:
		if len(n.Values) > 0 {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return n.GetToken()
}
