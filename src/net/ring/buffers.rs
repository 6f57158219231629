//! Buffers that the kernel fills by itself, and gives out with what it received.

#![allow(unsafe_code, reason = "the kernel writes into this memory, which no safe type can express")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The number under which the kernel knows these buffers.
pub(super) const GROUP: u16 = 0;
/// Bytes of one buffer.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;
/// How many there are: as many sockets may have bytes that nobody has taken yet, before they are copied out.
pub(super) const BUFFERS: u16 = 256;

/// What the kernel asks of the table's address.
const PAGE_BYTES: usize = 4096;

/// A buffer that the kernel gave out, with something in it. It must be [given back](ReceiveBuffers::give_back).
#[derive(Debug)]
pub(super) struct Filled(u16);

/// The buffers, and the table by which the kernel gets them.
pub(super) struct ReceiveBuffers {
    table: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// Entries given to the kernel since the beginning.
    tail: u16,
}

impl ReceiveBuffers {
    /// All buffers, the kernel's.
    ///
    /// # Errors
    /// The kernel knows no such tables (before 5.19), or has no room for one.
    pub(super) fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let mut buffers =
            Self { table: allocate(Self::table_layout()).cast(), memory: allocate(Self::memory_layout()), tail: 0 };
        let address = buffers.table.as_ptr() as u64;
        // SAFETY: the table is BUFFERS entries long, page-aligned, and lives until the ring is gone (`Inner` drops it last).
        unsafe { submitter.register_buf_ring_with_flags(address, BUFFERS, GROUP, 0) }?;
        for id in 0..BUFFERS {
            buffers.give_back(Filled(id));
        }
        Ok(buffers)
    }

    /// A buffer out of a completion's flags.
    pub(super) fn filled(flags: u32) -> Option<Filled> {
        io_uring::cqueue::buffer_select(flags).filter(|id| *id < BUFFERS).map(Filled)
    }

    /// What is in a buffer.
    pub(super) fn bytes(&self, filled: &Filled, count: usize) -> &[u8] {
        let start = usize::from(filled.0) * BUFFER_BYTES;
        // SAFETY: a buffer that was given out is ours alone until it is given back, which takes the `Filled`; it is
        // initialised (zeroed at first), and `filled` and `count` stay within the memory.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(start), count.min(BUFFER_BYTES)) }
    }

    /// The kernel may fill it again.
    #[allow(clippy::needless_pass_by_value, reason = "whoever gives a buffer back has it no more")]
    pub(super) fn give_back(&mut self, filled: Filled) {
        let at = usize::from(self.tail % BUFFERS);
        // SAFETY: `at` is within the table, `filled` within the memory; the kernel reads an entry only after the tail moved
        // past it, which the release store below orders. The tail lies in a reserved field of the first entry, which writing
        // an entry's address, length and number leaves alone.
        unsafe {
            let entry = &mut *self.table.as_ptr().add(at);
            entry.set_addr(self.memory.as_ptr().add(usize::from(filled.0) * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(filled.0);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.table.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    const fn table_layout() -> Layout {
        layout(BUFFERS as usize * size_of::<BufRingEntry>())
    }

    const fn memory_layout() -> Layout {
        layout(BUFFERS as usize * BUFFER_BYTES)
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: both were allocated with these layouts; the ring is gone, so the kernel writes here no more.
        unsafe {
            dealloc(self.table.as_ptr().cast(), Self::table_layout());
            dealloc(self.memory.as_ptr(), Self::memory_layout());
        }
    }
}

const fn layout(bytes: usize) -> Layout {
    match Layout::from_size_align(bytes, PAGE_BYTES) {
        Ok(layout) => layout,
        Err(_) => panic!("sizes are constants"),
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout here has size zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}
