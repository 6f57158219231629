//! One client session: checkout, relay, transaction state, pinning, checkin.

mod arrival;
mod attach;
mod buffer;
mod cancels;
mod client;
mod config;
mod context;
mod control;
mod end;
mod error;
mod fitness;
mod harmless;
mod held;
mod inquiry;
mod keys;
mod measure;
mod names;
mod place;
mod prepared;
mod probe;
mod profile;
mod refusal;
mod relay;
mod replay;
mod scan_down;
mod scan_up;
mod settings;
mod state;
mod thread;
mod ticket;

pub use arrival::Arrival;
pub use client::{ClientState, Visitor};
pub use config::Config;
pub use control::{Control, Doing};
pub use held::Held;
pub use keys::{CANCEL_PROOF_BYTES, CANCEL_QUESTION_BYTES, CancelKey, CancelKeys, Owner, cancel_proof};
pub use measure::{SessionTimes, Sessions, ThreadState};
pub use thread::Thread;
pub use ticket::{Begin, MakeRoom, Ticket};

pub(crate) use end::{say, say_after};
pub(crate) use error::shutdown;
