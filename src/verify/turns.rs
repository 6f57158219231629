//! The two tenants in turn on the narrow way: each with a session that lasts, where both can be there at one time, else with one for each turn.

use super::error::Error;
use super::scene::{Probe, Scene};
use super::session::Session;

/// The sessions of the two, as far as they have begun.
pub(super) struct Turns<'a> {
    scene: &'a Scene,
    sessions: [Option<Session>; 2],
}

impl<'a> Turns<'a> {
    pub(super) const fn new(scene: &'a Scene) -> Self {
        Self { scene, sessions: [None, None] }
    }

    /// The turn of one of them.
    pub(super) async fn of(&mut self, probe: &Probe) -> Result<&mut Session, Error> {
        let at = usize::from(probe.id == self.scene.thief.id);
        if self.scene.is_one_at_a_time()
            && let Some(other) = self.sessions[1 - at].take()
        {
            other.leave().await;
        }
        let session = match self.sessions[at].take() {
            Some(session) => session,
            None => self.scene.narrow_session(probe).await?,
        };
        Ok(self.sessions[at].insert(session))
    }
}
