//! Whether PostgreSQL itself would still let a client's role in, where the client gets by on connections that are open already.

use std::rc::Rc;
use std::time::Duration;

use super::error;
use super::place::Place;
use super::refusal::Refusal;
use super::ticket::Ticket;
use crate::backend::{Servers, Standings};
use crate::pool::Checkout;
use crate::tenant::Pooling;

/// Most connections that are closed because they do not answer, before a client is told that there is none.
const QUESTIONS_MAX: usize = 4;

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of the roles that a client needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fitness {
    /// They were looked at a moment ago.
    Known,
    /// The same, but not for much longer.
    Ageing,
    /// They have to be looked at.
    Unknown,
}

impl Ticket {
    /// What is known of this client's roles, where that holds for so long; zero never asks. A connection for replication is never another client's:
    /// its opening is answer enough, and not every one takes a question.
    pub(super) fn fitness(&self, standings: &Standings, interval: Duration) -> Fitness {
        if interval.is_zero() || self.replication().is_some() {
            return Fitness::Known;
        }
        match standings.age(&self.roles()) {
            Some(age) if age < interval / 2 => Fitness::Known,
            Some(age) if age < interval => Fitness::Ageing,
            _ => Fitness::Unknown,
        }
    }

    /// Those without which the client would not be let in: the one that opens its server connections, and the one that these switch to.
    fn roles(&self) -> Vec<&str> {
        let switched = self.placement.terms.pooling == Pooling::Shared && self.placement.role.is_some();
        [Some(self.server_user.as_str()), switched.then_some(self.claim.login.role.as_str())]
            .into_iter()
            .flatten()
            .collect()
    }

    /// A server connection of a pool whose roles were looked at not long ago: on this one, if need be.
    pub(super) async fn vouched_server(&self, place: &Place, interval: Duration) -> Result<Checkout<Servers>, Refusal> {
        let standings = place.pool.manager().standings();
        for _ in 0..QUESTIONS_MAX {
            let mut server = place.server(None, self.id).await.map_err(|failure| self.no_server(failure))?;
            if self.fitness(standings, interval) != Fitness::Unknown {
                return Ok(server);
            }
            match standings.ask(&mut server, &self.roles(), ANSWER_TIMEOUT).await {
                Ok(None) => return Ok(server),
                Ok(Some((role, unfit))) => {
                    server.checkin();
                    return Err(self.not_let_in(role, unfit));
                }
                // The next may be a new one, which is answer enough.
                Err(error) => {
                    tracing::info!(endpoint = %server.endpoint(), %error, "server connection does not say who may log in; closed");
                }
            }
        }
        Err(error::server_lost().into())
    }

    /// Has what is known looked at anew, on a connection that nobody needs now; who comes meanwhile does not wait for it.
    pub(super) fn refresh_fitness(&self, place: &Place) {
        let standings = Rc::clone(place.pool.manager().standings());
        let Some(mut server) = place.pool.try_checkout(&place.want) else { return };
        if !standings.begins_asking() {
            return server.checkin();
        }
        let roles: Vec<String> = self.roles().into_iter().map(str::to_owned).collect();
        tokio::task::spawn_local(async move {
            let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
            match standings.ask(&mut server, &roles, ANSWER_TIMEOUT).await {
                // Whoever comes next hears of one that may not.
                Ok(_) => server.checkin(),
                Err(error) => {
                    tracing::info!(endpoint = %server.endpoint(), %error, "server connection does not say who may log in; closed");
                }
            }
            standings.has_asked();
        });
    }
}
