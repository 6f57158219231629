//! The buffers of the relay: 16 KiB each, from a free list of the thread, held only while there is something in them.

use std::cell::{Cell, RefCell};

/// Bytes of one buffer.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;

/// Buffers that the free list keeps; more are given back to the allocator.
const FREE_MAX: usize = 256;

/// A thread's free list.
#[derive(Default)]
pub(crate) struct Buffers {
    /// The one given back last, empty if there is none: the next is usually taken before another is given back.
    last: Cell<Box<[u8]>>,
    free: RefCell<Vec<Box<[u8]>>>,
}

impl Buffers {
    #[inline]
    fn take(&self) -> Box<[u8]> {
        let last = self.last.take();
        if last.is_empty() { self.take_other() } else { last }
    }

    fn take_other(&self) -> Box<[u8]> {
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    #[inline]
    fn give(&self, buffer: Box<[u8]>) {
        if buffer.len() == BUFFER_BYTES {
            let other = self.last.replace(buffer);
            if !other.is_empty() {
                self.give_other(other);
            }
        }
    }

    fn give_other(&self, buffer: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if free.len() < FREE_MAX {
            free.push(buffer);
        }
    }
}

/// Bytes on their way: `start..ready` may be written on, `ready..end` waits for the rest of its frame.
#[derive(Default)]
pub(crate) struct Window {
    bytes: Box<[u8]>,
    start: usize,
    ready: usize,
    end: usize,
}

impl Window {
    /// What may be written on.
    pub(crate) fn ready(&self) -> &[u8] {
        &self.bytes[self.start..self.ready]
    }

    /// Whether there is something to write on.
    pub(crate) fn has_ready(&self) -> bool {
        self.start < self.ready
    }

    /// Whether part of a frame waits for its rest.
    pub(crate) fn has_held(&self) -> bool {
        self.ready < self.end
    }

    /// What has not been scanned yet.
    pub(crate) fn unscanned(&mut self) -> &mut [u8] {
        &mut self.bytes[self.ready..self.end]
    }

    /// Lets the next `count` scanned bytes go on.
    pub(crate) fn pass(&mut self, count: usize) {
        self.ready += count;
    }

    /// Throws the next `count` scanned bytes away. Only while nothing before them waits to be written.
    pub(crate) fn skip(&mut self, count: usize) {
        debug_assert!(!self.has_ready());
        self.ready += count;
        self.start = self.ready;
    }

    /// Takes the next `count` unscanned bytes out; what is before them stays.
    pub(crate) fn cut(&mut self, count: usize) {
        self.bytes.copy_within(self.ready + count..self.end, self.ready);
        self.end -= count;
    }

    /// Whether `with` bytes have room in the place of the next `count`; makes it at the front if there is none.
    pub(crate) fn fits(&mut self, count: usize, with: usize) -> bool {
        let fits = |window: &Self| window.end - count + with <= window.bytes.len();
        if !fits(self) && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.moved_to_front();
        }
        fits(self)
    }

    /// Puts other bytes in the place of the next `count` unscanned ones, and lets them go on; false, and nothing done, if
    /// there is no room.
    pub(crate) fn replace(&mut self, count: usize, with: &[u8]) -> bool {
        if !self.fits(count, with.len()) {
            return false;
        }
        self.bytes.copy_within(self.ready + count..self.end, self.ready + with.len());
        self.bytes[self.ready..self.ready + with.len()].copy_from_slice(with);
        self.end = self.end - count + with.len();
        self.ready += with.len();
        true
    }

    /// Throws away everything that has not been scanned.
    pub(crate) fn drop_unscanned(&mut self) {
        self.end = self.ready;
    }

    /// Makes everything that was not written yet unscanned again.
    pub(crate) fn rescan(&mut self) {
        self.ready = self.start;
    }

