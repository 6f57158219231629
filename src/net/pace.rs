//! How many of a thread's sessions have something to do in one turn of its runtime: what decides whether a ring is worth it for them.
//!
//! A ring spares system calls where many sockets have something at the same time, since one call hands over what all of them want. For a
//! single one it costs more than tokio's epoll: the kernel has to be told to wait for each of its messages, and to wake the ring with it.

use std::cell::Cell;

/// What [`Pace::average`] counts in.
const SCALE: u32 = 1024;
/// The average follows what happens in about so many turns.
const TURNS: u32 = 256;
/// So many a turn are worth a ring.
const DENSE: u32 = 6 * SCALE;
/// So few are not any more. Well below, so that sockets do not go to and fro.
const SPARSE: u32 = 3 * SCALE;

thread_local! {
    static PACE: Pace = const { Pace::new() };
}

struct Pace {
    /// Sessions that did something in this turn.
    worked: Cell<u32>,
    average: Cell<u32>,
    is_dense: Cell<bool>,
    /// Whether that follows the average.
    is_followed: Cell<bool>,
}

impl Pace {
    const fn new() -> Self {
        Self { worked: Cell::new(0), average: Cell::new(0), is_dense: Cell::new(false), is_followed: Cell::new(false) }
    }

    fn turn(&self) {
        let worked = self.worked.replace(0);
        if worked == 0 {
            return;
        }
        let average = self.average.get();
        let average = average - average / TURNS + worked.min(SCALE) * SCALE / TURNS;
        self.average.set(average);
        if self.is_followed.get() {
            let limit = if self.is_dense.get() { SPARSE } else { DENSE };
            self.is_dense.set(average >= limit);
        }
    }
}

/// A session of this thread does something.
#[inline]
pub(super) fn worked() {
    PACE.with(|pace| pace.worked.set(pace.worked.get() + 1));
}

/// A turn of the thread's runtime is over.
pub(super) fn turn() {
    PACE.with(Pace::turn);
}

/// Whether sockets of this thread belong into its ring now.
#[inline]
pub(super) fn is_dense() -> bool {
    PACE.with(|pace| pace.is_dense.get())
}

/// The thread has a ring from now on: for all of its sockets, or only while they are worth it.
pub(super) fn begin(is_for_all: bool) {
    PACE.with(|pace| {
        pace.average.set(0);
        pace.is_dense.set(is_for_all);
        pace.is_followed.set(!is_for_all);
    });
}

/// The thread has none any more.
pub(super) fn end() {
    begin(false);
    PACE.with(|pace| pace.is_followed.set(false));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of a thread in each of which so many sessions do something; after how many of them it has changed its mind, if it has.
    fn changes_after(sessions: u32) -> Option<u32> {
        let before = is_dense();
        (1..=10 * TURNS).find(|_| {
            (0..sessions).for_each(|_| worked());
            turn();
            is_dense() != before
        })
    }

    #[test]
    fn sockets_go_to_the_ring_where_many_work_at_a_time_and_come_back_where_few_do() {
        begin(false);
        assert_eq!(changes_after(1), None);
        assert_eq!(changes_after(5), None);
        begin(false);
        assert!(changes_after(12).is_some_and(|turns| turns > TURNS / 4), "a burst is no reason");
        assert!(is_dense());
        // In between it stays as it is.
        assert_eq!(changes_after(4), None);
        assert!(changes_after(1).is_some());
        assert!(!is_dense());
        end();
        assert_eq!(changes_after(100), None, "without a ring");
    }

    #[test]
    fn turns_in_which_nothing_happens_do_not_count() {
        begin(false);
        assert!(changes_after(20).is_some());
        assert_eq!(changes_after(0), None);
    }

    #[test]
    fn a_ring_that_is_asked_for_has_all_sockets() {
        begin(true);
        assert!(is_dense());
        assert_eq!(changes_after(1), None);
    }
}
