//! One client session: checkout, relay, transaction state, pinning, checkin.

mod arrival;
mod attach;
mod buffer;
mod cancels;
mod config;
mod context;
mod control;
mod end;
mod error;
mod keys;
mod place;
mod prepared;
mod relay;
mod scan_down;
mod scan_up;
mod thread;

pub use arrival::{Arrival, Begin, MakeRoom, Ticket};
pub use config::Config;
pub use control::{Control, Doing};
pub use keys::{CancelKey, CancelKeys, Owner};
pub use thread::Thread;

pub(crate) use end::say;
pub(crate) use error::shutdown;
