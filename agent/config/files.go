// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// hasModes is false where files have no permission bits to check.
const hasModes = runtime.GOOS != "windows"

// tooOpen are the permissions that a secret must not give: anything to others, writing to the group.
const tooOpen = 0o027

// Files returns the names of all files that c names, sorted.
func (c *Config) Files() (list []string) {
	for _, path := range c.filePaths() {
		if *path != "" {
			list = append(list, *path)
		}
	}
	slices.Sort(list)
	return list
}

// filePaths returns the names of files in c, by key, for changing them in place.
func (c *Config) filePaths() map[string]*string {
	paths := map[string]*string{
		"tls.certificate": &c.TLS.Certificate,
		"tls.key":         &c.TLS.Key,
	}
	for i := range c.Providers {
		key := fmt.Sprintf("providers[%d].", i)
		paths[key+"client_secret_file"] = &c.Providers[i].ClientSecretFile
		paths[key+"ca_file"] = &c.Providers[i].CAFile
	}
	for i := range c.Machines {
		key := fmt.Sprintf("machines[%d].", i)
		paths[key+"jwks_file"], paths[key+"ca_file"] = &c.Machines[i].JWKSFile, &c.Machines[i].CAFile
	}
	for i := range c.Signals {
		key, s := fmt.Sprintf("signals[%d].", i), &c.Signals[i]
		paths[key+"token_file"], paths[key+"access_token_file"], paths[key+"ca_file"] = &s.TokenFile, &s.AccessTokenFile, &s.CAFile
		if s.Client != nil {
			paths[key+"client.secret_file"] = &s.Client.SecretFile
		}
	}
	for i := range c.SCIM {
		paths[fmt.Sprintf("scim[%d].token_file", i)] = &c.SCIM[i].TokenFile
	}
	for i := range c.Webhooks {
		paths[fmt.Sprintf("webhooks[%d].token_file", i)] = &c.Webhooks[i].TokenFile
	}
	for i := range c.Services {
		if u := c.Services[i].UpstreamTLS; u != nil {
			key := fmt.Sprintf("services[%d].upstream_tls.", i)
			paths[key+"ca"], paths[key+"certificate"], paths[key+"key"] = &u.CA, &u.Certificate, &u.Key
		}
		if o := c.Services[i].OPA; o != nil {
			key := fmt.Sprintf("services[%d].opa.", i)
			paths[key+"token_file"], paths[key+"ca_file"] = &o.TokenFile, &o.CAFile
		}
	}
	return paths
}

// resolve makes relative names of files absolute: they count from dir.
func (c *Config) resolve(dir string) {
	for _, p := range c.filePaths() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// checkFiles notes files that cannot be used, or that give secrets away.
func (d *document) checkFiles(c *Config, hooks Hooks) {
	d.checkPair("tls", c.TLS.Certificate, c.TLS.Key)
	for i, p := range c.Providers {
		key := fmt.Sprintf("providers[%d].", i)
		d.checkSecret(key+"client_secret_file", p.ClientSecretFile)
		d.checkCA(key+"ca_file", p.CAFile)
	}
	for i, m := range c.Machines {
		key := fmt.Sprintf("machines[%d].", i)
		d.checkKeysFile(key+"jwks_file", m.JWKSFile, hooks)
		d.checkCA(key+"ca_file", m.CAFile)
	}
	d.checkSignalFiles(c)
	for i, s := range c.Services {
		if u := s.UpstreamTLS; u != nil {
			key := fmt.Sprintf("services[%d].upstream_tls", i)
			d.checkCA(key+".ca", u.CA)
			d.checkPair(key, u.Certificate, u.Key)
		}
		d.checkOPAFiles(fmt.Sprintf("services[%d].opa", i), s.OPA)
	}
}

func (d *document) checkSecret(key, path string) {
	if b := d.readFile(key, path, true); b != nil && len(bytes.TrimSpace(b)) == 0 {
		d.wrong(key, path+" is empty", "put the client secret into it")
	}
}

func (d *document) checkCA(key, path string) {
	if b := d.readFile(key, path, false); b != nil && !x509.NewCertPool().AppendCertsFromPEM(b) {
		d.wrong(key, path+" has no certificate", "it must have one or more, in PEM")
	}
}

func (d *document) checkPair(key, certificate, private string) {
	cert := d.readFile(key+".certificate", certificate, false)
	priv := d.readFile(key+".key", private, true)
	if cert == nil || priv == nil {
		return
	}
	if _, err := tls.X509KeyPair(cert, priv); err != nil {
		d.wrong(key+".certificate", fmt.Sprintf("%s and %s do not work together", certificate, private), err.Error())
	}
}

// readFile returns the contents of a file, or nil if there is none to read or a problem was noted.
func (d *document) readFile(key, path string, secret bool) []byte {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		d.wrong(key, fmt.Sprintf("%s: %v", path, reason(err)), "relative names count from the directory of the configuration")
		return nil
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		d.wrong(key, fmt.Sprintf("%s: %v", path, reason(err)), "")
		return nil
	case !fi.Mode().IsRegular():
		d.wrong(key, path+" is not a regular file", "")
		return nil
	case secret && hasModes && fi.Mode().Perm()&tooOpen != 0:
		d.wrong(key, fmt.Sprintf("%s is a secret, but its mode is %04o", path, fi.Mode().Perm()), "run chmod 0600 "+path)
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		d.wrong(key, fmt.Sprintf("%s: %v", path, reason(err)), "")
		return nil
	}
	return b
}
