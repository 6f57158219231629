//! The commands as programs and people meet them: what they print, how they end, and what a broken-off one leaves to the next.

mod crash;
mod create;
mod daemon;
mod import;
mod life;
mod portrait;
mod settings;
mod shell;
pub(crate) mod site;
mod usage;
