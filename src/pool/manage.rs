//! What a pool asks of whoever makes its connections.

use std::future::Future;
use std::rc::Rc;

use super::account::Permits;
use super::share::Lane;

/// Makes and judges the connections of one pool.
pub trait Manage: 'static {
    /// A connection; dropping it closes it.
    type Conn: 'static;
    /// What a client asks for.
    type Want: Clone + 'static;
    /// Why a connection could not be made; several clients may be told.
    type Error: Clone + 'static;

    /// The class that is asked for: a connection serves only wants of its own class.
    fn class(&self, want: &Self::Want) -> u64;
    /// The affinity that is asked for: preferred, not required.
    fn affinity(&self, want: &Self::Want) -> u64;
    /// The lane in which whoever wants this waits, where a pool serves several owners.
    fn lane<'a>(&self, _want: &'a Self::Want) -> Option<&'a Rc<Lane>> {
        None
    }
    /// The class of a connection.
    fn class_of(&self, conn: &Self::Conn) -> u64;
    /// The affinity of a connection; may change while it is checked out.
    fn affinity_of(&self, conn: &Self::Conn) -> u64;
    /// Whether a connection can still be used: a look that never blocks, and costs no system call when nothing happened.
    fn is_alive(&self, conn: &mut Self::Conn) -> bool;
    /// Makes a connection, which keeps the permits until it is gone. Must end in bounded time; the pool sets no time-out of its own.
    fn connect(
        &self,
        want: &Self::Want,
        permits: Permits,
    ) -> impl Future<Output = Result<Self::Conn, Self::Error>> + 'static;
    /// Whether an error says that the server is in trouble (back off, tell everyone) rather than that it refused this
    /// one want (tell only who asked).
    fn counts_against_server(&self, error: &Self::Error) -> bool;
}