    /// `count` bytes were written on.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.start += count;
    }

    /// Room to read into; takes a buffer if there is none, and moves what is held to its front.
    #[inline]
    pub(crate) fn space(&mut self, buffers: &Buffers) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = buffers.take();
        } else if self.start > 0 || self.bytes.len() < BUFFER_BYTES {
            self.make_space(buffers);
        }
        &mut self.bytes[self.end..]
    }

    fn make_space(&mut self, buffers: &Buffers) {
        if self.bytes.len() < BUFFER_BYTES {
            let mut bytes = buffers.take();
            let kept = self.end - self.start;
            bytes[..kept].copy_from_slice(&self.bytes[self.start..self.end]);
            self.bytes = bytes;
        } else {
            self.bytes.copy_within(self.start..self.end, 0);
        }
        self.moved_to_front();
    }

    fn moved_to_front(&mut self) {
        self.ready -= self.start;
        self.end -= self.start;
        self.start = 0;
    }

    /// `count` bytes were read.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Puts bytes in front of what is ready; false if there is no room.
    pub(crate) fn prepend(&mut self, prefix: &[u8], buffers: &Buffers) -> bool {
        self.space(buffers);
        if self.bytes.len() - self.end < prefix.len() {
            return false;
        }
        self.bytes.copy_within(..self.end, prefix.len());
        self.bytes[..prefix.len()].copy_from_slice(prefix);
        self.ready += prefix.len();
        self.end += prefix.len();
        true
    }

    /// Gives the buffer back when nothing is in it.
    #[inline]
    pub(crate) fn release(&mut self, buffers: &Buffers) {
        if self.start == self.end && !self.bytes.is_empty() {
            buffers.give(std::mem::take(&mut self.bytes));
            (self.start, self.ready, self.end) = (0, 0, 0);
        }
    }

    /// Gives the buffer back with whatever is in it.
    pub(crate) fn give_up(&mut self, buffers: &Buffers) {
        buffers.give(std::mem::take(self).bytes);
    }

    /// Keeps what is in it in exactly as many bytes, for a wait of unknown length.
    pub(crate) fn park(&mut self, buffers: &Buffers) {
        if self.bytes.len() == BUFFER_BYTES {
            let kept: Box<[u8]> = self.bytes[self.start..self.end].into();
            buffers.give(std::mem::replace(&mut self.bytes, kept));
            self.moved_to_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(buffers: &Buffers, bytes: &[u8]) -> Window {
        let mut window = Window::default();
        window.space(buffers)[..bytes.len()].copy_from_slice(bytes);
        window.filled(bytes.len());
        window
    }

    #[test]
    fn what_is_parked_comes_back_unchanged() {
        let buffers = Buffers::default();
        let mut window = filled(&buffers, b"abcdef");
        window.pass(4);
        window.wrote(1);
        window.park(&buffers);
        assert_eq!(window.ready(), b"bcd");
        assert_eq!(window.unscanned(), b"ef");
        window.space(&buffers)[0] = b'g';
        window.filled(1);
        assert_eq!(window.ready(), b"bcd");
        assert_eq!(window.unscanned(), b"efg");
    }

    #[test]
    fn a_prefix_goes_before_everything_or_not_at_all() {
        let buffers = Buffers::default();
        let mut window = filled(&buffers, b"abc");
        window.pass(2);
        assert!(window.prepend(b"xy", &buffers));
        assert_eq!(window.ready(), b"xyab");
        assert!(!window.prepend(&[0; BUFFER_BYTES], &buffers));
        assert_eq!(window.ready(), b"xyab");
    }

    #[test]
    fn frames_can_be_exchanged_and_cut_out_where_they_stand() {
        let buffers = Buffers::default();
        let mut window = filled(&buffers, b"abcdef");
        window.pass(1);
        assert!(window.replace(2, b"XYZ"));
        assert_eq!(window.unscanned().to_vec(), b"def");
        assert_eq!(window.ready(), b"aXYZ");
        window.cut(1);
        assert!(window.replace(0, b"-"));
        assert_eq!(window.ready(), b"aXYZ-");
        assert!(!window.replace(1, &[0; BUFFER_BYTES]));
        let all = window.unscanned().to_vec();
        assert_eq!(all, b"ef");
    }

    #[test]
    fn what_was_written_makes_room_for_answers() {
        let buffers = Buffers::default();
        let mut window = filled(&buffers, &[b'a'; BUFFER_BYTES]);
        window.pass(BUFFER_BYTES - 2);
        assert!(!window.replace(0, b"12345"));
        window.wrote(BUFFER_BYTES - 2);
        assert!(window.replace(0, b"12345"));
        assert_eq!((window.ready(), window.has_held()), (&b"12345"[..], true));
    }

    #[test]
    fn an_empty_window_holds_no_buffer() {
        let buffers = Buffers::default();
        let mut window = filled(&buffers, b"abc");
        window.pass(3);
        window.wrote(3);
        window.release(&buffers);
        assert!(window.bytes.is_empty());
        assert_eq!(buffers.last.take().len(), BUFFER_BYTES);
    }
}
