//! The ring of one thread: what is handed to the kernel in a turn, and what comes back.

#![allow(unsafe_code, reason = "the kernel reads and writes memory that entries point to")]

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};
use slab::Slab;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::look::is_readable;
use super::buffers::{BUFFER_BYTES, GROUP, ReceiveBuffers};
use super::slot::{Inbound, Outbound, SEND_BYTES, Slot, error, remember};

/// Entries that wait for the kernel at one time; more are handed over at once.
const ENTRIES: u32 = 1024;
/// Completions that may wait for us; the kernel keeps more by itself.
const COMPLETIONS: u32 = 8192;
/// Send buffers kept.
const SEND_BUFFERS_MAX: usize = 256;
/// From here on a write goes to the socket at once: copying it first would cost more than the system call.
const DIRECT_WRITE_BYTES: usize = 8 * 1024;
/// Reads and writes in one turn that go to the sockets at once: others' turn must come.
const DIRECT_MAX: u32 = 64;
/// Rounds of one turn: what completes may ask for more.
const ROUNDS_MAX: u32 = 8;
/// Waits for the kernel to let go of its memory, when the ring ends.
const LAST_ROUNDS_MAX: u32 = 10_000;

/// IORING_RECVSEND_POLL_FIRST: do not try to receive before the socket says that there is something.
const POLL_FIRST: u16 = 1;

const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const OTHER: u64 = 2;

/// Rings started in this process.
static STARTED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// This thread's ring. Here rather than in the sockets' hands: the runtime's hooks are called with nothing in hand, and a
    /// stream, which may go from thread to thread while it is tokio's, must not become a type that cannot.
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

/// Calls something with this thread's ring; none if there is none (any more).
pub(super) fn with_ring<T>(call: impl FnOnce(&Ring) -> T) -> Option<T> {
    RING.try_with(|ring| ring.try_borrow().ok()?.as_ref().map(call)).ok().flatten()
}

/// The ring of one thread, and its sockets.
pub(in crate::net) struct Ring {
    /// Wakes the runtime when something has completed while it waits.
    _waking: AsyncFd<RingFd>,
    number: u64,
    inner: RefCell<Inner>,
    direct_left: Cell<u32>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// The ring's own file descriptor, which [`Inner`] owns and closes.
struct RingFd(RawFd);

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

struct Inner {
    /// Dropped by hand, before the memory that it may write to.
    io: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<ReceiveBuffers>,
    slots: Slab<Slot>,
    /// Something was pushed that the kernel has not been told of.
    is_pushed: bool,
    send_buffers: Vec<Box<[u8]>>,
    /// Sockets that found no buffer.
    starved: Vec<usize>,
    /// Whom to wake when nothing is borrowed.
    woken: Vec<Waker>,
}

impl Ring {
    /// Makes a ring for this thread, inside whose runtime it must be called.
    ///
    /// # Errors
    /// The kernel has no such rings, is too old for this one (before 6.0), or does not allow it.
    pub(in crate::net) fn start() -> io::Result<()> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(ENTRIES)?;
        // SAFETY: the descriptor is the ring's own, which is closed after this (`Ring` drops its fields in their order).
        let waking = unsafe { AsyncFd::register_with_interest(RingFd(io.as_raw_fd()), Interest::READABLE) }?;
        let buffers = ReceiveBuffers::register(&io.submitter())?;
        let inner = Inner {
            io: ManuallyDrop::new(io),
            buffers: ManuallyDrop::new(buffers),
            slots: Slab::new(),
            is_pushed: false,
            send_buffers: Vec::new(),
            starved: Vec::new(),
            woken: Vec::new(),
        };
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let ring = Self { _waking: waking, number, inner: RefCell::new(inner), direct_left: Cell::new(DIRECT_MAX) };
        drop(RING.replace(Some(ring)));
        Ok(())
    }

    /// Ends this thread's ring, if it has one; its sockets are closed.
    pub(in crate::net) fn stop() {
        drop(RING.take());
    }

    /// Hands to the kernel what this thread's sockets want, and wakes whoever got something. To be called by the runtime before
    /// it waits and after; does nothing on a thread without a ring.
    pub(in crate::net) fn turn() {
        with_ring(Self::take_turn);
    }

    /// What tells it from the other rings of the process.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Takes a socket in, and begins to receive.
    pub(super) fn enter(&self, fd: OwnedFd) -> usize {
        let mut inner = self.inner.borrow_mut();
        let index = inner.slots.insert(Slot::new(fd));
        inner.arm(index);
        index
    }

    /// The socket is nobody's any more: what is under way is cancelled, and it is closed. Always true.
    pub(super) fn leave(&self, index: usize) -> bool {
        let wakers = self.inner.borrow_mut().leave(index);
        drop(wakers);
        true
    }

