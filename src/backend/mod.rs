//! The side that faces PostgreSQL: connecting, server connections, cancel, and the pools of them.
