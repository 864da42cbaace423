//! The simulator, by what it shows.

mod departures;
mod documents;
mod falls;
mod faults;
mod fencing;
mod known;
mod members;
mod moves;
mod operations;
mod playing;
mod refusals;
mod rules;
mod scenarios;
mod stories;
mod versions;
