//! What every store does, and what only the one in SQLite does.

mod contract;
mod oracle;
mod sqlite;
mod subject;
