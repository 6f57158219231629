//! Pools against a manager of fakes, in virtual time.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::*;

pub(super) const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    class: u64,
    affinity: u64,
    refused: bool,
}

pub(super) fn want(class: u64, affinity: u64) -> Want {
    Want { class, affinity, refused: false }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Error {
    Down,
    Refused,
}

/// What the fake server does and has seen.
#[derive(Default)]
pub(super) struct Server {
    pub(super) down: Cell<bool>,
    attempts: RefCell<Vec<Instant>>,
    pub(super) made: Cell<u64>,
    pub(super) live: Cell<u32>,
    pub(super) live_max: Cell<u32>,
    dead: RefCell<HashSet<u64>>,
}

pub(super) struct Conn {
    id: u64,
    class: u64,
    affinity: u64,
    server: Rc<Server>,
    _permits: Permits,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.server.live.set(self.server.live.get() - 1);
    }
}

pub(super) struct Fake {
    pub(super) server: Rc<Server>,
    pub(super) latency: Duration,
}

impl Manage for Fake {
    type Conn = Conn;
    type Want = Want;
    type Error = Error;

    fn class(&self, want: &Want) -> u64 {
        want.class
    }
    fn affinity(&self, want: &Want) -> u64 {
        want.affinity
    }
    fn class_of(&self, conn: &Conn) -> u64 {
        conn.class
    }
    fn affinity_of(&self, conn: &Conn) -> u64 {
        conn.affinity
    }
    fn is_alive(&self, conn: &mut Conn) -> bool {
        !self.server.dead.borrow().contains(&conn.id)
    }
    fn connect(&self, want: &Want, permits: Permits) -> impl Future<Output = Result<Conn, Error>> + 'static {
        let (server, latency, want) = (Rc::clone(&self.server), self.latency, *want);
        async move {
            server.attempts.borrow_mut().push(Instant::now());
            sleep(latency).await;
            if server.down.get() {
                return Err(Error::Down);
            }
            if want.refused {
                return Err(Error::Refused);
            }
            server.made.set(server.made.get() + 1);
            server.live.set(server.live.get() + 1);
            server.live_max.set(server.live_max.get().max(server.live.get()));
            let (class, affinity) = (want.class, want.affinity);
            Ok(Conn { id: server.made.get(), class, affinity, server, _permits: permits })
        }
    }
    fn counts_against_server(&self, error: &Error) -> bool {
        *error == Error::Down
    }
}

pub(super) fn limits(size: u32) -> Limits {
    Limits {
        size,
        queue_length_max: 100,
        checkout_timeout: Duration::from_secs(15),
        idle_timeout: Duration::from_secs(600),
        max_lifetime: Duration::from_secs(3600),
        connect_concurrency: 4,
    }
}

fn pool(limits: Limits) -> (Rc<Pool<Fake>>, Rc<Server>) {
    let server = Rc::new(Server::default());
    (Pool::new(Fake { server: Rc::clone(&server), latency: 5 * MS }, limits), server)
}

pub(super) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

/// `n` connections of these wants, opened and given back in this order.
async fn warm(pool: &Rc<Pool<Fake>>, wants: &[Want]) -> Vec<u64> {
    let mut open = Vec::new();
    for want in wants {
        open.push(pool.checkout(*want).await.unwrap());
    }
    let ids = open.iter().map(|c| c.id).collect();
    open.into_iter().for_each(Checkout::checkin);
    ids
}

#[test]
fn the_most_recently_used_connection_of_the_same_affinity_comes_first() {
    run(async {
        let (pool, server) = pool(limits(4));
        let ids = warm(&pool, &[want(1, 7), want(1, 7), want(1, 8), want(2, 7)]).await;
        let first = pool.try_checkout(&want(1, 7)).unwrap();
        let second = pool.try_checkout(&want(1, 7)).unwrap();
        let third = pool.try_checkout(&want(1, 7)).unwrap();
        assert_eq!([first.id, second.id, third.id], [ids[1], ids[0], ids[2]]);
        assert!(pool.try_checkout(&want(1, 7)).is_none(), "a connection of class 2 served class 1");
        assert_eq!(server.made.get(), 4);
    });
}

