// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"time"
)

// pki is one CA with a certificate for the servers and one for the clients. The peers verify
// clients against it.
type pki struct {
	caFile, serverCert, serverKey string
	serverBoth                    string // certificate and key in one file, as HAProxy wants it
	client                        tls.Certificate
}

func newPKI(dir string) (*pki, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := template(1, "bench CA")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, err
	}
	issue := func(serial int64, name string) (certPEM, keyPEM []byte, err error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		der, err := x509.CreateCertificate(rand.Reader, template(serial, name), ca, &key.PublicKey, caKey)
		if err != nil {
			return nil, nil, err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8), err
	}
	serverCert, serverKey, err := issue(2, "server")
	if err != nil {
		return nil, err
	}
	clientCert, clientKey, err := issue(3, "client")
	if err != nil {
		return nil, err
	}
	p := &pki{}
	if p.client, err = tls.X509KeyPair(clientCert, clientKey); err != nil {
		return nil, err
	}
	return p, p.write(dir, map[*string][]byte{
		&p.caFile:     encode("CERTIFICATE", caDER),
		&p.serverCert: serverCert,
		&p.serverKey:  serverKey,
		&p.serverBoth: append(serverCert, serverKey...),
	})
}

// write stores files in dir and sets their paths.
func (p *pki) write(dir string, files map[*string][]byte) error {
	for path, text := range files {
		f, err := os.CreateTemp(dir, "*.pem")
		if err != nil {
			return err
		}
		*path = f.Name()
		_, err = f.Write(text)
		if err := errors.Join(err, f.Chmod(0o600), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func template(serial int64, name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func encode(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

// clientConfig offers the same to every subject: one key exchange that all of them know, and
// AES-128-GCM, which the peers are configured to and Go prefers.
func (p *pki) clientConfig() *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{p.client},
		InsecureSkipVerify:          true, // the servers are not what is measured here
		MinVersion:                  tls.VersionTLS13,
		CurvePreferences:            []tls.CurveID{tls.X25519},
		DynamicRecordSizingDisabled: true,
	}
}
