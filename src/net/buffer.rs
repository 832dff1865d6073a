//! Buffers from a pool of this core: taken when there are bytes to hold, given back when dropped.
//!
//! A buffer that an operation of the kernel still uses is not given back but freed when that
//! operation ends: the pool never holds memory the kernel may write to.
use std::cell::{Cell, RefCell};
use std::ops::Deref;

use bytes::Bytes;

/// Holds a usual head, or an event of a stream.
pub const SMALL_BYTES: usize = 16 << 10;
/// Holds a piece of a large body; four TLS records.
pub const LARGE_BYTES: usize = 64 << 10;
/// Holds a piece of a bulk transfer: fewer, larger reads and writes cost less.
pub const BULK_BYTES: usize = 256 << 10;

/// Bytes of free buffers kept by a core, of each size.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Bytes of large buffers that a core lends for passing bytes on: thousands of clients that stop
/// reading in the middle of something large must not make it hold more.
const LENT_BYTES_MAX: usize = 64 << 20;

thread_local! {
    static LENT_BYTES: Cell<usize> = const { Cell::new(0) };
    static POOL: RefCell<[Shelf; 3]> = const {
        RefCell::new([Shelf::of(SMALL_BYTES), Shelf::of(LARGE_BYTES), Shelf::of(BULK_BYTES)])
    };
}

/// Free buffers of one size.
struct Shelf {
    size: usize,
    free: Vec<Vec<u8>>,
    /// As many as nobody has needed since the last [`trim`].
    unused: usize,
}

impl Shelf {
    const fn of(size: usize) -> Self {
        Self {
            size,
            free: Vec::new(),
            unused: 0,
        }
    }

    fn take(&mut self) -> Vec<u8> {
        let taken = self.free.pop();
        self.unused = self.unused.min(self.free.len());
        taken.unwrap_or_else(|| Vec::with_capacity(self.size))
    }
}

/// Frees half of the buffers that nobody has needed since the last time. To be called now and then.
pub fn trim() {
    POOL.with_borrow_mut(|pool| {
        for shelf in pool {
            shelf.free.drain(..shelf.unused.div_ceil(2)); // the last ones are the warm ones
            shelf.unused = shelf.free.len();
        }
    });
}

/// Bytes received or to be sent, consumed from the front and filled at the back.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    /// What it counts for in `LENT_BYTES`.
    lent: usize,
}

