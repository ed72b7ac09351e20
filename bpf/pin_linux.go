// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const bpffsPath = "/sys/fs/bpf"

// findBPFFS finds the BPF file system. `ip netns exec` hides it beneath a fresh /sys: then the one
// that process 1 sees is used, and as a last resort what the processes in view see.
func findBPFFS(view ...int) (string, error) {
	dirs := []string{bpffsPath, "/proc/1/root" + bpffsPath}
	for _, pid := range view {
		dirs = append([]string{fmt.Sprintf("/proc/%d/root%s", pid, bpffsPath)}, dirs...)
	}
	for _, dir := range dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no bpffs at %s: %w", bpffsPath, os.ErrNotExist)
}

// needBPFFS finds the BPF file system or mounts it. Two agents that start at once must not mount
// it over each other, which would hide the pins of one.
func needBPFFS() (string, error) {
	lock, err := os.Open(filepath.Dir(bpffsPath))
	if err != nil {
		return "", fmt.Errorf("mount bpffs: %w (hint: mount sysfs)", err)
	}
	defer func() { _ = lock.Close() }() // read only; drops the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("mount bpffs: lock: %w", err)
	}
	if dir, err := findBPFFS(); err == nil {
		return dir, nil
	}
	if err := unix.Mount("bpf", bpffsPath, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return "", fmt.Errorf("mount bpffs: %w (hint: mount -t bpf bpf %s)", err, bpffsPath)
	}
	return bpffsPath, nil
}

// pinDir is the directory of an instance's pins, locked for as long as the agent runs. The
// kernel drops the lock when the agent is killed; the pins stay.
type pinDir struct {
	path string
	lock *os.File
}

// takePinDir makes (or finds) and locks the directory of an instance.
func takePinDir(instance string) (*pinDir, error) {
	root, err := needBPFFS()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, "curfew", instance)
	for {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, hint("make pin directory", err)
		}
		d, err := lockPinDir(path)
		if !errors.Is(err, os.ErrNotExist) { // removed by its last owner meanwhile: again
			return d, err
		}
	}
}

func lockPinDir(path string) (*pinDir, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d := &pinDir{path: path, lock: f}
	if err := d.verify(); err != nil {
		_ = f.Close() // read only
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // read only
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrRunning)
		}
		return nil, fmt.Errorf("lock pin directory: %w", err)
	}
	held, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(held, there) {
		_ = f.Close() // read only
		return nil, os.ErrNotExist
	}
	return d, nil
}

// verify refuses a directory that somebody else could have filled.
func (d *pinDir) verify() error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.lock.Fd()), &st); err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	if st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 {
		return fmt.Errorf("pin directory %s: owner %d, mode %o; want root's, closed to others", d.path, st.Uid, st.Mode&0o777)
	}
	return nil
}

// recoverStale ends and destroys what a killed agent left under this name.
func (d *pinDir) recoverStale(instance string) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("read pin directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	old, err := openPinnedDir(d.path, instance)
	if err != nil {
		return err
	}
	defer func() { _ = old.Close() }() // descriptors only; the pins are removed below
	// First with a reset, so that peers learn of it; then again what a proxy that was still alive
	// may have opened before it was killed.
	if _, err := old.EndAll(); err != nil {
		return err
	}
	if err := old.killProcesses(); err != nil {
		return err
	}
	if _, err := old.EndAll(); err != nil {
		return err
	}
	return d.empty()
}

func (d *pinDir) empty() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("read pin directory: %w", err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(d.path, e.Name())); err != nil {
			return fmt.Errorf("remove pin: %w", err)
		}
	}
	return nil
}

// remove deletes the pins and the directory; the lock is held until unlock.
func (d *pinDir) remove() error {
	if err := d.empty(); err != nil {
		return err
	}
	if err := os.Remove(d.path); err != nil {
		return fmt.Errorf("remove pin directory: %w", err)
	}
	_ = os.Remove(filepath.Dir(d.path)) // fails while other instances are in it
	return nil
}

func (d *pinDir) unlock() error { return d.lock.Close() }
