//! Buffers from a pool of this core: taken when there are bytes to hold, given back when dropped.
//!
//! A buffer that an operation of the kernel still uses is not given back but freed when that
//! operation ends: the pool never holds memory the kernel may write to.
use std::cell::RefCell;
use std::ops::Deref;

use bytes::Bytes;

/// Holds a usual head, or an event of a stream.
pub const SMALL_BYTES: usize = 16 << 10;
/// Holds a piece of a bulk transfer; four TLS records.
pub const LARGE_BYTES: usize = 64 << 10;

/// Buffers kept by a core when nobody uses them: 2 MiB of each size.
const SMALL_KEPT_MAX: usize = 128;
const LARGE_KEPT_MAX: usize = 32;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { small: Vec::new(), large: Vec::new() }) };
}

struct Pool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

/// Bytes received or to be sent, consumed from the front and filled at the back.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// A buffer that holds no memory until it is written to or replaced.
    pub const fn empty() -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
        }
    }

    /// A buffer of [`SMALL_BYTES`].
    pub fn small() -> Self {
        let pooled = POOL.with_borrow_mut(|pool| pool.small.pop());
        Self::from_vec(pooled.unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES)))
    }

    /// A buffer of [`LARGE_BYTES`].
    pub fn large() -> Self {
        let pooled = POOL.with_borrow_mut(|pool| pool.large.pop());
        Self::from_vec(pooled.unwrap_or_else(|| Vec::with_capacity(LARGE_BYTES)))
    }

    fn from_vec(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
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
        self.bytes.reserve_exact(more.saturating_sub(self.spare()));
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
        let (mut bytes, _) = self.take();
        // A buffer that grew, or that was never one of the pool's, is simply freed. At the end of a
        // thread there is no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let (kept, kept_max) = match bytes.capacity() {
                SMALL_BYTES => (&mut pool.small, SMALL_KEPT_MAX),
                LARGE_BYTES => (&mut pool.large, LARGE_KEPT_MAX),
                _ => return,
            };
            if kept.len() < kept_max {
                bytes.clear();
                kept.push(std::mem::take(&mut bytes));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> (usize, usize) {
        POOL.with_borrow(|pool| (pool.small.len(), pool.large.len()))
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
        drop(
            (0..SMALL_KEPT_MAX + 5)
                .map(|_| Buffer::small())
                .collect::<Vec<_>>(),
        );
        drop(
            (0..LARGE_KEPT_MAX + 5)
                .map(|_| Buffer::large())
                .collect::<Vec<_>>(),
        );
        assert_eq!(kept(), (SMALL_KEPT_MAX, LARGE_KEPT_MAX));
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
    }
}