#[test]
fn a_full_pool_closes_the_least_recently_used_of_another_class() {
    run(async {
        let (pool, server) = pool(limits(2));
        let ids = warm(&pool, &[want(1, 0), want(1, 1)]).await;
        let other = pool.checkout(want(2, 0)).await.unwrap();
        assert_eq!(pool.try_checkout(&want(1, 0)).unwrap().id, ids[1]);
        drop(other);
        assert_eq!(server.live_max.get(), 2);
    });
}

#[test]
fn waiters_are_served_first_come_first() {
    run(async {
        let (pool, server) = pool(limits(1));
        let held = pool.checkout(want(1, 0)).await.unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..5)
            .map(|n| {
                let (pool, order) = (Rc::clone(&pool), Rc::clone(&order));
                spawn_local(async move {
                    let checkout = pool.checkout(want(1, n)).await.unwrap();
                    order.borrow_mut().push(n);
                    sleep(MS).await;
                    checkout.checkin();
                })
            })
            .collect();
        sleep(MS).await;
        assert_eq!(pool.stats().waiting, 5);
        assert!(pool.try_checkout(&want(1, 0)).is_none(), "a newcomer passed the queue");
        held.checkin();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.borrow(), [0, 1, 2, 3, 4]);
        assert_eq!((server.made.get(), pool.stats().idle), (1, 1));
    });
}

#[test]
fn a_dropped_wait_loses_neither_connection_nor_place() {
    run(async {
        let (pool, server) = pool(limits(1));
        let held = pool.checkout(want(1, 0)).await.unwrap();
        let mut waiting = Box::pin(pool.checkout(want(1, 0)));
        assert!(timeout(MS, &mut waiting).await.is_err());
        held.checkin();
        // The connection is on its way to the waiter, which goes away without looking.
        assert_eq!((pool.stats().active, pool.stats().waiting), (1, 0));
        drop(waiting);
        assert_eq!((pool.stats().active, pool.stats().idle), (0, 1));
        assert_eq!(pool.try_checkout(&want(1, 0)).unwrap().id, 1);
        assert_eq!(server.made.get(), 1);
    });
}

#[test]
fn an_abandoned_attempt_to_connect_ends_as_an_idle_connection() {
    run(async {
        let (pool, _) = pool(limits(1));
        assert!(timeout(MS, pool.checkout(want(1, 0))).await.is_err());
        assert_eq!(pool.stats(), Stats { connecting: 1, ..Stats::default() });
        sleep(10 * MS).await;
        assert_eq!(pool.stats(), Stats { idle: 1, ..Stats::default() });
    });
}

#[test]
fn an_abandoned_attempt_serves_the_next_client_of_its_class() {
    run(async {
        let (pool, server) = pool(limits(8));
        assert!(timeout(MS, pool.checkout(want(1, 0))).await.is_err());
        let checkout = pool.checkout(want(1, 0)).await.unwrap();
        assert_eq!((server.attempts.borrow().len(), pool.stats().active), (1, 1));
        drop(checkout);
    });
}

#[test]
fn a_dropped_checkout_is_closed_and_its_place_goes_to_the_next() {
    run(async {
        let (pool, server) = pool(limits(1));
        let held = pool.checkout(want(1, 0)).await.unwrap();
        let next = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.checkout(want(1, 0)).await.unwrap().id }
        });
        sleep(MS).await;
        drop(held);
        assert_eq!(next.await.unwrap(), 2);
        assert_eq!((server.live.get(), server.live_max.get()), (0, 1));
        assert_eq!(pool.stats(), Stats::default());
    });
}

#[test]
fn waits_are_bounded_in_time_and_number() {
    run(async {
        let (pool, _) = pool(Limits { queue_length_max: 1, ..limits(1) });
        let held = pool.checkout(want(1, 0)).await.unwrap();
        let waiting = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.checkout(want(1, 0)).await.map(|c| c.id) }
        });
        sleep(MS).await;
        assert_eq!(pool.checkout(want(1, 0)).await.unwrap_err(), CheckoutError::QueueFull(1));
        let begun = Instant::now();
        assert_eq!(waiting.await.unwrap(), Err(CheckoutError::Timeout(Duration::from_secs(15))));
        assert!(begun.elapsed() >= Duration::from_secs(14));
        assert_eq!(pool.stats().waiting, 0);
        held.checkin();
    });
}

