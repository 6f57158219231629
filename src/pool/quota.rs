//! How many connections the pools of all threads may have together, and who gets one when there are too few.
//!
//! Every connection has a permit, taken when it is opened and given back when it is gone: only then is anything locked. A pool that
//! gets none stands in line. A permit that becomes free is reserved for whoever of those in line is served worst, turn and turn
//! about; if none becomes free, those who have more than their share owe one, the idle ones first, and pools learn that by a flag.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::share::Share;

/// How long an owner of weight 1 keeps what another waits for who has nothing at all, though it has no more than its least.
pub(super) const TURN: Duration = Duration::from_millis(100);

/// Tells the thread of a pool that something waits for it in its account. Called with a lock held: it must not call back.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// Permits for connections, common to pools of several threads.
pub struct Quota {
    books: Mutex<Books>,
    /// Rings when more are wanted than are leased.
    short_of_lease: Option<Bell>,
}

impl std::fmt::Debug for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quota").field("books", &self.books).finish_non_exhaustive()
    }
}

/// A quota at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Most permits; zero for any number.
    pub most: u32,
    /// Permits that are out, or reserved for a pool that will take them.
    pub used: u32,
    /// Permits that pools wait for.
    pub wanted: u32,
}

/// What a quota with others like it elsewhere has of what all may have together, and has use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Most permits of all together.
    pub most: u32,
    /// Most that there will be before another lease: what is leased, or more if more are out.
    pub held: u32,
    /// What is leased; none where all is its own.
    pub lease: Option<u32>,
    /// Permits whose connections are not idle, and those that pools wait for.
    pub need: u32,
    /// Permits that are out or reserved.
    pub used: u32,
}

/// What a pool can see of its account without a lock.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Connections that it has to give up.
    pub(super) owes: AtomicU32,
    /// Somebody waits: what has not been used for a while is better closed.
    pub(super) short: AtomicBool,
    /// Permits that are reserved for it.
    pub(super) reserved: AtomicU32,
    /// Connections that wait for a client, as the pool says.
    pub(super) idle: AtomicU32,
}

#[derive(Debug)]
struct Books {
    most: u32,
    /// What it may have of these, where others have the rest.
    lease: Option<u32>,
    /// Out or reserved.
    used: u32,
    /// Asked for and not reserved yet.
    wanted: u32,
    /// By number, so that nothing depends on chance.
    entries: BTreeMap<u64, Entry>,
    next_number: u64,
    /// Counts what was given.
    turns: u64,
    pressed: bool,
}

/// A pool in the books.
struct Entry {
    owner: u64,
    share: Share,
    held: u32,
    reserved: u32,
    wants: u32,
    owes: u32,
    /// Debts that are being paid: the connection is closed and not gone yet.
    closing: u32,
    /// Its account may still take permits.
    is_open: bool,
    /// When it was last given something: by count, and by the clock.
    turn: u64,
    since: Instant,
    signals: Arc<Signals>,
    bell: Bell,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { owner, held, reserved, wants, owes, closing, .. } = self;
        write!(f, "{owner:x}: held {held}, reserved {reserved}, wants {wants}, owes {owes}, closing {closing}")
    }
}

impl Quota {
    /// At most so many permits; zero for any number.
    #[must_use]
    pub fn new(most: u32) -> Arc<Self> {
        Self::make(most, None, None)
    }

    /// One that shares a bound with others elsewhere: none of it is its own until [`Quota::set_lease`] says so. The bell rings when more
    /// is wanted than it has.
    #[must_use]
    pub fn leased(most: u32, short_of_lease: Bell) -> Arc<Self> {
        Self::make(most, Some(0), Some(short_of_lease))
    }

    fn make(most: u32, lease: Option<u32>, short_of_lease: Option<Bell>) -> Arc<Self> {
        let (entries, now) = (BTreeMap::new(), 0);
        let books = Books { most, lease, used: 0, wanted: 0, entries, next_number: 0, turns: now, pressed: false };
        Arc::new(Self { books: Mutex::new(books), short_of_lease })
    }

    /// Another bound. What is out beyond it is called in.
    pub fn set_most(&self, most: u32) {
        let mut books = self.books();
        if books.most == most {
            return;
        }
        if books.most == 0 && books.lease.is_some() {
            // Nothing was leased while there was no bound: what is out stays, and there will not be more until more is leased.
            books.lease = Some(books.used);
        }
        books.most = most;
        books.balance(Instant::now());
        self.ring_if_short(&books);
    }

