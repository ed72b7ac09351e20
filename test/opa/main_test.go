// SPDX-License-Identifier: Apache-2.0

package opa_test

import (
	"testing"

	"github.com/curfew-proxy/curfew/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
