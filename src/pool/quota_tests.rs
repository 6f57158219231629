//! Pools of several owners under one quota, and several owners in one pool, in virtual time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep};

use super::tests::{Fake, MS, Server, limits, run, want};
use super::*;

/// Pools under one quota, whose bells are heard as in a relay thread.
struct House {
    quota: Arc<Quota>,
    server: Rc<Server>,
    rings: Arc<Notify>,
    pools: Rc<RefCell<Vec<Rc<Pool<Fake>>>>>,
    hearing: JoinHandle<()>,
}

impl House {
    fn new(most: u32) -> Self {
        let (rings, pools) = (Arc::new(Notify::new()), Rc::<RefCell<Vec<Rc<Pool<Fake>>>>>::default());
        let hearing = spawn_local({
            let (rings, pools) = (Arc::clone(&rings), Rc::clone(&pools));
            async move {
                loop {
                    rings.notified().await;
                    let pools = pools.borrow().clone();
                    pools.iter().for_each(Pool::heed);
                }
            }
        });
        Self { quota: Quota::new(most), server: Rc::default(), rings, pools, hearing }
    }

    fn pool(&self, owner: u64, limits: Limits, share: Share) -> Rc<Pool<Fake>> {
        let rings = Arc::clone(&self.rings);
        let account = Account::open(&self.quota, owner, share, Arc::new(move || rings.notify_one()));
        let manager = Fake { server: Rc::clone(&self.server), latency: 5 * MS };
        let pool = Pool::under(manager, limits, vec![account]);
        self.pools.borrow_mut().push(Rc::clone(&pool));
        pool
    }

    /// Everybody leaves; nothing is left in the books.
    async fn ends(self) {
        self.pools.borrow().iter().for_each(|pool| pool.drain());
        sleep(Duration::from_secs(1)).await;
        self.pools.borrow_mut().clear();
        self.hearing.abort();
        assert_eq!(self.server.live.get(), 0);
        assert_eq!(self.quota.standing(), Standing { most: self.quota.standing().most, ..Standing::default() });
    }
}

