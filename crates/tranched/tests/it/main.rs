//! The daemon from outside: HTTP over its socket, an engine in memory, and a host that behaves.

mod bad_input;
mod catalogue;
mod cluster;
mod desk;
mod etcd;
mod fake_machine;
mod faults;
mod guarding;
mod homogeneity;
mod kill_walk;
mod leading;
mod losses;
mod machines;
mod matrix;
mod members;
mod openapi;
mod patience;
mod process;
mod race;
mod seats;
mod served;
mod stores;
mod stories;
mod stream;
mod told;
mod versions;
