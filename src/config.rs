//! The configuration file and the environment: composes each module's own Config and checks it once.
