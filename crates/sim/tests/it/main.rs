//! The simulator, by what it shows.

mod departures;
mod falls;
mod scenarios;
mod stories;