/// Clients that each hold a connection for some time, again and again.
struct Crowd {
    stop: Arc<AtomicBool>,
    served: Rc<Cell<u32>>,
    longest: Rc<Cell<Duration>>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn new(pool: &Rc<Pool<Fake>>, size: usize, holds: Duration, rests: Duration) -> Self {
        let (stop, served, longest) = (Arc::<AtomicBool>::default(), Rc::<Cell<u32>>::default(), Rc::default());
        let clients = (0..size)
            .map(|_| {
                let (pool, stop, served, longest) =
                    (Rc::clone(pool), Arc::clone(&stop), Rc::clone(&served), Rc::<Cell<Duration>>::clone(&longest));
                spawn_local(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        let checkout = pool.checkout(want(1, 0)).await.unwrap();
                        longest.set(longest.get().max(asked.elapsed()));
                        served.set(served.get() + 1);
                        sleep(holds).await;
                        checkout.checkin();
                        sleep(rests).await;
                    }
                })
            })
            .collect();
        Self { stop, served, longest, clients }
    }

    async fn leaves(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

fn held(pool: &Rc<Pool<Fake>>) -> u32 {
    let stats = pool.stats();
    stats.active + stats.idle + stats.connecting
}

#[test]
fn a_crowd_takes_what_is_free_and_makes_room_up_to_anothers_share() {
    run(async {
        let house = House::new(20);
        let wide = Limits { queue_length_max: 1000, ..limits(20) };
        let [big, small] = [1, 2].map(|owner| house.pool(owner, wide, Share::default()));
        let crowd = Crowd::new(&big, 500, 10 * MS, Duration::ZERO);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((held(&big), house.quota.standing().used), (20, 20));
        let few = Crowd::new(&small, 10, 10 * MS, Duration::ZERO);
        sleep(Duration::from_secs(1)).await;
        assert_eq!((held(&big), held(&small)), (10, 10));
        few.longest.set(Duration::ZERO);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(few.longest.get(), Duration::ZERO, "nobody within its share waits");
        few.leaves().await;
        // What it does not use goes back to the crowd after a while.
        sleep(Duration::from_secs(30)).await;
        assert_eq!((held(&big), held(&small)), (20, 0));
        crowd.leaves().await;
        assert_eq!(house.server.live_max.get(), 20);
        house.ends().await;
    });
}

#[test]
fn weights_and_leasts_say_how_many_each_gets() {
    run(async {
        let house = House::new(20);
        let shares = [Share { weight: 3, least: 1 }, Share::default(), Share { weight: 1, least: 9 }];
        let pools: Vec<_> =
            shares.into_iter().enumerate().map(|(n, share)| house.pool(n as u64, limits(20), share)).collect();
        let crowds: Vec<_> = pools.iter().map(|pool| Crowd::new(pool, 50, 10 * MS, Duration::ZERO)).collect();
        sleep(Duration::from_secs(5)).await;
        let helds: Vec<_> = pools.iter().map(held).collect();
        // Nine are left beyond the leasts, which go 3 : 1 : 1.
        assert!(
            (6..=7).contains(&helds[0]) && (2..=3).contains(&helds[1]) && (10..=11).contains(&helds[2]),
            "{helds:?}"
        );
        assert_eq!(helds.iter().sum::<u32>(), 20);
        for crowd in crowds {
            crowd.leaves().await;
        }
        house.ends().await;
    });
}

#[test]
fn more_owners_than_connections_take_turns() {
    run(async {
        let house = House::new(2);
        let pools: Vec<_> = (0..6).map(|owner| house.pool(owner, limits(4), Share::default())).collect();
        let crowds: Vec<_> = pools.iter().map(|pool| Crowd::new(pool, 20, 5 * MS, Duration::ZERO)).collect();
        sleep(Duration::from_secs(60)).await;
        let served: Vec<_> = crowds.iter().map(|crowd| crowd.served.get()).collect();
        let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
        assert!(*least > 0 && *most < least * 3 / 2, "{served:?}");
        assert_eq!(house.server.live_max.get(), 2);
        for crowd in crowds {
            crowd.leaves().await;
        }
        house.ends().await;
    });
}

#[test]
fn a_connection_that_is_long_in_use_keeps_nobody_from_a_turn_on_another() {
    run(async {
        let house = House::new(2);
        let [stuck, busy, third] = [1, 2, 3].map(|owner| house.pool(owner, limits(4), Share::default()));
        let long = stuck.checkout(want(1, 0)).await.unwrap();
        let waiting = Crowd::new(&stuck, 3, 5 * MS, Duration::ZERO);
        let crowd = Crowd::new(&busy, 3, 5 * MS, Duration::ZERO);
        sleep(Duration::from_secs(1)).await;
        let asked = Instant::now();
        third.checkout(want(1, 0)).await.unwrap().checkin();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        long.checkin();
        waiting.leaves().await;
        crowd.leaves().await;
        house.ends().await;
    });
}

#[test]
fn an_idle_connection_makes_room_at_once_for_who_has_none() {
    run(async {
        let house = House::new(1);
        let [one, two] = [1, 2].map(|owner| house.pool(owner, limits(4), Share::default()));
        for _ in 0..10 {
            for pool in [&one, &two] {
                let asked = Instant::now();
                pool.checkout(want(1, 0)).await.unwrap().checkin();
                assert!(asked.elapsed() < 10 * MS, "{:?}", asked.elapsed());
            }
        }
        assert_eq!((house.server.live_max.get(), house.server.made.get()), (1, 20));
        house.ends().await;
    });
}

#[test]
fn another_class_of_the_same_owner_gets_its_connection_too() {
    run(async {
        let house = House::new(1);
        let pool = house.pool(1, limits(4), Share::default());
        for class in [1, 2, 1, 2] {
            pool.checkout(want(class, 0)).await.unwrap().checkin();
        }
        assert_eq!(house.server.live_max.get(), 1);
        house.ends().await;
    });
}

#[test]
fn who_waits_no_longer_leaves_no_permit_behind() {
    run(async {
        let house = House::new(1);
        let [one, two] = [1, 2].map(|owner| house.pool(owner, limits(4), Share::default()));
        let held = one.checkout(want(1, 0)).await.unwrap();
        for _ in 0..3 {
            assert!(tokio::time::timeout(20 * MS, two.checkout(want(1, 0))).await.is_err());
            assert_eq!(house.quota.standing(), Standing { most: 1, used: 1, wanted: 0 });
        }
        held.checkin();
        sleep(MS).await;
        assert_eq!(one.stats().idle, 1, "nobody waits for it any more");
        // It leaves between the permit's being reserved and its being taken.
        let held = one.checkout(want(1, 0)).await.unwrap();
        let waiting = spawn_local({
            let two = Rc::clone(&two);
            async move { two.checkout(want(1, 0)).await.map(drop) }
        });
        sleep(MS).await;
        drop(held);
        waiting.abort();
        sleep(10 * MS).await;
        assert_eq!(house.quota.standing().wanted, 0);
        one.checkout(want(1, 0)).await.unwrap().checkin();
        house.ends().await;
    });
}

#[test]
fn a_server_in_trouble_keeps_no_permit() {
    run(async {
        let house = House::new(1);
        let [one, two] = [1, 2].map(|owner| house.pool(owner, limits(4), Share::default()));
        house.server.down.set(true);
        for pool in [&one, &two, &one, &two] {
            assert!(matches!(pool.checkout(want(1, 0)).await.map(drop), Err(CheckoutError::Connect(_))));
            assert_eq!(house.quota.standing(), Standing { most: 1, ..Standing::default() });
        }
        house.server.down.set(false);
        sleep(Duration::from_secs(20)).await;
        one.checkout(want(1, 0)).await.unwrap().checkin();
        house.ends().await;
    });
}

#[test]
fn a_lower_bound_calls_in_what_is_out_and_a_higher_one_lets_more_out() {
    run(async {
        let house = House::new(0);
        let [one, two] = [1, 2].map(|owner| house.pool(owner, limits(10), Share::default()));
        let crowds = [&one, &two].map(|pool| Crowd::new(pool, 20, 5 * MS, Duration::ZERO));
        sleep(100 * MS).await;
        assert_eq!(house.quota.standing().used, 20);
        house.quota.set_most(6);
        sleep(100 * MS).await;
        assert_eq!((house.server.live.get(), held(&one), held(&two)), (6, 3, 3));
        house.quota.set_most(12);
        sleep(200 * MS).await;
        assert_eq!((held(&one), held(&two)), (6, 6));
        for crowd in crowds {
            crowd.leaves().await;
        }
        house.ends().await;
    });
}

#[test]
fn a_pools_own_size_can_change_while_it_works() {
    run(async {
        let house = House::new(0);
        let pool = house.pool(1, limits(4), Share::default());
        let crowd = Crowd::new(&pool, 20, 5 * MS, Duration::ZERO);
        for size in [4, 2, 8, 1] {
            pool.set_limits(limits(size));
            sleep(100 * MS).await;
            assert_eq!((held(&pool), house.server.live.get()), (size, size));
        }
        crowd.leaves().await;
        house.ends().await;
    });
}

#[test]
fn lanes_take_turns_however_many_wait_in_one() {
    let (crowd, few) = (Lane::default(), Lane::default());
    let mut queue: Vec<_> = (0..500).map(|n| (crowd.join(0), n, "crowd")).collect();
    queue.extend((500..504).map(|n| (few.join(0), n, "few")));
    queue.sort_unstable();
    let places: Vec<_> = (0..queue.len()).filter(|at| queue[*at].2 == "few").collect();
    assert_eq!(places, [1, 3, 5, 7]);
}

#[test]
fn a_lane_of_three_times_the_weight_is_served_three_times_as_often() {
    let [strong, plain] = [3, 1].map(|weight| {
        let lane = Lane::default();
        lane.set(Share { weight, least: 0 }, 0, 0);
        lane
    });
    let mut queue: Vec<_> = (0..90).map(|n| (strong.join(0), n, true)).collect();
    queue.extend((90..180).map(|n| (plain.join(0), n, false)));
    queue.sort_unstable();
    assert_eq!(queue[..80].iter().filter(|(.., is_strong)| *is_strong).count(), 60);
}

#[test]
fn a_lane_without_any_connection_is_served_before_those_that_have_some() {
    let lane = Lane::default();
    lane.set(Share { weight: 1, least: 2 }, 0, 0);
    assert_eq!([lane.join(7), lane.join(7)], [7, 7]);
    assert!(lane.join(7) > 7);
    lane.leave();
    lane.take();
    assert!(lane.join(7) > 7, "one has a connection and two wait");
}
