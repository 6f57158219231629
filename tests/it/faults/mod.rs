//! What becomes of clients when something else breaks: a file per subject.

mod descriptors;
mod frozen;
mod log;
mod peers;
mod registry;
mod served;
mod silent;
