//! The daemon from outside: HTTP over its socket, an engine in memory, and a host that behaves.

mod bad_input;
mod catalogue;
mod desk;
mod fake_machine;
mod faults;
mod kill_walk;
mod matrix;
mod openapi;
mod patience;
mod process;
mod served;
mod stores;
mod stories;
mod stream;