    /// Gives a socket out of the ring, if nothing that it received or sends is there. Whoever awaits something of it is woken.
    pub(super) fn release(&self, index: usize) -> Option<OwnedFd> {
        self.inner.borrow_mut().release(index)
    }

    pub(super) fn poll_read(&self, index: usize, cx: &Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let inner = &mut *self.inner.borrow_mut();
        let slot = &mut inner.slots[index];
        match &mut slot.inbound {
            Inbound::Buffered(filled, at, end) => {
                let bytes = &inner.buffers.bytes(filled, *end)[*at..];
                let count = bytes.len().min(buf.len());
                buf[..count].copy_from_slice(&bytes[..count]);
                *at += count;
                if at == end {
                    let is_full = *end == BUFFER_BYTES;
                    inner.taken(index, is_full);
                }
                Poll::Ready(Ok(count))
            }
            Inbound::Kept(bytes, at) => {
                let count = (bytes.len() - *at).min(buf.len());
                buf[..count].copy_from_slice(&bytes[*at..*at + count]);
                *at += count;
                if *at == bytes.len() {
                    inner.taken(index, false);
                }
                Poll::Ready(Ok(count))
            }
            Inbound::Direct => self.read_direct(inner, index, cx, buf),
            Inbound::Armed | Inbound::Starved => {
                remember(&mut slot.reader, cx);
                Poll::Pending
            }
            Inbound::Ended => Poll::Ready(Ok(0)),
            Inbound::Failed(code) => Poll::Ready(Err(error(*code))),
        }
    }

    /// Much came at a time: reads the socket itself, as long as something is there.
    fn read_direct(
        &self,
        inner: &mut Inner,
        index: usize,
        cx: &Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let slot = &mut inner.slots[index];
        let left = self.direct_left.get();
        if left > 0 {
            self.direct_left.set(left - 1);
            match nix::sys::socket::recv(slot.fd.as_raw_fd(), buf, nix::sys::socket::MsgFlags::MSG_DONTWAIT) {
                Ok(0) => {
                    slot.inbound = Inbound::Ended;
                    return Poll::Ready(Ok(0));
                }
                Ok(count) => {
                    if count < buf.len() {
                        inner.arm(index);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(code) => {
                    slot.inbound = Inbound::Failed(code as i32);
                    return Poll::Ready(Err(code.into()));
                }
            }
        }
        remember(&mut slot.reader, cx);
        inner.arm(index);
        Poll::Pending
    }

    pub(super) fn poll_read_ready(&self, index: usize, cx: &Context<'_>) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        let slot = &mut inner.slots[index];
        let is_readable = slot.is_readable().unwrap_or_else(|| is_readable(&slot.fd));
        if is_readable {
            return Poll::Ready(());
        }
        remember(&mut slot.reader, cx);
        if matches!(slot.inbound, Inbound::Direct) {
            inner.arm(index);
        }
        Poll::Pending
    }

    /// Takes bytes to be sent; they are on their way when this says so, but may still fail, which the next call tells.
    pub(super) fn poll_write(&self, index: usize, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let inner = &mut *self.inner.borrow_mut();
        let slot = &mut inner.slots[index];
        match &slot.outbound {
            Outbound::Sending(..) => {
                remember(&mut slot.writer, cx);
                return Poll::Pending;
            }
            Outbound::Failed(code) => return Poll::Ready(Err(error(*code))),
            Outbound::Idle => {}
        }
        let left = self.direct_left.get();
        if bytes.len() >= DIRECT_WRITE_BYTES && left > 0 {
            self.direct_left.set(left - 1);
            let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
            match nix::sys::socket::send(slot.fd.as_raw_fd(), bytes, flags) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(code) => {
                    slot.outbound = Outbound::Failed(code as i32);
                    return Poll::Ready(Err(code.into()));
                }
            }
        }
        Poll::Ready(Ok(inner.send(index, bytes)))
    }

    /// Waits until what was taken has been sent.
    pub(super) fn poll_sent(&self, index: usize, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let slot = &mut self.inner.borrow_mut().slots[index];
        match &slot.outbound {
            Outbound::Sending(..) => {
                remember(&mut slot.writer, cx);
                Poll::Pending
            }
            Outbound::Failed(code) => Poll::Ready(Err(error(*code))),
            Outbound::Idle => Poll::Ready(Ok(())),
        }
    }

    /// Ends the sending direction, when everything is sent.
    pub(super) fn poll_shutdown(&self, index: usize, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_sent(index, cx) {
            Poll::Ready(Ok(())) => {
                let inner = self.inner.borrow();
                Poll::Ready(SockRef::from(&inner.slots[index].fd).shutdown(std::net::Shutdown::Write))
            }
            other => other,
        }
    }

    pub(super) fn with_fd<T>(&self, index: usize, ask: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        ask(self.inner.borrow().slots[index].fd.as_fd())
    }

    fn take_turn(&self) {
        self.direct_left.set(DIRECT_MAX);
        let mut woken = {
            let inner = &mut *self.inner.borrow_mut();
            for _ in 0..ROUNDS_MAX {
                inner.submit();
                inner.reap();
                if !inner.is_pushed {
                    break;
                }
            }
            inner.submit();
            std::mem::take(&mut inner.woken)
        };
        // Whoever is woken may come back here at once.
        woken.drain(..).for_each(Waker::wake);
        let inner = &mut *self.inner.borrow_mut();
        if inner.woken.is_empty() {
            inner.woken = woken;
        }
    }
}

impl Inner {
    /// The kernel is to receive something.
    fn arm(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.inbound = Inbound::Armed;
        slot.in_flight += 1;
        // Whoever asks has just taken everything: waiting comes first.
        let entry = opcode::Recv::new(Fd(slot.fd.as_raw_fd()), std::ptr::null_mut(), 0)
            .ioprio(POLL_FIRST)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data((index as u64) << 2 | RECEIVE);
        self.push(&entry);
    }

