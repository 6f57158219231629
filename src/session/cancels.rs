//! Cancel requests on their way to a server connection: while there are any, it must not change hands.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// How many are on their way.
#[derive(Default)]
pub(super) struct Cancels {
    count: Cell<u32>,
    /// One may still be on its way after we gave it up.
    lost: Cell<bool>,
    done: Notify,
}

impl Cancels {
    /// One more, until the guard is dropped.
    pub(super) fn begin(self: &Rc<Self>) -> InFlight {
        self.count.set(self.count.get() + 1);
        InFlight(Rc::clone(self))
    }

    /// One was given up before the server confirmed it: it may come at any time.
    pub(super) fn lose(&self) {
        self.lost.set(true);
    }

    /// Waits until none is on its way any more; false if one may come at any time all the same.
    pub(super) async fn all_delivered(&self) -> bool {
        while self.count.get() > 0 {
            self.done.notified().await;
        }
        !self.lost.get()
    }
}

/// A cancel request on its way.
pub(super) struct InFlight(Rc<Cancels>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.done.notify_one();
    }
}