impl Buffer {
    /// A buffer that holds no memory until it is written to or replaced.
    pub const fn empty() -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            lent: 0,
        }
    }

    /// A buffer of [`SMALL_BYTES`].
    pub fn small() -> Self {
        Self::pooled(0)
    }

    /// A buffer of [`LARGE_BYTES`].
    pub fn large() -> Self {
        Self::pooled(1)
    }

    /// A buffer for passing `bytes` on: the smallest that has room for them, of [`BULK_BYTES`] at most;
    /// a small one where the larger ones lent so are many already.
    pub fn for_bytes(bytes: usize) -> Self {
        let (shelf, size) = match bytes > LARGE_BYTES {
            true => (2, BULK_BYTES),
            false => (1, LARGE_BYTES),
        };
        let lent = LENT_BYTES.get() + size;
        if bytes <= SMALL_BYTES || lent > LENT_BYTES_MAX {
            return Self::small();
        }
        LENT_BYTES.set(lent);
        let mut buffer = Self::pooled(shelf);
        buffer.lent = size;
        buffer
    }

    fn pooled(shelf: usize) -> Self {
        Self {
            bytes: POOL.with_borrow_mut(|pool| pool[shelf].take()),
            start: 0,
            lent: 0,
        }
    }

    /// Bytes that still fit behind those held.
    pub fn spare(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Drops the first `count` bytes held; all of them where there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    /// Keeps the first `count` bytes held.
    pub fn truncate(&mut self, count: usize) {
        self.bytes.truncate(self.start + count);
    }

    /// Drops all bytes held.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Moves the bytes held to the front and makes room for `more` behind them, growing if it must.
    pub fn reserve(&mut self, more: usize) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.reserve_exact(more);
    }

    /// The vector behind the buffer, to append to.
    pub fn as_vec(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Takes the memory away for an operation of the kernel; the buffer is empty until
    /// [`Self::restore`]. Where that never comes, nothing is given back to the pool.
    pub(super) fn take(&mut self) -> (Vec<u8>, usize) {
        (
            std::mem::take(&mut self.bytes),
            std::mem::take(&mut self.start),
        )
    }

    pub(super) fn restore(&mut self, bytes: Vec<u8>, start: usize) {
        (self.bytes, self.start) = (bytes, start);
    }

    /// The bytes held as a block that can be sent any number of times; the memory goes back to the
    /// pool with the last reference.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        LENT_BYTES.set(LENT_BYTES.get() - self.lent);
        let (mut bytes, _) = self.take();
        // A buffer that grew, or that was never one of the pool's, is simply freed. At the end of a
        // thread there is no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let shelf = pool.iter_mut().find(|shelf| shelf.size == bytes.capacity());
            let Some(shelf) = shelf else { return };
            if shelf.free.len() < KEPT_BYTES_MAX / shelf.size {
                bytes.clear();
                shelf.free.push(std::mem::take(&mut bytes));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> (usize, usize) {
        POOL.with_borrow(|pool| (pool[0].free.len(), pool[1].free.len()))
    }

    #[test]
    fn a_dropped_buffer_is_taken_again_and_is_empty() {
        let mut buffer = Buffer::small();
        buffer.as_vec().extend_from_slice(b"secret");
        let memory = buffer.as_ptr();
        drop(buffer);
        assert_eq!(kept(), (1, 0));
        let again = Buffer::small();
        assert_eq!((again.len(), again.as_ptr(), kept()), (0, memory, (0, 0)));
    }

    #[test]
    fn a_frozen_block_comes_back_with_its_last_reference() {
        let mut buffer = Buffer::large();
        buffer.as_vec().extend_from_slice(b"head body");
        buffer.consume(5);
        let block = buffer.freeze();
        let sent = block.clone();
        drop(block);
        assert_eq!((&sent[..], kept()), (&b"body"[..], (0, 0)));
        drop(sent);
        assert_eq!(kept(), (0, 1));
    }

    #[test]
    fn memory_the_kernel_holds_is_not_given_back() {
        let mut buffer = Buffer::small();
        let (memory, _) = buffer.take();
        drop(buffer);
        assert_eq!(kept(), (0, 0));
        drop(memory);
    }

    #[test]
    fn the_pool_is_bounded() {
        let (small_max, large_max) = (KEPT_BYTES_MAX / SMALL_BYTES, KEPT_BYTES_MAX / LARGE_BYTES);
        let smalls: Vec<_> = (0..small_max + 5).map(|_| Buffer::small()).collect();
        let larges: Vec<_> = (0..large_max + 5).map(|_| Buffer::large()).collect();
        drop((smalls, larges));
        assert_eq!(kept(), (small_max, large_max));
    }

    #[test]
    fn what_nobody_needs_is_given_back_bit_by_bit() {
        drop((0..8).map(|_| Buffer::small()).collect::<Vec<_>>());
        trim();
        assert_eq!(kept().0, 8, "all have just been used");
        drop((Buffer::small(), Buffer::small()));
        trim();
        assert_eq!(kept().0, 5, "half of six");
        (0..3).for_each(|_| trim());
        assert_eq!(kept().0, 0);
    }

    #[test]
    fn a_buffer_has_the_room_that_is_asked_for() {
        for (bytes, room) in [
            (0, SMALL_BYTES),
            (SMALL_BYTES, SMALL_BYTES),
            (SMALL_BYTES + 1, LARGE_BYTES),
            (LARGE_BYTES + 1, BULK_BYTES),
            (usize::MAX, BULK_BYTES),
        ] {
            assert_eq!(Buffer::for_bytes(bytes).spare(), room);
        }
    }

    #[test]
    fn buffers_for_passing_on_are_small_when_many_large_ones_are_lent() {
        let bulk_max = LENT_BYTES_MAX / BULK_BYTES;
        let mut lent: Vec<_> = (0..bulk_max)
            .map(|_| Buffer::for_bytes(BULK_BYTES))
            .collect();
        assert!(lent.iter().all(|buffer| buffer.spare() == BULK_BYTES));
        assert_eq!(Buffer::for_bytes(LARGE_BYTES).spare(), SMALL_BYTES);
        let (memory, start) = lent[0].take();
        lent[0].restore(memory, start);
        lent.pop();
        assert_eq!(Buffer::for_bytes(BULK_BYTES).spare(), BULK_BYTES);
        drop(lent);
        assert_eq!(LENT_BYTES.get(), 0);
    }

    #[test]
    fn bytes_are_consumed_from_the_front() {
        let mut buffer = Buffer::small();
        buffer.as_vec().extend_from_slice(b"abcdef");
        buffer.consume(2);
        buffer.truncate(3);
        assert_eq!(&buffer[..], b"cde");
        buffer.reserve(SMALL_BYTES - 3);
        assert_eq!(
            (&buffer[..], buffer.spare()),
            (&b"cde"[..], SMALL_BYTES - 3)
        );
        buffer.consume(9);
        assert_eq!((buffer.len(), buffer.spare()), (0, SMALL_BYTES));
        buffer.as_vec().extend_from_slice(b"abcdef");
        buffer.reserve(SMALL_BYTES);
        assert!(buffer.spare() >= SMALL_BYTES, "what is asked for fits");
    }
}