#[test]
fn a_failing_server_is_left_alone_and_everyone_is_told_at_once() {
    run(async {
        let (pool, server) = pool(limits(10));
        server.down.set(true);
        let begun = Instant::now();
        let mut told = 0;
        while begun.elapsed() < Duration::from_secs(60) {
            let clients: Vec<_> = (0..20)
                .map(|_| {
                    let pool = Rc::clone(&pool);
                    spawn_local(async move {
                        let asked = Instant::now();
                        let error = pool.checkout(want(1, 0)).await.map(drop).unwrap_err();
                        (error, asked.elapsed())
                    })
                })
                .collect();
            for client in clients {
                let (error, waited) = client.await.unwrap();
                assert_eq!(error, CheckoutError::Connect(Error::Down));
                assert!(waited <= 10 * MS, "{waited:?}");
                told += 1;
            }
            sleep(50 * MS).await;
        }
        let attempts = server.attempts.borrow().len();
        assert!(told > 20_000 && (8..=24).contains(&attempts), "{attempts} attempts for {told} clients");
        // The last wait may just have ended: after one more attempt there is another.
        assert!(pool.checkout(want(1, 0)).await.is_err());
        assert!(pool.is_backing_off() && pool.is_idle());

        server.down.set(false);
        sleep(Duration::from_secs(15)).await;
        pool.checkout(want(1, 0)).await.unwrap().checkin();
        assert!(!pool.is_backing_off());
    });
}

#[test]
fn who_waits_behind_a_busy_connection_gets_a_new_one_when_the_server_is_back() {
    run(async {
        let (pool, server) = pool(limits(2));
        let held = pool.checkout(want(1, 0)).await.unwrap();
        server.down.set(true);
        let waiting = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.checkout(want(1, 0)).await.map(|c| c.id) }
        });
        sleep(10 * MS).await;
        assert!(pool.is_backing_off() && !waiting.is_finished());
        server.down.set(false);
        assert_eq!(waiting.await.unwrap(), Ok(2));
        held.checkin();
    });
}

#[test]
fn a_refused_want_concerns_only_who_asked() {
    run(async {
        let (pool, server) = pool(limits(4));
        let refused = Want { refused: true, ..want(1, 0) };
        for _ in 0..3 {
            let (bad, good) = tokio::join!(pool.checkout(refused), pool.checkout(want(1, 0)));
            assert_eq!(bad.map(drop).unwrap_err(), CheckoutError::Connect(Error::Refused));
            drop(good.unwrap());
        }
        assert_eq!(server.attempts.borrow().len(), 6);
        assert!(!pool.is_backing_off());
    });
}

#[test]
fn a_refusal_never_reaches_another_client_that_adopted_the_attempt() {
    run(async {
        let (pool, _) = pool(limits(1));
        let refused = Want { refused: true, ..want(1, 0) };
        assert!(timeout(MS, pool.checkout(refused)).await.is_err());
        pool.checkout(want(1, 0)).await.unwrap().checkin();
    });
}

#[test]
fn a_crowd_of_one_class_does_not_starve_the_head_of_the_queue() {
    run(async {
        let (pool, server) = pool(limits(1));
        let held = pool.checkout(want(1, 0)).await.unwrap();
        let head = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.checkout(want(2, 0)).await.map(|c| c.class) }
        });
        let served = Rc::new(Cell::new(0));
        let crowd: Vec<_> = (0..50)
            .map(|_| {
                let (pool, served) = (Rc::clone(&pool), Rc::clone(&served));
                spawn_local(async move {
                    let checkout = pool.checkout(want(1, 0)).await.unwrap();
                    served.set(served.get() + 1);
                    sleep(MS).await;
                    checkout.checkin();
                })
            })
            .collect();
        sleep(MS).await;
        held.checkin();
        assert_eq!(head.await.unwrap(), Ok(2));
        assert_eq!(served.get(), 16);
        for client in crowd {
            client.await.unwrap();
        }
        assert_eq!(server.live_max.get(), 1);
    });
}

