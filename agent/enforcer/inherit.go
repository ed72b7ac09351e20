// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The proxy is born with these descriptors, in this order, behind standard input, output, error:
//
//	3     its end of the message pair
//	4..   the maps (for bpf.NewTagger), whose number is in CURFEW_MAPS: sessions, socks, conns,
//	      labels, gate_stats; none with Config.Userspace
//	then  the files of Config.Files, whose names are in CURFEW_FILES
const (
	firstFD  = 3
	mapsVar  = "CURFEW_MAPS"
	filesVar = "CURFEW_FILES"
)

// File is an open file handed to the proxy under a name without commas. Not a listener: the gate
// does not see what is accepted from a socket that was made outside the gated cgroup.
type File struct {
	Name string
	File *os.File
}

// Inherited is what the proxy is born with. Its owner closes the files.
type Inherited struct {
	Pair  *os.File   // for NewClient
	Maps  []*os.File // for bpf.NewTagger; empty where enforcement is in user space
	Files []File
}

// Inherit collects the descriptors that the enforcer handed to this process, once. It fails if
// this process was not started by an enforcer.
func Inherit() (Inherited, error) {
	list, ok := os.LookupEnv(filesVar)
	if !ok {
		return Inherited{}, fmt.Errorf("%s is not set: not started by the enforcer", filesVar)
	}
	mapCount, err := strconv.Atoi(os.Getenv(mapsVar))
	if err != nil || mapCount < 0 {
		return Inherited{}, fmt.Errorf("%s is %q: not started by the enforcer", mapsVar, os.Getenv(mapsVar))
	}
	if err := errors.Join(os.Unsetenv(filesVar), os.Unsetenv(mapsVar)); err != nil {
		return Inherited{}, fmt.Errorf("inherit: %w", err)
	}
	var names []string
	if list != "" {
		names = strings.Split(list, ",")
	}
	for fd := firstFD; fd < firstFD+1+mapCount+len(names); fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return Inherited{}, fmt.Errorf("inherited descriptor %d: %w", fd, err)
		}
	}
	in := Inherited{Pair: os.NewFile(firstFD, "pair")}
	for i := range mapCount {
		in.Maps = append(in.Maps, os.NewFile(uintptr(firstFD+1+i), "map"))
	}
	for i, name := range names {
		in.Files = append(in.Files, File{Name: name, File: os.NewFile(uintptr(firstFD+1+mapCount+i), name)})
	}
	return in, nil
}
