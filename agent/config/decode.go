// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// defaulter is an element of a list, or a part that may be left out, that has defaults.
type defaulter interface{ setDefaults() }

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// decode fills v, which the tree at n describes. It notes every mistake and goes on.
func (d *document) decode(key string, n ast.Node, v reflect.Value) {
	if key != "" {
		d.values[key] = n
	}
	if refuseFancy(d, key, n) {
		return
	}
	switch t := v.Type(); {
	case t == durationType, reflect.PointerTo(t).Implements(textType), isScalarKind(t.Kind()):
		d.decodeScalar(key, n, v)
	case t.Kind() == reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		if def, ok := v.Interface().(defaulter); ok {
			def.setDefaults()
		}
		d.decode(key, n, v.Elem())
	case t.Kind() == reflect.Slice:
		d.decodeList(key, n, v)
	case t.Kind() == reflect.Struct:
		d.decodeMap(key, n, v)
	default:
		panic(fmt.Sprintf("config: %s has type %s, which the schema does not know", key, t))
	}
}

func isScalarKind(k reflect.Kind) bool {
	return k == reflect.String || k == reflect.Bool || k == reflect.Int
}

// refuseFancy keeps YAML's indirections out: what decides who may pass should be readable where
// it stands.
func refuseFancy(d *document, key string, n ast.Node) bool {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		d.wrong(key, "anchors and aliases are not understood", "write the value out")
	case *ast.TagNode:
		d.wrong(key, "tags are not understood", "leave it out")
	case *ast.NullNode:
		d.wrong(key, "there is no value", "give one or delete the line")
	default:
		return false
	}
	return true
}

func (d *document) decodeMap(key string, n ast.Node, v reflect.Value) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.wrong(key, "want keys and values, have "+describe(n), "for example: "+exampleKey(v.Type())+": ...")
		return
	}
	fields := fieldsOf(v.Type())
	for it := m.MapRange(); it.Next(); {
		name := it.Key().GetToken().Value
		child := join(key, name)
		field, known := fields[name]
		_, plain := it.Key().(*ast.StringNode)
		switch {
		case !plain || !known:
			d.unknownKey(child, it.Key(), name, v.Type())
		case d.keys[child] != nil:
			line, column := position(it.Key().GetToken())
			first, _ := position(d.keys[child])
			d.note(&Problem{Line: line, Column: column, Key: child, Hint: "keep one of them",
				Message: fmt.Sprintf("this key is said twice, first in line %d", first)})
		default:
			d.keys[child] = it.Key().GetToken()
			d.decode(child, it.Value(), v.Field(field))
		}
	}
}

func (d *document) unknownKey(key string, n ast.Node, name string, t reflect.Type) {
	line, column := position(n.GetToken())
	p := &Problem{Line: line, Column: column, Key: key, Message: "unknown key"}
	names := keysOf(t)
	if s := suggest(name, names); s != "" {
		p.Hint = fmt.Sprintf("did you mean %q?", s)
		d.misspelt[join(parent(key), s)] = true
	} else {
		p.Hint = "known here are " + strings.Join(names, ", ")
	}
	d.note(p)
}

func (d *document) decodeList(key string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		hint := "write each item on a line of its own after a dash"
		if isScalarNode(n) {
			hint = fmt.Sprintf("write [%s]", n.GetToken().Value)
		}
		d.wrong(key, "want a list, have "+describe(n), hint)
		return
	}
	list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		child := fmt.Sprintf("%s[%d]", key, i)
		if item == nil {
			d.wrong(key, "an item of the list is empty", "delete its line")
			continue
		}
		d.keys[child] = scalarToken(item)
		if def, ok := list.Index(i).Addr().Interface().(defaulter); ok {
			def.setDefaults()
		}
		d.decode(child, item, list.Index(i))
	}
	v.Set(list)
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// fieldsOf maps the keys of a struct to its fields.
func fieldsOf(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		fields[t.Field(i).Tag.Get("yaml")] = i
	}
	return fields
}

// keysOf lists the keys of a struct in the order of the schema.
func keysOf(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i] = t.Field(i).Tag.Get("yaml")
	}
	return keys
}

func exampleKey(t reflect.Type) string { return t.Field(0).Tag.Get("yaml") }

func isScalarNode(n ast.Node) bool {
	switch n.Type() {
	case ast.StringType, ast.IntegerType, ast.FloatType, ast.BoolType, ast.InfinityType, ast.NanType:
		return true
	}
	return false
}

// describe says what a node is in the words of the person who wrote it.
func describe(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "keys and values"
	case ast.SequenceType:
		return "a list"
	case ast.BoolType:
		return "the truth value " + n.GetToken().Value
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "the number " + n.GetToken().Value
	}
	return "text"
}