#[test]
fn attempts_to_connect_are_bounded() {
    run(async {
        let (pool, server) = pool(Limits { connect_concurrency: 3, ..limits(10) });
        let clients: Vec<_> = (0..10)
            .map(|n| {
                let pool = Rc::clone(&pool);
                spawn_local(async move { pool.checkout(want(1, n)).await.unwrap() })
            })
            .collect();
        sleep(MS).await;
        assert_eq!((pool.stats().connecting, pool.stats().waiting), (3, 10));
        for client in clients {
            client.await.unwrap().checkin();
        }
        let begun = server.attempts.borrow();
        assert!(begun.windows(4).all(|four| four[3] - four[0] >= 5 * MS), "{begun:?}");
    });
}

#[test]
fn unused_connections_are_closed() {
    run(async {
        let (pool, server) = pool(limits(4));
        warm(&pool, &[want(1, 0), want(1, 1)]).await;
        sleep(Duration::from_secs(400)).await;
        pool.checkout(want(1, 0)).await.unwrap().checkin();
        sleep(Duration::from_secs(300)).await;
        pool.sweep(Instant::now());
        assert_eq!((pool.stats().idle, server.live.get()), (1, 1));
    });
}

#[test]
fn old_connections_are_closed_and_not_all_at_once() {
    run(async {
        let (pool, _) = pool(Limits { idle_timeout: Duration::ZERO, ..limits(50) });
        warm(&pool, &(0..50).map(|n| want(1, n)).collect::<Vec<_>>()).await;
        sleep(Duration::from_secs(3230)).await;
        pool.sweep(Instant::now());
        assert_eq!(pool.stats().idle, 50);
        sleep(Duration::from_secs(190)).await;
        pool.sweep(Instant::now());
        let left = pool.stats().idle;
        assert!((1..50).contains(&left), "{left} of 50 left");
        let held = pool.checkout(want(1, 0)).await.unwrap();
        sleep(Duration::from_secs(200)).await;
        pool.sweep(Instant::now());
        assert_eq!((pool.stats().idle, pool.stats().active), (0, 1));
        held.checkin();
        assert_eq!(pool.stats(), Stats::default());
    });
}

#[test]
fn dead_connections_are_not_lent() {
    run(async {
        let (pool, server) = pool(limits(3));
        let ids = warm(&pool, &[want(1, 0), want(1, 0), want(1, 0)]).await;
        server.dead.borrow_mut().extend([ids[2], ids[0]]);
        assert_eq!(pool.try_checkout(&want(1, 0)).unwrap().id, ids[1]);
        assert_eq!(pool.stats().idle, 1);
        pool.sweep(Instant::now());
        assert_eq!(pool.stats(), Stats::default());
        assert_eq!(server.live.get(), 0);
    });
}

#[test]
fn a_draining_pool_closes_everything_and_serves_nobody() {
    run(async {
        let (pool, server) = pool(limits(2));
        warm(&pool, &[want(1, 0), want(1, 0)]).await;
        let held = pool.checkout(want(1, 0)).await.unwrap();
        let other = pool.checkout(want(1, 0)).await.unwrap();
        let waiting = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.checkout(want(1, 0)).await.map(drop) }
        });
        sleep(MS).await;
        drop(other);
        pool.drain();
        assert_eq!(waiting.await.unwrap(), Err(CheckoutError::Draining));
        assert_eq!(pool.checkout(want(1, 0)).await.map(drop), Err(CheckoutError::Draining));
        held.checkin();
        sleep(10 * MS).await;
        assert_eq!((server.live.get(), pool.stats()), (0, Stats::default()));
    });
}

#[derive(Debug, Clone)]
enum Step {
    Ask { class: u64, affinity: u64, refused: bool },
    Checkin(usize),
    Drop(usize),
    Abandon(usize),
    Sleep(u64),
    Down(bool),
    Kill,
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..3u64, 0..3u64, prop::bool::weighted(0.1))
            .prop_map(|(class, affinity, refused)| Step::Ask { class, affinity, refused }),
        5 => any::<prop::sample::Index>().prop_map(|i| Step::Checkin(i.index(64))),
        2 => any::<prop::sample::Index>().prop_map(|i| Step::Drop(i.index(64))),
        2 => any::<prop::sample::Index>().prop_map(|i| Step::Abandon(i.index(64))),
        4 => (0..40u64).prop_map(Step::Sleep),
        1 => prop::bool::weighted(0.3).prop_map(Step::Down),
        1 => Just(Step::Kill),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..120)
}

