//! Why a checkout failed.

use std::time::Duration;

/// Why a client got no connection. `E` is the error of connecting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError<E> {
    /// None became free in this time.
    #[error("no connection became free in {0:?}")]
    Timeout(Duration),
    /// This many clients are waiting already.
    #[error("{0} clients are waiting already")]
    QueueFull(u32),
    /// None could be opened.
    #[error("no connection could be opened")]
    Connect(E),
    /// The pool is being closed.
    #[error("the pool is being closed")]
    Draining,
}
