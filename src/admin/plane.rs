//! What the HTTP side asks of the process that it is part of.

use crate::registry::Registry;

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Clients cannot connect yet.
    Starting,
    /// Clients can connect.
    Serving,
    /// No client can connect any more, and those that are there are being ended.
    Draining,
}

/// The process, as far as it can be asked.
pub trait Plane: Send + Sync + 'static {
    /// Where it is in its life.
    fn phase(&self) -> Phase;

    /// Its registry; none before that is open.
    fn registry(&self) -> Option<Registry>;

    /// What the recorder of metrics holds, as Prometheus text.
    fn recorded(&self) -> String;
}
