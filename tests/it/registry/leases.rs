//! What instances lease of a server's connections: never more together than it gives, whatever they ask for and however late.

use pgtenant::registry::{Ask, Lease, Leases, Registry, Wish};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::fixture::{furnished, open};
use crate::support::Database;

/// An instance that says something of server `main`.
struct Speaker {
    registry: Registry,
    id: Uuid,
    turn: i64,
}

impl Speaker {
    fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), id: Uuid::new_v4(), turn: 0 }
    }

    async fn says(&mut self, held: u32, need: u32, ask: u32) -> Leases {
        self.turn += 1;
        self.says_in(self.turn, held, need, ask).await.expect("an answer")
    }

    /// Its part afterwards.
    async fn gets(&mut self, held: u32, need: u32, ask: u32) -> u32 {
        let leases = self.says(held, need, ask).await;
        self.part(&leases)
    }

    async fn says_in(&self, turn: i64, held: u32, need: u32, ask: u32) -> Option<Leases> {
        let wishes = ["elsewhere", "main"].map(|name| Wish { server: name.parse().unwrap(), held, need, ask });
        let ask = Ask { instance: self.id, turn, leaving: false, wishes: wishes.into() };
        let mut leases = self.registry.lease(&ask).await.unwrap();
        assert!(leases.len() <= 1, "of the server that is there: {leases:?}");
        leases.pop()
    }

    fn part(&self, leases: &Leases) -> u32 {
        let own = |lease: &&Lease| lease.instance == self.id;
        leases.all.iter().find(own).expect("its own").connections
    }
}

async fn alter(database: &Database, sql: &str) {
    database.admin.batch_execute(sql).await.expect("alter the registry");
}

#[tokio::test]
async fn leases_are_never_more_together_than_the_server_gives() {
    let (database, _admin) = furnished().await;
    let registry = open(&database).await;
    let mut instances = JoinSet::new();
    for _ in 0..6 {
        let mut speaker = Speaker::new(&registry);
        instances.spawn(async move {
            let (mut held, mut most) = (0, 0);
            for _ in 0..20 {
                let leases = speaker.says(held, 0, rand::random_range(0..60)).await;
                let sum: u32 = leases.all.iter().map(|lease| lease.connections).sum();
                assert!(sum <= 90 && leases.most == 90, "{leases:?}");
                let part = speaker.part(&leases);
                assert!(part >= held, "what is held is not taken away");
                most = most.max(part);
                // It gives some back, sometimes.
                held = rand::random_range(0..=part);
            }
            most
        });
    }
    let most = instances.join_all().await;
    assert!(most.iter().all(|most| *most > 0), "{most:?}");
}

#[tokio::test]
async fn what_was_overtaken_by_a_later_word_of_the_same_instance_does_nothing() {
    let (database, _admin) = furnished().await;
    let registry = open(&database).await;
    let mut speaker = Speaker::new(&registry);
    assert_eq!(speaker.part(&speaker.says_in(7, 0, 0, 40).await.expect("an answer")), 40);
    assert_eq!(speaker.says_in(6, 0, 0, 5).await, None);
    assert_eq!(speaker.says_in(7, 0, 0, 5).await, None);
    let mut other = Speaker::new(&registry);
    assert_eq!(other.gets(0, 0, 90).await, 50, "the rest of what the first still has");
    speaker.turn = 7;
    assert_eq!(speaker.gets(5, 0, 5).await, 5);
    registry.end_leases(speaker.id).await.unwrap();
    assert_eq!(other.gets(50, 0, 90).await, 90);
}

#[tokio::test]
async fn a_lease_ends_with_its_time_but_not_while_the_registry_was_away() {
    let (database, _admin) = furnished().await;
    let registry = open(&database).await;
    let (mut here, mut there) = (Speaker::new(&registry), Speaker::new(&registry));
    here.says(0, 0, 40).await;
    there.says(0, 0, 50).await;
    let pass = "UPDATE pgtenant.server_leases SET expires_at = expires_at - interval '1 minute'";
    // Nobody was heard: it was the registry.
    alter(&database, &format!("{pass}; UPDATE pgtenant.lease_books SET heard_at = heard_at - interval '1 minute'"))
        .await;
    assert_eq!(here.gets(40, 0, 90).await, 40);
    assert_eq!(there.gets(50, 0, 90).await, 50);
    // One was heard and the other was not.
    alter(&database, pass).await;
    assert_eq!(here.gets(40, 0, 90).await, 90);
    // It comes again with what it has, and gets no more until something is given back.
    assert_eq!(there.gets(50, 0, 60).await, 50);
    assert_eq!(here.gets(40, 0, 40).await, 40);
    assert_eq!(there.gets(20, 0, 60).await, 50);
}

#[tokio::test]
async fn a_bound_that_changes_or_goes_is_that_of_the_next_word() {
    let (database, _admin) = furnished().await;
    let registry = open(&database).await;
    let mut speaker = Speaker::new(&registry);
    speaker.says(0, 0, 90).await;
    alter(&database, "UPDATE pgtenant.servers SET max_connections = 4").await;
    let lowered = speaker.says(9, 9, 90).await;
    assert_eq!((lowered.most, speaker.part(&lowered)), (4, 9), "what is open counts until it is closed");
    alter(&database, "UPDATE pgtenant.servers SET max_connections = NULL").await;
    assert_eq!(speaker.says_in(9, 9, 9, 9).await, None);
    let left = database.admin.query("SELECT FROM pgtenant.server_leases", &[]).await.unwrap();
    assert!(left.is_empty());
}
