//! The io_uring engine: one ring per relay thread, driven between the turns of that thread's tokio runtime.
//!
//! What a session writes is copied, handed to the kernel with everything else that the thread's sessions write in the same
//! turn, and sent by one system call for all of them; what arrives, the kernel has put into buffers of the ring before anybody
//! is woken. Sockets look the same as tokio's to whoever polls them.

mod buffers;
mod driver;
mod slot;
mod socket;
#[cfg(test)]
mod tests;

pub(super) use driver::Ring;
pub(super) use socket::RingSocket;
