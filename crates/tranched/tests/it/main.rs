//! The daemon from outside: HTTP over its socket, an engine in memory, and a host that behaves.

mod openapi;
