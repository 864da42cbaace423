//! What every store does, what only the one in SQLite does, and what Tranche keeps in them.

mod contract;
mod fleet;
mod newer;
mod oracle;
mod parts;
mod repository;
mod samples;
mod server;
mod sqlite;
mod subject;
mod trails;