    /// How many of all permits are its own from now on; none: all of them. What is out beyond that is called in.
    pub fn set_lease(&self, lease: Option<u32>) {
        let mut books = self.books();
        if books.lease != lease {
            books.lease = lease;
            books.balance(Instant::now());
        }
    }

    /// What it has of what it shares, and has use for; none without a bound.
    #[must_use]
    pub fn holding(&self) -> Option<Holding> {
        let books = self.books();
        let Books { most, lease, used, .. } = *books;
        let held = lease.unwrap_or(0).max(used);
        (most > 0).then(|| Holding { most, held, lease, need: books.need(), used })
    }

    fn ring_if_short(&self, books: &Books) {
        let is_short = books.wanted > 0 && books.lease.is_some_and(|lease| lease < books.most);
        self.short_of_lease.iter().filter(|_| is_short).for_each(|bell| bell());
    }

    /// What it stands at.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let books = self.books();
        Standing { most: books.most, used: books.used, wanted: books.wanted }
    }

    pub(super) fn open(&self, owner: u64, share: Share, bell: Bell) -> (u64, Arc<Signals>) {
        let mut books = self.books();
        books.next_number += 1;
        let (number, signals) = (books.next_number, Arc::<Signals>::default());
        signals.short.store(books.pressed, Ordering::Relaxed);
        let kept = Arc::clone(&signals);
        let entry = Entry {
            owner,
            share,
            held: 0,
            reserved: 0,
            wants: 0,
            owes: 0,
            closing: 0,
            is_open: true,
            turn: 0,
            since: Instant::now(),
            signals: kept,
            bell,
        };
        books.entries.insert(number, entry);
        (number, signals)
    }

    pub(super) fn set_share(&self, number: u64, share: Share) {
        let mut books = self.books();
        if let Some(entry) = books.entries.get_mut(&number).filter(|entry| entry.share != share) {
            entry.share = share;
            books.balance(Instant::now());
        }
    }

    /// One that is reserved, or free.
    pub(super) fn take(&self, number: u64) -> bool {
        self.books().take(number, Instant::now())
    }

    /// Stands in line for so many more.
    pub(super) fn ask(&self, number: u64, more: u32) {
        let mut books = self.books();
        let Some(entry) = books.entries.get_mut(&number) else { return };
        entry.wants += more;
        books.wanted += more;
        books.balance(Instant::now());
        self.ring_if_short(&books);
    }

    /// Stands in line no longer, and takes nothing that was reserved.
    pub(super) fn withdraw(&self, number: u64) {
        let mut books = self.books();
        books.withdraw(number);
        books.balance(Instant::now());
    }

    /// Whether the pool closes a connection now because it owes one.
    pub(super) fn pay(&self, number: u64) -> bool {
        let mut books = self.books();
        let Some(entry) = books.entries.get_mut(&number).filter(|entry| entry.owes > 0) else { return false };
        entry.closing += 1;
        // Others that were asked for the same one owe it no longer.
        books.balance(Instant::now());
        true
    }

    /// Looks again whose time is over.
    pub(super) fn review(&self) {
        self.books().balance(Instant::now());
    }

    pub(super) fn give_back(&self, number: u64) {
        let mut books = self.books();
        let Some(entry) = books.entries.get_mut(&number) else { return };
        entry.held -= 1;
        entry.closing = entry.closing.saturating_sub(1);
        let is_over = !entry.is_open && entry.held == 0;
        if is_over {
            books.entries.remove(&number);
        }
        books.used -= 1;
        books.balance(Instant::now());
    }

    pub(super) fn close(&self, number: u64) {
        let mut books = self.books();
        books.withdraw(number);
        if let Some(entry) = books.entries.get_mut(&number) {
            entry.is_open = false;
            if entry.held == 0 {
                books.entries.remove(&number);
            }
        }
        books.balance(Instant::now());
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing in here is left half done by a panic: every method ends by balancing anew.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All pools of one owner, as they will be when what is under way has come to pass.
#[derive(Debug, Clone, Copy)]
struct Owner {
    id: u64,
    share: Share,
    held: u32,
    wants: u32,
    turn: u64,
    since: Instant,
}

impl Owner {
    fn level_with_one_more(&self) -> f64 {
        self.share.level(self.held + 1)
    }

    fn level_with_one_less(&self) -> f64 {
        self.share.level(self.held.saturating_sub(1))
    }

    fn is_below_its_least(&self) -> bool {
        self.held < self.share.least
    }

    /// When it must let others have their turn.
    fn turn_ends(&self) -> Instant {
        self.since + TURN * self.share.weight.max(1)
    }
}

/// A pool that can be asked for a connection.
struct Debtor {
    is_idle: bool,
    rank: f64,
    held: u32,
    /// Its owner's index.
    owner: usize,
    number: u64,
}

/// Who has to give up how many.
#[derive(Default)]
struct Debts {
    by_number: BTreeMap<u64, u32>,
    /// These are asked as well, and whoever has one free first gives it: what the others have may be in use for long.
    asked: BTreeSet<u64>,
}

impl Debts {
    fn of(&self, number: u64) -> u32 {
        self.by_number.get(&number).copied().unwrap_or(0)
    }

    fn published(&self, number: u64) -> u32 {
        self.of(number).max(u32::from(self.asked.contains(&number)))
    }

    /// One more, of the last of these; the index of its owner.
    fn add(&mut self, debtors: Vec<Debtor>) -> Option<usize> {
        let first = debtors.last()?;
        *self.by_number.entry(first.number).or_default() += 1;
        let owner = first.owner;
        self.asked.extend(debtors.iter().map(|debtor| debtor.number));
        Some(owner)
    }
}

impl Books {
    /// Most permits here; none for any number.
    fn bound(&self) -> Option<u32> {
        (self.most > 0).then(|| self.lease.map_or(self.most, |lease| lease.min(self.most)))
    }

    fn has_room(&self) -> bool {
        self.bound().is_none_or(|bound| self.used < bound)
    }

    /// What is not idle and will not be gone, and what is wanted.
    fn need(&self) -> u32 {
        let busy = |entry: &Entry| {
            let staying = (entry.held + entry.reserved).saturating_sub(entry.closing);
            staying.saturating_sub(entry.signals.idle.load(Ordering::Relaxed))
        };
        self.entries.values().map(busy).sum::<u32>() + self.wanted
    }

    fn take(&mut self, number: u64, now: Instant) -> bool {
        let has_room = self.has_room();
        let Some(entry) = self.entries.get_mut(&number) else { return false };
        if entry.reserved > 0 {
            entry.reserved -= 1;
            entry.signals.reserved.store(entry.reserved, Ordering::Relaxed);
        } else if has_room {
            self.used += 1;
            self.turns += 1;
            (entry.turn, entry.since) = (self.turns, now);
        } else {
            return false;
        }
        entry.held += 1;
        true
    }

    fn withdraw(&mut self, number: u64) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        self.wanted -= std::mem::take(&mut entry.wants);
        self.used -= std::mem::take(&mut entry.reserved);
        entry.signals.reserved.store(0, Ordering::Relaxed);
    }

    /// Gives out what is free, and says who owes what for those who still wait. Called after every change.
    fn balance(&mut self, now: Instant) {
        let excess = self.bound().map_or(0, |bound| self.used.saturating_sub(bound));
        if self.wanted == 0 && excess == 0 {
            if self.pressed {
                self.publish(&Debts::default(), false);
            }
            return;
        }
        let mut owners = self.owners();
        while self.has_room() {
            let Some(at) = neediest(&owners) else { break };
            self.reserve(&mut owners[at], now);
        }
        let debts = self.debts(owners, excess, now);
        self.publish(&debts, self.wanted > 0 || excess > 0);
    }

    fn owners(&self) -> Vec<Owner> {
        let mut owners: BTreeMap<u64, Owner> = BTreeMap::new();
        for entry in self.entries.values() {
            let owner = owners.entry(entry.owner).or_insert(Owner {
                id: entry.owner,
                share: entry.share,
                held: 0,
                wants: 0,
                turn: entry.turn,
                since: entry.since,
            });
            owner.held += (entry.held + entry.reserved).saturating_sub(entry.closing);
            owner.wants += entry.wants;
            owner.turn = owner.turn.max(entry.turn);
            owner.since = owner.since.max(entry.since);
        }
        owners.into_values().collect()
    }

    /// One for the pool of this owner that has waited longest for one.
    fn reserve(&mut self, owner: &mut Owner, now: Instant) {
        owner.wants -= 1;
        owner.held += 1;
        let waiting = self.entries.values_mut().filter(|entry| entry.owner == owner.id && entry.wants > 0);
        let Some(entry) = waiting.min_by_key(|entry| entry.turn) else { return };
        self.turns += 1;
        (entry.turn, entry.since) = (self.turns, now);
        (owner.turn, owner.since) = (self.turns, now);
        entry.wants -= 1;
        entry.reserved += 1;
        entry.signals.reserved.store(entry.reserved, Ordering::Relaxed);
        (entry.bell)();
        self.wanted -= 1;
        self.used += 1;
    }

    /// How many each pool has to give up, by its number.
    fn debts(&self, mut owners: Vec<Owner>, mut excess: u32, now: Instant) -> Debts {
        let mut debts = Debts::default();
        let mut coming: u32 = self.entries.values().map(|entry| entry.closing).sum();
        let covered = excess.min(coming);
        (excess, coming) = (excess - covered, coming - covered);
        while excess > 0 {
            let anybody = self.debtors(&owners, &debts, |owner, _| Some(owner.level_with_one_less()));
            let Some(owner) = debts.add(anybody) else { break };
            owners[owner].held -= 1;
            excess -= 1;
        }
        while let Some(at) = neediest(&owners) {
            if coming > 0 {
                coming -= 1;
            } else {
                let Some(owner) = debts.add(self.creditors(&owners, at, &debts, now)) else { break };
                owners[owner].held -= 1;
            }
            owners[at].held += 1;
            owners[at].wants -= 1;
        }
        debts
    }

    /// Of whom this owner may have one.
    fn creditors(&self, owners: &[Owner], at: usize, debts: &Debts, now: Instant) -> Vec<Debtor> {
        let claimant = owners[at];
        let others = |owner: &Owner| owner.id != claimant.id;
        // Who has more than its share, by more than the claimant would have with one more.
        let mut found = self.debtors(owners, debts, |owner, _| {
            let level = owner.level_with_one_less();
            (others(owner) && level >= claimant.level_with_one_more()).then_some(level)
        });
        // Whoever does not use what it has, the longest served first; then whoever's turn is over.
        let age = |owner: &Owner| (now - owner.since).as_secs_f64();
        if found.is_empty() && claimant.is_below_its_least() {
            found = self.debtors(owners, debts, |owner, is_idle| (others(owner) && is_idle).then(|| age(owner)));
        }
        if found.is_empty() && claimant.held == 0 {
            let is_over = |owner: &Owner| others(owner) && owner.turn_ends() <= now;
            found = self.debtors(owners, debts, |owner, _| is_over(owner).then(|| age(owner)));
        }
        found
    }

    /// The pools of those owners that are ranked, the one to ask first at the end: one with an idle connection, and then the highest.
    /// If there are any with an idle connection, only those.
    fn debtors(&self, owners: &[Owner], debts: &Debts, rank: impl Fn(&Owner, bool) -> Option<f64>) -> Vec<Debtor> {
        let ranked = self.entries.iter().filter_map(|(number, entry)| {
            let owed = debts.of(*number);
            if entry.held <= owed + entry.closing {
                return None;
            }
            let owner = owners.binary_search_by_key(&entry.owner, |owner| owner.id).ok()?;
            let is_idle = entry.signals.idle.load(Ordering::Relaxed) > owed;
            let rank = rank(&owners[owner], is_idle)?;
            Some(Debtor { is_idle, rank, held: entry.held - owed, owner, number: *number })
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by(|a, b| a.is_idle.cmp(&b.is_idle).then(a.rank.total_cmp(&b.rank)).then(a.held.cmp(&b.held)));
        if ranked.last().is_some_and(|last| last.is_idle) {
            ranked.retain(|debtor| debtor.is_idle);
        }
        ranked
    }

    /// Tells the pools what they owe and whether somebody waits, and rings for those who have to do something about it.
    fn publish(&mut self, debts: &Debts, pressed: bool) {
        let newly = pressed && !self.pressed;
        let told = std::mem::replace(&mut self.pressed, pressed) != pressed;
        for (number, entry) in &mut self.entries {
            let owes = debts.published(*number);
            if told {
                entry.signals.short.store(pressed, Ordering::Relaxed);
            }
            let more = owes > entry.owes;
            if owes != entry.owes {
                entry.owes = owes;
                entry.signals.owes.store(owes, Ordering::Relaxed);
            }
            if (more || newly) && entry.signals.idle.load(Ordering::Relaxed) > 0 {
                (entry.bell)();
            }
        }
    }
}

/// Who is served worst of those who want something; among equals, who was given something longest ago.
fn neediest(owners: &[Owner]) -> Option<usize> {
    let wanting = owners.iter().enumerate().filter(|(_, owner)| owner.wants > 0);
    let worse = |a: &Owner, b: &Owner| {
        a.level_with_one_more().total_cmp(&b.level_with_one_more()).then(a.turn.cmp(&b.turn)).then(a.id.cmp(&b.id))
    };
    wanting.min_by(|(_, a), (_, b)| worse(a, b)).map(|(at, _)| at)
}
