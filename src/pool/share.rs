//! What is whose by right when there is not enough for all, and the lane in which a pool's clients of one owner wait.

use std::cell::Cell;

/// What one hand-over costs an owner of weight 1, in a lane's own time; a common multiple of the small weights.
const HAND_OVER: u64 = 5040;

/// An owner's part of what is scarce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// How much it gets beside others; at least one.
    pub weight: u32,
    /// What it gets before anybody gets more than that.
    pub least: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, least: 1 }
    }
}

impl Share {
    /// How well an owner is served that holds so many: below zero while that is less than its least, else what it has beyond, by weight.
    pub(super) fn level(self, held: u32) -> f64 {
        if held < self.least {
            f64::from(held) / f64::from(self.least) - 1.0
        } else {
            f64::from(held - self.least) / f64::from(self.weight.max(1))
        }
    }

    fn cost(self) -> u64 {
        HAND_OVER / u64::from(self.weight.max(1)).min(HAND_OVER)
    }
}

/// The clients of one owner in a pool that serves several: they wait for each other, and take turns with the other lanes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lane {
    share: Cell<Share>,
    /// Most connections at one time; zero for as many as there are.
    most: Cell<u32>,
    /// Most clients waiting; zero for as many as the pool lets.
    queue_length_max: Cell<u32>,
    active: Cell<u32>,
    waiting: Cell<u32>,
    /// The place in time of the next one behind the last that has come.
    next: Cell<u64>,
}

impl Lane {
    /// Its share, how many connections it may have at one time, and how many clients may wait; zero: as many as the pool has and lets.
    pub fn set(&self, share: Share, most: u32, queue_length_max: u32) {
        self.share.set(share);
        self.most.set(most);
        self.queue_length_max.set(queue_length_max);
    }

    /// The bound on clients that wait, where that is reached.
    pub(super) fn is_crowded(&self) -> Option<u32> {
        let max = self.queue_length_max.get();
        (max != 0 && self.waiting.get() >= max).then_some(max)
    }

    /// How many connections its clients have.
    #[must_use]
    pub const fn active(&self) -> u32 {
        self.active.get()
    }

    /// How many of its clients wait.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        self.waiting.get()
    }

    /// Whether it has all that it may have.
    pub(super) const fn is_full(&self) -> bool {
        self.most.get() != 0 && self.active.get() >= self.most.get()
    }

    /// The place in time of a client that begins to wait now. An owner with less than its least goes first; others follow
    /// their own, and an owner that was away gets no more for that.
    pub(super) fn join(&self, now: u64) -> u64 {
        let (share, waiting) = (self.share.get(), self.waiting.get());
        let cost = share.cost();
        let at = if self.active.get() + waiting < share.least {
            now
        } else {
            self.next.get().clamp(now, now.saturating_add(cost.saturating_mul(u64::from(waiting) + 1)))
        };
        self.next.set(at.saturating_add(cost));
        self.waiting.set(waiting + 1);
        at
    }

    /// A client waits no longer.
    pub(super) fn leave(&self) {
        self.waiting.set(self.waiting.get() - 1);
    }

    pub(super) fn take(&self) {
        self.active.set(self.active.get() + 1);
    }

    pub(super) fn give_back(&self) {
        self.active.set(self.active.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_less_than_its_least_is_served_worse_than_anybody_else() {
        let (plain, strong) = (Share::default(), Share { weight: 2, least: 4 });
        assert!(plain.level(0) < strong.level(3) && strong.level(3) < plain.level(1));
        assert_eq!((strong.level(4), strong.level(8), plain.level(3)), (0.0, 2.0, 2.0));
    }
}
