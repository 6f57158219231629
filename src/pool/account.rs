//! A pool's accounts with the quotas that it is under, and the permits of its connections.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::quota::{Bell, Quota, Signals};
use super::share::Share;

/// The right to one connection under one quota; given back when it is dropped, which is to be when the connection is gone.
#[derive(Debug)]
struct Permit {
    quota: Arc<Quota>,
    number: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.quota.give_back(self.number);
    }
}

/// The right to one connection under all quotas of its pool. Keep it for as long as the server may know of the connection.
#[derive(Debug, Default)]
pub struct Permits {
    /// For dropping only.
    _all: Vec<Permit>,
}

/// A pool's account with one quota.
#[derive(Debug)]
pub struct Account {
    quota: Arc<Quota>,
    number: u64,
    signals: Arc<Signals>,
    /// How many it has asked for and not taken.
    asked: u32,
    least: u32,
}

impl Account {
    /// An account of an owner, whose thread hears this bell.
    #[must_use]
    pub fn open(quota: &Arc<Quota>, owner: u64, share: Share, bell: Bell) -> Self {
        let (number, signals) = quota.open(owner, share, bell);
        Self { quota: Arc::clone(quota), number, signals, asked: 0, least: share.least }
    }

    fn reserved(&self) -> u32 {
        self.signals.reserved.load(Ordering::Relaxed)
    }

    fn take(&mut self) -> Option<Permit> {
        if !self.quota.take(self.number) {
            return None;
        }
        self.asked = self.asked.saturating_sub(1);
        Some(Permit { quota: Arc::clone(&self.quota), number: self.number })
    }

    fn ask(&mut self, count: u32) {
        if let Some(more) = count.checked_sub(self.asked).filter(|more| *more > 0) {
            self.asked = count;
            self.quota.ask(self.number, more);
        }
    }

    fn withdraw(&mut self) {
        if self.asked > 0 || self.reserved() > 0 {
            self.asked = 0;
            self.quota.withdraw(self.number);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.quota.close(self.number);
    }
}

/// A pool's accounts; without any it may open what it likes.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    all: Vec<Account>,
    /// The one that had no permit when one was wanted.
    lacking: usize,
}

impl Accounts {
    pub(super) const fn new(all: Vec<Account>) -> Self {
        Self { all, lacking: 0 }
    }

    /// The right to one connection, if it can be had now. Whoever is in line and has nothing reserved need not ask.
    pub(super) fn take(&mut self) -> Option<Permits> {
        if self.all.iter().any(|account| account.asked > 0 && account.reserved() == 0) {
            return None;
        }
        let mut permits = Vec::with_capacity(self.all.len());
        for (at, account) in self.all.iter_mut().enumerate() {
            match account.take() {
                Some(permit) => permits.push(permit),
                None => {
                    self.lacking = at;
                    return None;
                }
            }
        }
        Some(Permits { _all: permits })
    }

    /// Stands in line for so many, where one was lacking; whether that is more than before.
    pub(super) fn ask(&mut self, count: u32) -> bool {
        let Some(account) = self.all.get_mut(self.lacking) else { return false };
        let is_more = count > account.asked;
        account.ask(count);
        is_more
    }

    /// Stands in line.
    pub(super) fn has_asked(&self) -> bool {
        self.all.iter().any(|account| account.asked > 0)
    }

    /// How many are its owner's before anybody gets more than that.
    pub(super) fn least(&self) -> u32 {
        self.all.iter().map(|account| account.least).max().unwrap_or(0)
    }

    /// Wants nothing any more.
    pub(super) fn withdraw(&mut self) {
        self.all.iter_mut().for_each(Account::withdraw);
    }

    /// Says how many connections wait for a client.
    pub(super) fn note_idle(&self, count: usize) {
        for account in &self.all {
            account.signals.idle.store(u32::try_from(count).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
    }

    /// Something is reserved for it.
    pub(super) fn has_reserved(&self) -> bool {
        self.all.iter().any(|account| account.reserved() > 0)
    }

    /// It owes a connection, or others wait while it may have some to spare.
    pub(super) fn is_pressed(&self) -> bool {
        self.owes() || self.is_short()
    }

    pub(super) fn owes(&self) -> bool {
        self.all.iter().any(|account| account.signals.owes.load(Ordering::Relaxed) > 0)
    }

    pub(super) fn is_short(&self) -> bool {
        self.all.iter().any(|account| account.signals.short.load(Ordering::Relaxed))
    }

    /// Whether a connection is closed now to pay what is owed.
    pub(super) fn pay(&self) -> bool {
        let owing = |account: &&Account| account.signals.owes.load(Ordering::Relaxed) > 0;
        self.all.iter().filter(owing).any(|account| account.quota.pay(account.number))
    }

    /// Looks again whose time is over.
    pub(super) fn review(&self) {
        self.all.iter().filter(|account| account.asked > 0).for_each(|account| account.quota.review());
    }

    /// Another share of what the last quota gives, which is the one with other owners.
    pub(super) fn set_share(&mut self, share: Share) {
        if let Some(account) = self.all.last_mut() {
            account.least = share.least;
            account.quota.set_share(account.number, share);
        }
    }
}
