// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scale

func (r *rig) measureActivity()  {}
func (r *rig) measureKills()     {}
func (r *rig) measureGroupKill() {}
func (r *rig) measureRestart()   {}
func (r *rig) measureRejoin()    {}
