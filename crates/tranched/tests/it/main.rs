//! The daemon from outside: HTTP over its socket, an engine in memory, and a host that behaves.

mod fake_machine;
mod kill_walk;
mod openapi;
