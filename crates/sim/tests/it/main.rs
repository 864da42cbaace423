//! The simulator, by what it shows.

mod departures;
mod falls;
mod rules;
mod scenarios;
mod stories;
