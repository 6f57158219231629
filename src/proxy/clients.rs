//! How many clients there are, logins in progress included, and word of the last one's leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// The count of clients.
#[derive(Default)]
pub(super) struct Clients {
    count: AtomicU32,
    none_left: Notify,
}

impl Clients {
    /// One more, unless there are `max` already. Only whoever has the door asks.
    pub(super) fn enter(self: &Arc<Self>, max: u32) -> Option<Slot> {
        if self.count() >= max {
            return None;
        }
        self.count.fetch_add(1, Ordering::AcqRel);
        Some(Slot(Arc::clone(self)))
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until there is none. Cancel-safe.
    pub(super) async fn gone(&self) {
        loop {
            let mut none_left = std::pin::pin!(self.none_left.notified());
            none_left.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            none_left.await;
        }
    }
}

/// A client's place in the count, given up when dropped.
pub(super) struct Slot(Arc<Clients>);

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_many_as_may_come_in_and_the_last_to_leave_is_heard_of() {
        let clients = Arc::new(Clients::default());
        let (first, second) = (clients.enter(2).unwrap(), clients.enter(2).unwrap());
        assert!(clients.enter(2).is_none());
        let third = clients.enter(3).unwrap();
        assert!(clients.enter(2).is_none(), "a lower limit holds for those who come");
        drop((first, second));
        let waiting = tokio::spawn({
            let clients = Arc::clone(&clients);
            async move { clients.gone().await }
        });
        tokio::task::yield_now().await;
        assert_eq!((clients.count(), waiting.is_finished()), (1, false));
        drop(third);
        waiting.await.unwrap();
        clients.gone().await;
    }
}
