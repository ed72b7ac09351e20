// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// checkPages reads the pages of a bbolt file, without mapping it, and returns an error if one
// points outside the file or is pointed to twice. bbolt's own check follows such a pointer in a
// goroutine of its own, where a fault cannot be caught: it would take the process down. What is
// left to bbolt's check (the order of keys, pages that nothing uses) cannot.
//
// The format is that of bbolt's internal/common: page.go, meta.go, bucket.go. Numbers are in the
// byte order of the host.
func checkPages(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	c := pageChecker{file: f, seen: map[uint64]bool{}}
	m, err := c.readMeta(info.Size())
	if err != nil {
		return err
	}
	if err := c.checkFreelist(m.freelist); err != nil {
		return err
	}
	return c.checkTree(m.root)
}

const (
	pageHeader  = 16
	elementSize = 16 // of branch and leaf elements, and of the header of a nested bucket

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of a leaf element

	metaMagic    = 0xED0CDAED
	noFreelist   = ^uint64(0)
	manyFree     = 0xFFFF // the count is in the first entry then
	smallestPage = 1024
	largestPage  = 1 << 16
)

var order = binary.NativeEndian

type pageChecker struct {
	file     io.ReaderAt
	pageSize int64
	pages    uint64 // number of pages in use; every page below it is in the file
	seen     map[uint64]bool
}

type dbMeta struct {
	pageSize              int64
	root, freelist, pages uint64
	tx                    uint64
}

// readMeta takes the newer of the two meta pages, as bbolt does.
func (c *pageChecker) readMeta(size int64) (dbMeta, error) {
	first, ok := parseMeta(c.file, 0)
	pageSize := first.pageSize
	if !ok {
		pageSize = int64(os.Getpagesize())
	}
	if second, valid := parseMeta(c.file, pageSize); valid && (!ok || second.tx > first.tx) {
		first, ok = second, true
	}
	if !ok {
		return dbMeta{}, errors.New("neither meta page is valid")
	}
	if first.pageSize < smallestPage || first.pageSize > largestPage {
		return dbMeta{}, fmt.Errorf("page size %d", first.pageSize)
	}
	c.pageSize, c.pages = first.pageSize, first.pages
	if have := uint64(size / c.pageSize); have < c.pages {
		return dbMeta{}, fmt.Errorf("the file holds %d pages of %d", have, c.pages)
	}
	return first, nil
}

func parseMeta(file io.ReaderAt, at int64) (dbMeta, bool) {
	b := make([]byte, pageHeader+64)
	if _, err := file.ReadAt(b, at); err != nil {
		return dbMeta{}, false
	}
	b = b[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:56]) // a hash takes everything
	m := dbMeta{pageSize: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]),
		pages: order.Uint64(b[40:]), tx: order.Uint64(b[48:])}
	return m, order.Uint32(b) == metaMagic && order.Uint64(b[56:]) == sum.Sum64()
}

// page reads page id with its overflow, and marks all of it as seen.
func (c *pageChecker) page(id uint64) ([]byte, error) {
	header := make([]byte, pageHeader)
	if id < 2 || id >= c.pages {
		return nil, fmt.Errorf("a pointer to page %d of %d", id, c.pages)
	}
	if _, err := c.file.ReadAt(header, int64(id)*c.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	overflow := uint64(order.Uint32(header[12:]))
	if have := order.Uint64(header); have != id || overflow >= c.pages-id {
		return nil, fmt.Errorf("page %d says that it is page %d and %d more", id, have, overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if c.seen[i] {
			return nil, fmt.Errorf("page %d is pointed to twice", i)
		}
		c.seen[i] = true
	}
	b := make([]byte, int64(overflow+1)*c.pageSize)
	if _, err := c.file.ReadAt(b, int64(id)*c.pageSize); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

func (c *pageChecker) checkFreelist(id uint64) error {
	if id == noFreelist {
		return nil
	}
	b, err := c.page(id)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	count, entries := uint64(order.Uint16(b[10:])), b[pageHeader:]
	if count == manyFree {
		count, entries = order.Uint64(entries), entries[8:]
	}
	if order.Uint16(b[8:]) != flagFreelist || count > uint64(len(entries)/8) {
		return fmt.Errorf("page %d is no list of %d free pages", id, count)
	}
	for i := range count {
		if free := order.Uint64(entries[i*8:]); free < 2 || free >= c.pages {
			return fmt.Errorf("list of free pages: page %d of %d", free, c.pages)
		}
	}
	return nil
}

// checkTree walks the pages below id. It ends: no page is taken twice.
func (c *pageChecker) checkTree(id uint64) error {
	for todo := []uint64{id}; len(todo) > 0; {
		id, todo = todo[len(todo)-1], todo[:len(todo)-1]
		b, err := c.page(id)
		if err != nil {
			return err
		}
		below, err := pointers(b)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		todo = append(todo, below...)
	}
	return nil
}

// pointers returns the pages that the elements of a branch or leaf page point to.
func pointers(b []byte) ([]uint64, error) {
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	if flags != flagBranch && flags != flagLeaf {
		return nil, fmt.Errorf("type %#x", flags)
	}
	if flags == flagBranch && count == 0 {
		return nil, errors.New("an empty branch")
	}
	if pageHeader+count*elementSize > len(b) {
		return nil, fmt.Errorf("%d elements do not fit", count)
	}
	var below []uint64
	for i := range count {
		e := b[pageHeader+i*elementSize:]
		if flags == flagBranch {
			if _, err := slice(e, order.Uint32(e), order.Uint32(e[4:])); err != nil {
				return nil, err
			}
			below = append(below, order.Uint64(e[8:]))
			continue
		}
		nested, err := leafPointers(e)
		if err != nil {
			return nil, err
		}
		below = append(below, nested...)
	}
	return below, nil
}

// leafPointers returns the root of a nested bucket, or what its inline page points to.
func leafPointers(e []byte) ([]uint64, error) {
	pos, ksize, vsize := order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
	if _, err := slice(e, pos, ksize); err != nil {
		return nil, err
	}
	value, err := slice(e, pos+ksize, vsize)
	if err != nil || order.Uint32(e)&flagBucket == 0 {
		return nil, err
	}
	if len(value) < elementSize {
		return nil, errors.New("a bucket that is too short")
	}
	if root := order.Uint64(value); root != 0 {
		return []uint64{root}, nil
	}
	inline := value[elementSize:]
	if len(inline) < pageHeader {
		return nil, errors.New("an inline bucket that is too short")
	}
	return pointers(inline)
}

// slice returns the n bytes of a page at pos after the element that the slice e begins with.
func slice(e []byte, pos, n uint32) ([]byte, error) {
	if end := uint64(pos) + uint64(n); end > uint64(len(e)) {
		return nil, fmt.Errorf("an element that ends %d bytes after the page", end-uint64(len(e)))
	}
	return e[pos : pos+n], nil
}
