// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// TLSVersion is a protocol version of TLS, as crypto/tls numbers them. In a file: "1.2" or "1.3".
type TLSVersion uint16

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *TLSVersion) UnmarshalText(b []byte) error {
	switch string(b) {
	case "1.2":
		*v = tls.VersionTLS12
	case "1.3":
		*v = tls.VersionTLS13
	default:
		return errors.New("no such version of TLS")
	}
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (v TLSVersion) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

func (v TLSVersion) String() string {
	return strings.TrimPrefix(tls.VersionName(uint16(v)), "TLS ")
}

// wants says, by type, what a value should look like.
var wants = map[reflect.Type]string{
	reflect.TypeFor[netip.AddrPort](): "an IP address and a port",
	reflect.TypeFor[TLSVersion]():     `"1.3" or "1.2"`,
	durationType:                      "a duration such as 30s, 15m or 12h",
	reflect.TypeFor[string]():         "text",
	reflect.TypeFor[bool]():           "true or false",
	reflect.TypeFor[int]():            "a whole number",
}

func (d *document) decodeScalar(key string, n ast.Node, v reflect.Value) {
	text, ok := scalarText(n)
	if !ok {
		d.wrong(key, fmt.Sprintf("want %s, have %s", wants[v.Type()], describe(n)), "")
		return
	}
	var hint string
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		hint, ok = decodeDuration(text, p)
	case encoding.TextUnmarshaler:
		ok = p.UnmarshalText([]byte(text)) == nil
		if _, isAddr := p.(*netip.AddrPort); isAddr && !ok {
			hint = addressHint(text)
		}
	case *string:
		*p = text
		if ok = n.Type() == ast.StringType || n.Type() == ast.LiteralType; !ok {
			hint = fmt.Sprintf("write it in quotes: %q", text)
		}
	case *bool:
		var b *ast.BoolNode
		if b, ok = n.(*ast.BoolNode); ok {
			*p = b.Value
		}
	case *int:
		var err error
		*p, err = strconv.Atoi(text)
		ok = err == nil && n.Type() == ast.IntegerType
	}
	if !ok {
		d.wrong(key, fmt.Sprintf("want %s, have %q", wants[v.Type()], text), hint)
	}
}

// scalarText is the value as it was written, without quotes.
func scalarText(n ast.Node) (string, bool) {
	if l, ok := n.(*ast.LiteralNode); ok {
		return l.Value.Value, true
	}
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value, true
	}
	return n.GetToken().Value, isScalarNode(n)
}

func decodeDuration(text string, into *time.Duration) (hint string, ok bool) {
	v, err := time.ParseDuration(text)
	if err == nil {
		*into = v
		if v < 0 {
			return "it cannot be negative", false
		}
		return "", true
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return fmt.Sprintf("it needs a unit: %ss or %sm?", text, text), false
	}
	if days, found := strings.CutSuffix(text, "d"); found {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100_000 {
			return fmt.Sprintf("in hours: %dh", n*24), false
		}
	}
	return "", false
}

// addressHint says how the address was probably meant.
func addressHint(text string) string {
	if port, found := strings.CutPrefix(text, ":"); found {
		return fmt.Sprintf("for every address write 0.0.0.0:%s or \"[::]:%s\"", port, port)
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return fmt.Sprintf("the port is missing: %q?", netip.AddrPortFrom(a, 8443))
	}
	if i := strings.LastIndexByte(text, ':'); i > 0 {
		if n, err := strconv.Atoi(text[i+1:]); err == nil && (n < 0 || n > 65535) {
			return "ports end at 65535"
		}
		if _, err := netip.ParseAddr(text[:i]); err != nil {
			return "it must be an address of this host, not a name: 0.0.0.0" + text[i:]
		}
	}
	return "for example 0.0.0.0:8443"
}
