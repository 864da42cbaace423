//! Behaviour of the core as a whole: wishes go in, plans come out, a model of hosts carries out the steps.

mod admitting;
mod devices;
mod mixed;
mod mode_changes;
mod planning;
mod pools;
mod properties;
mod reloads;
mod world;
