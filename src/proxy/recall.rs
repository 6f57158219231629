//! What clients of a thread said of late when they began, and what that made them: who says the same again, as a pool of connections does,
//! need not be read anew.
//!
//! All that a claim is made from is compared: the words, the configuration by its address, and (by whoever asks, since it takes a look-up) the
//! tenant. Only who has proved itself is remembered, and everybody proves itself anew.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rapidhash::fast::RapidHasher;

use super::Live;
use crate::frontend::Claim;
use crate::session::Ticket;
use crate::tenant::Placement;

/// Clients that are remembered; each has one place where it may be.
const PLACES: usize = 64;
/// Longer words are read each time,
const WORDS_BYTES_MAX: usize = 1024;
/// and more of them.
const WORDS_MAX: usize = 32;

/// What is remembered.
pub(super) struct Recall(Mutex<Vec<Option<Remembered>>>);

struct Remembered {
    parameters: Vec<(String, String)>,
    live: Arc<Live>,
    known: Arc<Known>,
}

/// A client that said the same, and its place, which its tenant had as the claim has it.
pub(super) struct Known {
    pub(super) claim: Arc<Claim>,
    pub(super) placement: Arc<Placement>,
    server_user: Box<str>,
    /// The thread of its placement.
    pub(super) home: usize,
}

impl Known {
    /// Whether a client has the same placement and the same login there.
    pub(super) fn is_of(&self, ticket: &Ticket) -> bool {
        Arc::ptr_eq(&self.placement, &ticket.placement) && *self.server_user == *ticket.server_user
    }
}

impl Default for Recall {
    fn default() -> Self {
        Self(Mutex::new((0..PLACES).map(|_| None).collect()))
    }
}

impl Recall {
    /// What a client is that says this, if it can be known without reading it.
    pub(super) fn get(&self, parameters: &[(String, String)], live: &Arc<Live>) -> Option<Arc<Known>> {
        let places = self.lock();
        let found = places[place(parameters)].as_ref()?;
        (Arc::ptr_eq(&found.live, live) && found.parameters == parameters).then(|| Arc::clone(&found.known))
    }

    /// Remembers a client that has proved itself, if a single name led to its tenant.
    pub(super) fn keep(&self, parameters: Vec<(String, String)>, live: &Arc<Live>, ticket: &Ticket, home: usize) {
        let Ticket { claim, placement, tenant, server_user, .. } = ticket;
        let bytes: usize = parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
        if claim.name.is_none()
            || !Arc::ptr_eq(&claim.tenant, tenant)
            || bytes > WORDS_BYTES_MAX
            || parameters.len() > WORDS_MAX
        {
            return;
        }
        let known = Arc::new(Known {
            claim: Arc::clone(claim),
            placement: Arc::clone(placement),
            server_user: server_user.as_str().into(),
            home,
        });
        let place = place(&parameters);
        self.lock()[place] = Some(Remembered { parameters, live: Arc::clone(live), known });
    }

    /// Forgets everybody: what they said is of no use after a change of the configuration.
    pub(super) fn clear(&self) {
        self.lock().iter_mut().for_each(|place| *place = None);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Remembered>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where these words may be. Whoever finds two that share a place gains nothing: one of them is read anew.
fn place(parameters: &[(String, String)]) -> usize {
    let mut hasher = RapidHasher::default();
    parameters.hash(&mut hasher);
    usize::try_from(hasher.finish() % PLACES as u64).unwrap_or(0)
}