    /// Everything received was taken: its buffer goes back, and more is awaited.
    fn taken(&mut self, index: usize, is_much: bool) {
        let slot = &mut self.slots[index];
        let old = std::mem::replace(&mut slot.inbound, Inbound::Direct);
        if let Inbound::Buffered(filled, ..) = old {
            self.buffers.give_back(filled);
        }
        if !is_much {
            self.arm(index);
        }
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> usize {
        let mut buffer = self.send_buffers.pop().unwrap_or_else(|| vec![0; SEND_BYTES].into_boxed_slice());
        let count = bytes.len().min(SEND_BYTES);
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.slots[index].outbound = Outbound::Sending(buffer, 0, count);
        self.push_send(index);
        count
    }

    fn push_send(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Outbound::Sending(buffer, from, to) = &slot.outbound else { return };
        let left = &buffer[*from..*to];
        let entry = opcode::Send::new(Fd(slot.fd.as_raw_fd()), left.as_ptr(), left.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data((index as u64) << 2 | SEND);
        slot.in_flight += 1;
        self.push(&entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what entries point to (a slot's send buffer, the receive buffers) stays where it is until the completion
            // has come, and so does the descriptor: a slot is removed with its last completion.
            let is_full = unsafe { self.io.submission().push(entry) }.is_err();
            self.is_pushed = true;
            if !is_full {
                return;
            }
            self.submit();
        }
    }

    /// Tells the kernel what was pushed.
    fn submit(&mut self) {
        if !self.is_pushed {
            return;
        }
        self.is_pushed = false;
        match self.io.submit() {
            Ok(_) => {}
            // Completions must be taken first, or a signal came: the next round tries again.
            Err(problem) if matches!(problem.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)) => {
                self.is_pushed = true;
                self.reap();
            }
            Err(problem) => tracing::error!(error = %problem, "the ring takes nothing"),
        }
    }

    /// Takes what has completed.
    fn reap(&mut self) {
        loop {
            let next = self.io.completion().next();
            let Some(done) = next else { break };
            let index = (done.user_data() >> 2) as usize;
            match done.user_data() & 3 {
                RECEIVE => self.received(index, done.result(), done.flags()),
                SEND => self.sent(index, done.result()),
                _ => {}
            }
        }
        if !self.starved.is_empty() {
            self.feed();
        }
    }

    fn received(&mut self, index: usize, result: i32, flags: u32) {
        let filled = ReceiveBuffers::filled(flags);
        let Some(slot) = self.slots.get_mut(index) else {
            return tracing::error!(index, "completion of no socket");
        };
        slot.in_flight -= 1;
        if slot.is_closing || result <= 0 {
            slot.inbound = match -result {
                libc::ENOBUFS if !slot.is_closing => Inbound::Starved,
                // It was to leave the ring.
                libc::ECANCELED if !slot.is_closing => Inbound::Direct,
                0 | i32::MIN..0 => Inbound::Ended,
                code => Inbound::Failed(code),
            };
            let is_starved = matches!(slot.inbound, Inbound::Starved);
            if let Some(filled) = filled {
                self.buffers.give_back(filled);
            }
            if is_starved {
                return self.starved.push(index);
            }
        } else if let Some(filled) = filled {
            slot.inbound = Inbound::Buffered(filled, 0, (result as usize).min(BUFFER_BYTES));
        }
        self.completed(index, |slot| slot.reader.take());
    }

    fn sent(&mut self, index: usize, result: i32) {
        let Some(slot) = self.slots.get_mut(index) else {
            return tracing::error!(index, "completion of no socket");
        };
        slot.in_flight -= 1;
        let Outbound::Sending(buffer, from, to) = std::mem::replace(&mut slot.outbound, Outbound::Idle) else {
            return tracing::error!(index, "completion of no send");
        };
        let from = from + result.max(0) as usize;
        if result >= 0 && from < to && !slot.is_closing {
            slot.outbound = Outbound::Sending(buffer, from, to);
            return self.push_send(index);
        }
        if result < 0 {
            slot.outbound = Outbound::Failed(-result);
        }
        if self.send_buffers.len() < SEND_BUFFERS_MAX {
            self.send_buffers.push(buffer);
        }
        self.completed(index, |slot| slot.writer.take());
    }

    /// One completion less to come.
    fn completed(&mut self, index: usize, whom: impl FnOnce(&mut Slot) -> Option<Waker>) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        self.woken.extend(whom(slot));
        if slot.is_closing && slot.in_flight == 0 {
            drop(self.slots.remove(index));
        }
    }

    /// Copies out what nobody has taken yet, so that the kernel has all its buffers again, and asks anew for those who found none.
    #[cold]
    fn feed(&mut self) {
        for (_, slot) in &mut self.slots {
            match std::mem::replace(&mut slot.inbound, Inbound::Direct) {
                Inbound::Buffered(filled, at, end) => {
                    slot.inbound = Inbound::Kept(self.buffers.bytes(&filled, end)[at..].into(), 0);
                    self.buffers.give_back(filled);
                }
                other => slot.inbound = other,
            }
        }
        for index in std::mem::take(&mut self.starved) {
            if self.slots.get(index).is_some_and(|slot| matches!(slot.inbound, Inbound::Starved)) {
                self.arm(index);
            }
        }
    }

    fn release(&mut self, index: usize) -> Option<OwnedFd> {
        if !matches!(self.slots[index].outbound, Outbound::Idle) {
            return None;
        }
        if matches!(self.slots[index].inbound, Inbound::Armed) {
            self.cancel(index, RECEIVE);
            self.submit();
            self.reap();
        }
        // Where the kernel has not let go of it yet, or gave something first, it stays.
        let slot = &self.slots[index];
        if slot.in_flight > 0 || !matches!(slot.inbound, Inbound::Direct) {
            return None;
        }
        Some(self.slots.remove(index).fd)
    }

    fn cancel(&mut self, index: usize, kind: u64) {
        let cancel = opcode::AsyncCancel::new((index as u64) << 2 | kind).build().user_data(OTHER);
        self.push(&cancel);
    }

    fn leave(&mut self, index: usize) -> [Option<Waker>; 2] {
        let slot = &mut self.slots[index];
        slot.is_closing = true;
        let wakers = [slot.reader.take(), slot.writer.take()];
        let is_armed = matches!(slot.inbound, Inbound::Armed);
        let is_sending = matches!(slot.outbound, Outbound::Sending(..));
        if let Inbound::Buffered(filled, ..) = std::mem::replace(&mut slot.inbound, Inbound::Ended) {
            self.buffers.give_back(filled);
        }
        if !is_armed && !is_sending {
            drop(self.slots.remove(index));
            return wakers;
        }
        for (is_under_way, kind) in [(is_armed, RECEIVE), (is_sending, SEND)] {
            if is_under_way {
                self.cancel(index, kind);
            }
        }
        wakers
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let open: Vec<usize> = self.slots.iter().filter(|(_, slot)| !slot.is_closing).map(|(index, _)| index).collect();
        for index in open {
            drop(self.leave(index));
        }
        for _ in 0..LAST_ROUNDS_MAX {
            self.submit();
            self.reap();
            if self.slots.is_empty() {
                break;
            }
            if let Err(problem) = self.io.submit_and_wait(1) {
                tracing::debug!(error = %problem, "waiting for the last completions");
            }
        }
        if !self.slots.is_empty() {
            // The kernel may still write there.
            tracing::error!(sockets = self.slots.len(), "the kernel keeps memory of the ring");
            std::mem::take(&mut self.slots).into_iter().for_each(std::mem::forget);
            return;
        }
        // SAFETY: neither is used again; the ring first, which ends what the kernel may do with the memory.
        unsafe {
            ManuallyDrop::drop(&mut self.io);
            ManuallyDrop::drop(&mut self.buffers);
        }
    }
}