type Asked = tokio::task::JoinHandle<Result<Checkout<Fake>, CheckoutError<Error>>>;

/// One client per `Ask`; whatever it is told, the books agree with the world after each step.
async fn replay(steps: Vec<Step>) {
    let (pool, server) = pool(limits(3));
    let mut asked: Vec<Asked> = Vec::new();
    let mut held: Vec<Checkout<Fake>> = Vec::new();
    for step in steps {
        match step {
            Step::Ask { class, affinity, refused } => {
                let pool = Rc::clone(&pool);
                asked.push(spawn_local(async move { pool.checkout(Want { class, affinity, refused }).await }));
            }
            Step::Checkin(n) if !held.is_empty() => held.swap_remove(n % held.len()).checkin(),
            Step::Drop(n) if !held.is_empty() => drop(held.swap_remove(n % held.len())),
            Step::Abandon(n) if !asked.is_empty() => {
                let client = asked.swap_remove(n % asked.len());
                client.abort();
                held.extend(client.await.ok().and_then(Result::ok));
            }
            Step::Sleep(ms) => sleep(Duration::from_millis(ms)).await,
            Step::Down(down) => server.down.set(down),
            Step::Kill => {
                server.dead.borrow_mut().insert(server.made.get());
            }
            Step::Sweep => pool.sweep(Instant::now()),
            Step::Checkin(_) | Step::Drop(_) | Step::Abandon(_) => {}
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        let mut waiting = Vec::new();
        for client in asked {
            if client.is_finished() {
                held.extend(client.await.unwrap().ok());
            } else {
                waiting.push(client);
            }
        }
        asked = waiting;
        let stats = pool.stats();
        assert_eq!(stats.active as usize, held.len());
        assert_eq!(stats.waiting as usize, asked.len());
        assert_eq!(stats.active + stats.idle, server.live.get());
        assert!(stats.active + stats.idle + stats.connecting <= 3);
    }
    server.down.set(false);
    held.into_iter().for_each(Checkout::checkin);
    // Nobody is forgotten: whoever still waits is served, or told why not.
    let served = asked.into_iter().map(|client| {
        spawn_local(async move {
            match client.await.unwrap() {
                Ok(checkout) => checkout.checkin(),
                Err(error) => assert!(matches!(error, CheckoutError::Connect(_)), "{error}"),
            }
        })
    });
    for client in served.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    pool.drain();
    assert_eq!((pool.stats(), server.live.get()), (Stats::default(), 0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn the_books_agree_with_the_world(steps in steps()) {
        run(replay(steps));
    }
}

#[test]
fn a_health_check_takes_each_unused_connection_once_and_is_no_use_of_it() {
    run(async {
        let (pool, _server) = pool(Limits { idle_timeout: Duration::from_secs(100), ..limits(4) });
        let ids = warm(&pool, &[want(1, 0), want(1, 0)]).await;
        let interval = Duration::from_secs(30);
        assert!(pool.take_unchecked(interval).is_none(), "it was used just now");
        sleep(Duration::from_secs(40)).await;
        let first = pool.take_unchecked(interval).unwrap();
        let second = pool.take_unchecked(interval).unwrap();
        assert_eq!([first.id, second.id], [ids[0], ids[1]]);
        assert_eq!(pool.stats().active, 2);
        first.checkin_checked();
        second.checkin_checked();
        assert!(pool.take_unchecked(interval).is_none(), "it was checked just now");
        assert_eq!(pool.try_checkout(&want(1, 0)).unwrap().id, ids[1], "the order of use is kept");
        sleep(Duration::from_secs(70)).await;
        pool.sweep(Instant::now());
        assert_eq!(pool.stats().idle, 0, "a check kept an unused connection alive");
    });
}
