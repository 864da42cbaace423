//! The simulator, by what it shows.

mod falls;
mod scenarios;
mod stories;
