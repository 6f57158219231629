//! What becomes of clients when something else breaks: a file per subject.

mod log;
mod served;
